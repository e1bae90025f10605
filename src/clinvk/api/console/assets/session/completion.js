// Completes `@` and letters of a path in a prompt to the path of a file of the project.

import { html, useRef, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { visible } from "../base/ui.js";

const WORD = /(?:^|\s)@([^\s@]*)$/;
const DELAY_MS = 120;
const SHOWN = 8;

/**
 * Complete files of `directory` in the text area of the ref `area`; `onChange` gets the new text. Return the `list` to show,
 * attributes of the text area, `update` for after each input, and `onKeyDown`, which returns whether a key was used.
 */
export function useFileCompletion(area, directory, onChange) {
  const [found, setFound] = useState(null);
  const request = useRef(0);

  function close() {
    request.current += 1;
    setFound(null);
  }

  async function update() {
    const { value, selectionEnd: end } = area.current;
    const word = value.slice(0, end).match(WORD)?.[1];
    close();
    if (word === undefined || !directory) return;
    const number = request.current;
    await new Promise((resolve) => { setTimeout(resolve, DELAY_MS); });
    if (number !== request.current) return;
    const { files } = await get("files", { directory, search: word, limit: SHOWN }).catch(() => ({ files: [] }));
    if (number === request.current && files.length) setFound({ files, index: 0, start: end - word.length, end });
  }

  function pick(file) {
    const { value } = area.current;
    const before = `${value.slice(0, found.start)}${file} `;
    close();
    onChange(before + value.slice(found.end));
    requestAnimationFrame(() => area.current?.setSelectionRange(before.length, before.length));
  }

  function onKeyDown(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!found || event.isComposing) return false;
    const { files, index } = found;
    if (step) setFound({ ...found, index: (index + step + files.length) % files.length });
    else if (["Enter", "Tab"].includes(event.key) && !event.shiftKey && !event.ctrlKey && !event.metaKey) pick(files[index]);
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
    <div class="completions" role="listbox" id="completions" aria-label="Files">${found.files.map((file, index) => html`
      <div role="option" id=${`completion-${index}`} aria-selected=${index === found.index}
        onMouseDown=${(event) => { event.preventDefault(); pick(file); }}>${visible(file)}</div>`)}</div>`;
  return { list, attributes, update, onKeyDown };
}
