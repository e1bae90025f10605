// A button that copies a text. Browsers have a clipboard over TLS and on loopback only.

import { html, useState } from "../vendor/preact.js";

const SHOWN_MS = 2_000;

/** `text` is the text, or a function that returns it. */
export function Copy({ text, label = "Copy" }) {
  const [isCopied, setCopied] = useState(false);
  async function copy() {
    await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
    setCopied(true);
    setTimeout(() => setCopied(false), SHOWN_MS);
  }
  return navigator.clipboard && html`
    <button class="small copy" type="button" onClick=${copy}>${isCopied ? "Copied" : label}</button>`;
}
