// Keeps the focus near its place: when what has it disappears, the nearest report, heading or prompt box gets it.

const FIELD = matchMedia("(pointer: coarse)").matches ? "" : ", .composer textarea"; // it would open the keyboard of a phone
const PLACES = [".result[role=status]", `h1, h2[tabindex], .screen > [role=alert]${FIELD}`];
let path = []; // what had the focus last, and its ancestors

function recover() {
  if (document.activeElement !== document.body || path[0]?.isConnected) return;
  for (const ancestor of [...path, document].filter((each) => each.isConnected)) {
    const place = PLACES.map((selector) => ancestor.querySelector(selector)).find(Boolean);
    if (!place) continue;
    if (place.tabIndex < 0) place.tabIndex = -1; // a heading gets no focus otherwise
    place.focus({ preventScroll: true });
    return;
  }
}

/** Focus the heading of a screen that has been opened, as soon as the heading is there. */
export function focusScreen() {
  if (!document.activeElement.matches("body, nav *")) return;
  document.activeElement.blur();
  path = [];
  recover();
}

document.addEventListener("focusin", (event) => { path = event.composedPath(); });
new MutationObserver(recover).observe(document.body, { childList: true, subtree: true });
