// Completes a prompt: `@` and letters of a path to a file of the project, `/` at the beginning to a command of the agent.

import { html, useRef, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { visible } from "../base/ui.js";

const FILE = /(?:^|\s)@([^\s@]*)$/;
const COMMAND = /^\/(\S*)$/;
const DELAY_MS = 120;
const SHOWN = 8;

/**
 * Complete files of `directory` and `commands` in the text area of the ref `area`; `onChange` gets the new text. Return the
 * `list` to show, attributes of the text area, `update` for after each input, and `onKeyDown`, which returns whether a key
 * was used.
 */
export function useCompletion(area, directory, commands, onChange) {
  const [found, setFound] = useState(null);
  const request = useRef(0);

  function close() {
    request.current += 1;
    setFound(null);
  }

  async function filesWith(search) {
    const number = request.current;
    await new Promise((resolve) => { setTimeout(resolve, DELAY_MS); });
    if (number !== request.current || !directory) return [];
    const { files } = await get("files", { directory, search, limit: SHOWN }).catch(() => ({ files: [] }));
    return number === request.current ? files : [];
  }

  async function update() {
    const { value, selectionEnd: end } = area.current;
    const command = value.slice(0, end).match(COMMAND)?.[1];
    const word = command ?? value.slice(0, end).match(FILE)?.[1];
    close();
    if (word === undefined) return;
    const names = command === undefined ? await filesWith(word)
      : commands.filter((name) => name.startsWith(command)).slice(0, SHOWN);
    if (names.length) setFound({ names, index: 0, start: end - word.length, end });
  }

  function pick(name) {
    const { value } = area.current;
    const before = `${value.slice(0, found.start)}${name} `;
    close();
    onChange(before + value.slice(found.end));
    requestAnimationFrame(() => area.current?.setSelectionRange(before.length, before.length));
  }

  function onKeyDown(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!found || event.isComposing) return false;
    const { names, index } = found;
    if (step) setFound({ ...found, index: (index + step + names.length) % names.length });
    else if (["Enter", "Tab"].includes(event.key) && !event.shiftKey && !event.ctrlKey && !event.metaKey) pick(names[index]);
    else if (event.key === "Escape") close();
    else return false;
    event.preventDefault();
    return true;
  }
  const attributes = {
    "aria-autocomplete": "list",
    ...(found && { "aria-controls": "completions", "aria-activedescendant": `completion-${found.index}` }),
    onBlur: close,
  };
  const list = found && html`
    <div class="completions" role="listbox" id="completions" aria-label="Completions">${found.names.map((name, index) => html`
      <div role="option" id=${`completion-${index}`} aria-selected=${index === found.index}
        onMouseDown=${(event) => { event.preventDefault(); pick(name); }}>${visible(name)}</div>`)}</div>`;
  return { list, attributes, update, onKeyDown };
}
