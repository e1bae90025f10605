// The project of a new session: a directory that was used before, or one that is picked from the server's.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { nameOf } from "../base/format.js";
import { live } from "../base/live.js";
import { Problem, SETTLE_MS, Select, TextField, useAction, useLoaded, useStored, visible } from "../base/ui.js";

const MAX_REMEMBERED = 12;
const OTHER = "other";

const labelOf = (path, branch) => (branch ? `${nameOf(path)} (${branch})` : nameOf(path));

/** Return `{path, branch}` of a directory, by default of the one where prompts work; null until it is known. */
export function useDirectory(path, isNeeded = true) {
  const { value, isCurrent } = useLoaded(async () => isNeeded && get("directories", { path }), [path, isNeeded]);
  return isCurrent && value ? value : null;
}

/** Return the directories that were used in this browser, newest first, and the function that adds one. */
export function useRemembered() {
  const [known, setKnown] = useStored("directories", []);
  const add = (path) => path && setKnown([path, ...known.filter((each) => each !== path)].slice(0, MAX_REMEMBERED));
  return [known, add];
}

/** A choice of the known projects; the last opens the picker. `value` is a path, or empty for the default. */
export function Project({ value, onChange }) {
  const own = useDirectory("");
  const [remembered] = useRemembered();
  const [isPicking, setPicking] = useState(false);
  const { value: { projects } = { projects: [] } } = useLoaded(() => get("projects"));
  const paths = [...projects.map((project) => project.directory), ...remembered, ...live.me.limits.workdirs ?? [], value];
  const branchOf = (path) => projects.find((project) => project.directory === path)?.branch;
  const known = [...new Set(paths.filter(Boolean))].map((path) => [path, labelOf(path, branchOf(path))]);
  const choose = (path) => { setPicking(false); onChange(path); };
  return html`
    <${Select} label="Project" value=${isPicking ? OTHER : value} onChange=${(path) => (path === OTHER ? setPicking(true) : choose(path))}
      options=${[["", own ? labelOf(own.path, own.branch) : "Default directory"],
        ...known.filter(([path]) => path !== own?.path || path === value), [OTHER, "Another directory…"]]} />
    ${isPicking && html`<${Picker} start=${value || own?.path || "~"} onChoose=${choose} onClose=${() => setPicking(false)} />`}`;
}

/** A field for the path of a directory, with the directories that continue the path. */
function Picker({ start, onChoose, onClose }) {
  const [path, setPath] = useState(`${start.replace(/\/+$/, "")}/`);
  const [choose, , error] = useAction(async () => onChoose((await get("directories", { path })).path));
  const field = useRef();
  const folder = path.replace(/[^/]*$/, "") || path;
  const { value, error: isUnknown } = useLoaded(() => get("directories", { path: folder }), [folder], SETTLE_MS);
  const found = isUnknown ? null : value;
  const names = found?.directories.filter((name) => name.startsWith(path.slice(folder.length))) ?? [];
  useEffect(() => field.current.querySelector("input").focus(), []);

  function open(next) {
    setPath(next);
    field.current.querySelector("input").focus();
  }
  function onKeyDown(event) {
    if (event.key === "Escape") onClose();
    else if (event.key === "Enter" && event.target.matches("input")) choose();
    else return;
    event.preventDefault();
  }
  return html`
    <div class="picker" role="group" aria-label="Another directory" ref=${field} onKeyDown=${onKeyDown}>
      <div class="options">
        <${TextField} class="directory" label="Directory" placeholder="/path/of/a/project" value=${path} onChange=${setPath} />
        <button type="button" onClick=${choose}>Use this directory</button>
        <button type="button" onClick=${onClose}>Cancel</button></div>
      <${Problem} error=${error} />
      <ul class="directories" aria-label="Directories">
        ${found && html`<li><button type="button" class="small" aria-label="Parent directory"
          onClick=${() => open(found.path.replace(/[^/]+\/?$/, ""))}>..</button></li>`}
        ${names.map((name) => html`<li><button type="button" class="small"
          onClick=${() => open(`${folder.replace(/\/?$/, "/")}${name}/`)}>${visible(name)}</button></li>`)}</ul>
    </div>`;
}
