// Completes a prompt: `@` and letters of a path to a file of the project, `/` at the beginning to a command of the agent.

import { html, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { SETTLE_MS, useLoaded, visible } from "../base/ui.js";

const FILE = /(?:^|\s)@([^\s@]*)$/;
const COMMAND = /^\/(\S*)$/;
const SHOWN = 8;

/**
 * Complete files of `directory` and `commands` in the text area of the ref `area`; `onChange` gets the new text. Return the
 * `list` to show, attributes of the text area, `update` for after each input, and `onKeyDown`, which returns whether a key
 * was used.
 */
export function useCompletion(area, directory, commands, onChange) {
  const [place, setPlace] = useState(null); // of the word: `{word, isCommand, end}`, and the `index` of the name that is chosen
  const { word, isCommand } = place ?? {};
  const search = directory && place && !isCommand ? word : null;
  const load = async () => (search === null ? [] : (await get("files", { directory, search, limit: SHOWN })).files);
  const { value: files, isCurrent } = useLoaded(load, [directory, search], SETTLE_MS);
  const names = isCommand ? commands.filter((name) => name.startsWith(word)).slice(0, SHOWN) : isCurrent ? files : [];
  const close = () => setPlace(null);

  function update() {
    const { value: text, selectionEnd: end } = area.current;
    const command = text.slice(0, end).match(COMMAND)?.[1];
    const typed = command ?? text.slice(0, end).match(FILE)?.[1];
    setPlace(typed === undefined ? null : { word: typed, isCommand: command !== undefined, end, index: 0 });
  }

  function pick(name) {
    const { value: text } = area.current;
    const before = `${text.slice(0, place.end - word.length)}${name} `;
    close();
    onChange(before + text.slice(place.end));
    requestAnimationFrame(() => area.current?.setSelectionRange(before.length, before.length));
  }

  function onKeyDown(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!names.length || event.isComposing) return false;
    const { index } = place;
    if (step) setPlace({ ...place, index: (index + step + names.length) % names.length });
    else if (["Enter", "Tab"].includes(event.key) && !event.shiftKey && !event.ctrlKey && !event.metaKey) pick(names[index]);
    else if (event.key === "Escape") close();
    else return false;
    event.preventDefault();
    return true;
  }
  const attributes = {
    "aria-autocomplete": "list",
    ...(names.length > 0 && { "aria-controls": "completions", "aria-activedescendant": `completion-${place.index}` }),
    onBlur: close,
  };
  const list = names.length > 0 && html`
    <div class="completions" role="listbox" id="completions" aria-label="Completions">${names.map((name, index) => html`
      <div role="option" id=${`completion-${index}`} aria-selected=${index === place.index}
        onMouseDown=${(event) => { event.preventDefault(); pick(name); }}>${visible(name)}</div>`)}</div>`;
  return { list, attributes, update, onKeyDown };
}
