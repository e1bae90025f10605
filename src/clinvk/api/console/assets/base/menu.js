// A button that opens a menu of actions. The arrow keys move in the menu; Esc and a click elsewhere close it.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { useEvent } from "./ui.js";

const STEPS = { ArrowDown: 1, ArrowUp: -1 };

/** `items` are `{label, run, isDanger}`; items that are false are left out. */
export function Menu({ label, items }) {
  const [isOpen, setOpen] = useState(false);
  const menu = useRef();
  const buttons = () => [...menu.current.querySelectorAll("[role=menuitem]")];

  function close() {
    setOpen(false);
    menu.current.querySelector("[aria-haspopup]").focus();
  }
  useEvent(window, "pointerdown", ({ target }) => menu.current.contains(target) || setOpen(false), true);
  useEffect(() => { if (isOpen) buttons()[0].focus(); }, [isOpen]);

  function onKeyDown(event) {
    const all = isOpen ? buttons() : [];
    const index = all.indexOf(document.activeElement);
    const next = { Home: 0, End: all.length - 1 }[event.key] ?? (index + STEPS[event.key] + all.length) % all.length;
    if (event.key === "Escape" && isOpen) close();
    else if (event.key === "ArrowDown" && !isOpen) setOpen(true);
    else if (all[next]) all[next].focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  const leave = ({ relatedTarget }) => relatedTarget && !menu.current.contains(relatedTarget) && setOpen(false);
  return html`
    <div class="menu-box" ref=${menu} onKeyDown=${onKeyDown} onFocusOut=${leave}>
      <button type="button" class="icon" aria-haspopup="menu" aria-expanded=${isOpen} aria-label=${label} title=${label}
        onClick=${() => setOpen(!isOpen)}>⋯</button>
      ${isOpen && html`<div class="popup" role="menu" aria-label=${label}>${items.filter(Boolean).map((item) => html`
        <button type="button" role="menuitem" tabindex="-1" class=${item.isDanger ? "danger" : ""}
          onClick=${() => { close(); item.run(); }}>${item.label}</button>`)}</div>`}
    </div>`;
}
