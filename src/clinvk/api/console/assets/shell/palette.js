// The palette: screens, actions, projects and sessions by their names.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get, patch } from "../base/api.js";
import { nameOf, titleOf } from "../base/format.js";
import { Icon } from "../base/icons.js";
import { live } from "../base/live.js";
import { address, navigate } from "../base/router.js";
import { projectOf, stateOf } from "../screens/rows.js";
import { THEMES, setTheme } from "../base/theme.js";
import { Problem, SETTLE_MS, TextField, useAction, useLoaded, visible } from "../base/ui.js";
import { MENU, SCREENS } from "./screens.js";
import { goToWaiting, showShortcuts } from "./shortcuts.js";

const FOUND = 8;
const STEPS = { ArrowDown: 1, ArrowUp: -1 };

const open = (path) => () => navigate(path);

/** Return what can be chosen apart from sessions: `{icon, label, detail, before, run}`; `before` may fail. */
function fixedChoices(sessionId, projects) {
  const screens = Object.entries({ ...MENU, runs: "sessions" });
  return [
    { icon: "plus", label: "New session", run: open("new") },
    live.pending.length > 0 && { icon: "waiting", label: "Next session that waits", run: goToWaiting },
    sessionId && {
      icon: "archive", label: "Archive this session", before: () => patch(`sessions/${sessionId}`, { archived: true }),
      run: open("sessions"),
    },
    ...screens.map(([name, icon]) => ({ icon, label: SCREENS[name].title, run: open(name) })),
    { icon: "keyboard", label: "Keyboard shortcuts", run: showShortcuts },
    ...Object.entries(THEMES).map(([theme, label]) => ({ icon: "theme", label, run: () => setTheme(theme) })),
    ...projects.flatMap(({ directory, name }) => [
      { icon: "plus", label: `New session in ${name}`, detail: directory, run: open(address("new", { directory }).slice(2)) },
      { icon: "folder", label: `Sessions of ${name}`, detail: directory, run: open(address("sessions", { project: directory }).slice(2)) },
    ]),
  ].filter(Boolean);
}

const choiceOf = (session) => ({
  icon: stateOf(session), label: titleOf(session), detail: nameOf(projectOf(session)), run: open(`session/${session.id}`),
});

/** Return whether a choice has all words of a text. */
const matches = ({ label, detail = "" }, text) => text.toLowerCase().split(/\s+/)
  .every((word) => `${label} ${detail}`.toLowerCase().includes(word));

/** `sessionId` is the session that is open, if any. */
export function Palette({ sessionId, onClose }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const dialog = useRef();
  const { value: { projects } = { projects: [] } } = useLoaded(() => get("projects"));
  const search = () => get("sessions", { search: text.trim(), limit: FOUND });
  const { value: { sessions } = { sessions: [] }, error, isCurrent } = useLoaded(search, [text], SETTLE_MS);
  const isFound = (choice) => matches(choice, text);
  const known = sessions.map(choiceOf);
  const choices = [...fixedChoices(sessionId, projects).filter(isFound), ...(isCurrent ? known : known.filter(isFound))];
  const chosen = Math.min(at, choices.length - 1);
  useEffect(() => dialog.current.showModal(), []);
  useEffect(() => dialog.current.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" }), [chosen]);

  const [choose, , failure] = useAction(async (choice) => {
    await choice.before?.();
    dialog.current.close(); // gives the focus back, before the screen changes
    choice.run();
  });
  function onKeyDown(event) {
    const step = STEPS[event.key];
    if (step && choices.length) setAt((chosen + step + choices.length) % choices.length);
    else if (event.key === "Enter" && choices[chosen]) choose(choices[chosen]);
    else return;
    event.preventDefault();
  }
  return html`
    <dialog class="palette" aria-label="Palette" ref=${dialog} onClose=${onClose}
      onClick=${({ target }) => target === dialog.current && dialog.current.close()}>
      <${TextField} label="Search screens, projects and sessions" placeholder="Search screens, projects and sessions"
        role="combobox" aria-expanded="true" aria-controls="choices" aria-activedescendant=${`choice-${chosen}`}
        value=${text} onChange=${(typed) => { setText(typed); setAt(0); }} onKeyDown=${onKeyDown} />
      <${Problem} error=${failure ?? error} />
      <div id="choices" role="listbox" aria-label="Choices">${choices.map((choice, index) => html`
        <div role="option" id=${`choice-${index}`} aria-selected=${index === chosen} onClick=${() => choose(choice)}>
          <${Icon} name=${choice.icon} /><span class="title">${visible(choice.label)}</span>
          <span class="quiet">${visible(choice.detail)}</span></div>`)}</div>
      <p class="quiet" role="status">${!error && (isCurrent ? !choices.length && "Nothing found." : "Searching…")}</p>
    </dialog>`;
}
