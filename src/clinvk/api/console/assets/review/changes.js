// The button of a session that shows its changes beside the conversation, or over it if the window is narrow.

import { html, useRef, useState } from "../vendor/preact.js";
import { useLoaded, useStored } from "../base/ui.js";

const WIDE = "(min-width: 1200px)";

/** `turns` are those of the conversation. Whether the panel is open is remembered for wide windows. */
export function Changes({ session, turns }) {
  const [isKept, setKept] = useStored("changes", false);
  const [isOpen, setOpen] = useState(isKept && matchMedia(WIDE).matches);
  const button = useRef();
  const { value } = useLoaded(async () => isOpen && import("./changes-panel.js"), [isOpen]);
  function toggle(isShown) {
    setOpen(isShown);
    if (matchMedia(WIDE).matches) setKept(isShown);
    if (!isShown) button.current.focus();
  }
  return html`
    <button type="button" class="small" ref=${button} aria-expanded=${isOpen} onClick=${() => toggle(!isOpen)}>Changes</button>
    ${isOpen && value && html`<${value.ChangesPanel} key=${session.id} session=${session} turns=${turns} onClose=${() => toggle(false)} />`}`;
}
