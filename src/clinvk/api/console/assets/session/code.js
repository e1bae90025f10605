// Commands and outputs: a command breaks only where it is unambiguous, a long output shows its head and its tail.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { plural } from "../base/format.js";
import { Clipped, Copy, Loaded, visible } from "../base/ui.js";

const HEAD = { lines: 20, chars: 2_500 };
const TAIL = { lines: 10, chars: 1_500 };
const RAW_CHARS = 200_000;

/** A command, whose lines are marked, and break after spaces and slashes: on a phone, elsewhere they scroll. */
export const Command = ({ text, limit = 4_000 }) => html`
  <div class="copyable"><pre class="code command" tabindex="0" aria-label="Command"><${Clipped} text=${text} limit=${limit}
    render=${lines} /></pre><${Copy} text=${text} /></div>`;

const lines = (text) => text.split("\n").map((line, index, all) => html`
  <span class="command-line">${line.split(/(?<=[/ ])/).map((part) => html`<span>${visible(part)}</span>`)}${index < all.length - 1 && "\n"}</span>`);

/** The output of a tool. `isCut`: the text lacks its middle, which `load` returns with the rest. */
export function Output({ text, isCut, load }) {
  const [isWhole, setWhole] = useState(false); // in a dialog
  const all = text.split("\n");
  const head = all.slice(0, HEAD.lines).join("\n").slice(0, HEAD.chars);
  const tail = all.slice(-TAIL.lines).join("\n").slice(-TAIL.chars);
  const isLong = isCut || all.length > HEAD.lines + TAIL.lines || text.length > HEAD.chars + TAIL.chars;
  const middle = isLong ? text.slice(head.length, text.length - tail.length) : "";
  const hidden = middle.split("\n").length - 2 + (isCut?.lines ?? 0); // without the line feeds at both ends
  const label = hidden > 0 ? `${plural(hidden, "line")} hidden` : `${plural(middle.length + (isCut?.chars ?? 0), "character")} hidden`;
  return html`
    <div class="copyable output">
      ${!isLong
        ? html`<pre class="code" tabindex="0" aria-label="Output"><${Clipped} text=${text} limit=${RAW_CHARS} /></pre>`
        : html`<pre class="code" tabindex="0" aria-label="Beginning of the output">${visible(head)}</pre>
            <button type="button" class="small hidden-lines" onClick=${() => setWhole(true)}>${label}</button>
            <pre class="code" tabindex="0" aria-label="End of the output">${visible(tail)}</pre>`}
      ${!isCut && html`<${Copy} text=${text} />`}
      ${isWhole && html`<${Whole} load=${isCut ? load : async () => text} onClose=${() => setWhole(false)} />`}
    </div>`;
}

/** The whole text in a dialog. */
function Whole({ load, onClose }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`
    <dialog class="whole" ref=${dialog} aria-label="Whole output" onClose=${onClose}>
      <${Loaded} load=${load}>${(text) => html`
        <pre class="code" tabindex="0" aria-label="Output"><${Clipped} text=${text} limit=${RAW_CHARS} /></pre>
        <div class="buttons"><${Copy} text=${text} /><span class="gap"></span></div>`}<//>
      <form method="dialog"><button class="primary">Close</button></form>
    </dialog>`;
}
