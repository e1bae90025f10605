// The navigation: beside the screen, with the projects in a wide window; a bar at the bottom on a phone.

import { html, useRef, useState } from "../vendor/preact.js";
import { Icon } from "../base/icons.js";
import { useEvent, useLoaded } from "../base/ui.js";
import { showShortcuts } from "./shortcuts.js";
import { MENU, SCREENS } from "./screens.js";

const IN_BAR = 2; // on a phone; the others are in its menu
const WIDE = matchMedia("(min-width: 62.5rem)");

export function Navigation({ section, sessionId, pending, me, onPalette, onLogout }) {
  const link = ([name, icon]) => html`
    <a href=${`#/${name}`} aria-current=${section === name ? "page" : undefined}>
      <${Icon} name=${icon} /><span>${SCREENS[name].title}</span>
      ${name === "" && pending > 0 && html`<span class="badge" aria-label=${`${pending} waiting`}>${pending}</span>`}</a>`;
  const others = html`
    <button type="button" class="link" onClick=${onPalette}><${Icon} name="search" />Palette <kbd>Ctrl K</kbd></button>
    <a href="docs"><${Icon} name="docs" />API reference</a>
    <button type="button" class="link" onClick=${showShortcuts}><${Icon} name="keyboard" />Shortcuts</button>
    ${me.login_required && html`
      <button type="button" class="link" onClick=${onLogout}><${Icon} name="logout" />Log out ${me.key}</button>`}`;
  const screens = Object.entries(MENU);
  return html`
    <nav aria-label="Screens">
      <a class="brand" href="#/"><img src="console/icon.svg" alt="" width="20" height="20" />clinvk</a>
      <a class="button new" href="#/new"><${Icon} name="plus" /><span>New<span class="object"> session</span></span></a>
      <div class="screens">${screens.map(link)}</div>
      <${WideOnly} sessionId=${sessionId} />
      <div class="others">${others}</div>
      <${More} key=${section} isCurrent=${screens.findIndex(([name]) => name === section) >= IN_BAR}>
        ${screens.slice(IN_BAR).map(link)}${others}<//>
    </nav>`;
}

/** The projects, which only a wide window has room for. */
function WideOnly({ sessionId }) {
  const [isWide, setWide] = useState(WIDE.matches);
  useEvent(WIDE, "change", () => setWide(WIDE.matches));
  const { value } = useLoaded(async () => isWide && import("./projects.js"), [isWide]);
  return html`<div class="projects">${isWide && value && html`<${value.Projects} sessionId=${sessionId} />`}</div>`;
}

/** The menu of a phone. A choice, a tap elsewhere and Esc close it. */
function More({ isCurrent, children }) {
  const menu = useRef();
  const close = () => { menu.current.open = false; };
  useEvent(window, "pointerdown", ({ target }) => menu.current.contains(target) || close(), true);
  useEvent(window, "keydown", ({ key }) => {
    if (key !== "Escape" || !menu.current.open) return;
    close();
    menu.current.firstElementChild.focus();
  }, true);
  return html`
    <details class="menu" ref=${menu}>
      <summary aria-current=${isCurrent || undefined}><${Icon} name="more" /><span>More</span></summary>
      <div class="popup" onClick=${close}>${children}</div>
    </details>`;
}
