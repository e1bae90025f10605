// The screens by the fragment of the address, such as `#/session/0d3ac1f6` or `#/sessions?search=parser`. Back and forward
// return to the place where a screen was left.

import { useState } from "../vendor/preact.js";
import { useEvent } from "./ui.js";

const RESTORE_MS = 3_000;
const ENDS_AT_BOTTOM = /^#\/(session|run)\//; // a transcript shows its end, not the place where it was left
const CHANGED = "clinvk-query";

const split = () => location.hash.replace(/^#\/?/, "").split("?");

/** Decode a part of the address. One that is malformed stays as it is. */
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

/** Take the token from the address, so that it stays in no history. Return null if there is none. */
export function takeToken() {
  const token = /^#login=(.+)$/.exec(location.hash)?.[1];
  if (!token) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return decoded(token);
}

/** Return the parts of the current path. */
const currentRoute = () => split()[0].split("/").map(decoded);
const parseQuery = () => Object.fromEntries(new URLSearchParams(split()[1]));

/** Return the address of a screen, with the parameters that have a value. */
export function address(path, query = {}) {
  const set = Object.entries(query).filter(([, value]) => value);
  return `#/${path}${set.length ? `?${new URLSearchParams(set)}` : ""}`;
}

export const navigate = (path) => { location.hash = `#/${path}`; };

/** Return the value of a function of the address, and render again when the address changes. */
function useAddress(read) {
  const [value, setValue] = useState(read);
  useEvent(window, "hashchange", () => setValue(read()));
  useEvent(window, CHANGED, () => setValue(read()));
  return value;
}

export const useRoute = () => useAddress(currentRoute);

/** Return the parameters of the current address, and the function that changes some within the same entry of the history. */
export function useQuery() {
  const query = useAddress(parseQuery);
  return [query, (changed) => {
    history.replaceState(history.state, "", address(split()[0], { ...parseQuery(), ...changed }));
    window.dispatchEvent(new Event(CHANGED));
  }];
}

/** Where each entry of the history was left: `{top, link}`. */
const places = new Map();
let entry = addEntry(0);
let { depth } = history.state;

/** Name the current entry of the history, unless it has a name. `depth` is the number of screens before it. */
function addEntry(depth) {
  if (!history.state?.entry) history.replaceState({ entry: String(Math.random()), depth }, "");
  return history.state.entry;
}

/** Return to the screen before this one, or open `parent` if this was the first. */
export function goBack(parent) {
  if (history.state.depth > 0) history.back();
  else navigate(parent);
}

window.addEventListener("scroll", ({ target }) => {
  if (target.id === "content") places.set(entry, { ...places.get(entry), top: target.scrollTop });
}, { capture: true, passive: true });

window.addEventListener("hashchange", () => {
  const link = document.activeElement?.closest("main a")?.getAttribute("href");
  places.set(entry, { top: 0, ...places.get(entry), link });
  const place = places.get(history.state?.entry);
  entry = addEntry(depth + 1);
  depth = history.state.depth;
  if (place && !ENDS_AT_BOTTOM.test(location.hash)) restore(place, entry);
  else document.getElementById("content")?.scrollTo(0, 0);
});

/** Scroll to a place as soon as the screen is long enough, and focus the link that was chosen there. */
function restore({ top, link }, at, deadline = Date.now() + RESTORE_MS) {
  requestAnimationFrame(() => {
    if (at !== entry || Date.now() > deadline) return;
    const main = document.getElementById("content");
    if (main && main.scrollHeight - main.clientHeight >= top) {
      main.scrollTop = top;
      const chosen = link && [...main.querySelectorAll("a")].find((each) => each.getAttribute("href") === link);
      chosen?.focus({ preventScroll: true });
      if (!link || chosen) return;
    }
    restore({ top, link }, at, deadline);
  });
}
