// Drafts: what was written in this browser and not sent yet. The newest drafts stay after a reload.

import { useEffect, useState } from "../vendor/preact.js";

const PREFIX = "clinvk.draft.";
const MAX_DRAFTS = 100;
const listeners = new Set();

/** Return a draft, or null. */
export function readDraft(name) {
  try { return JSON.parse(localStorage.getItem(PREFIX + name)).value; } catch { return null; }
}

/** Store a draft, and show it wherever `useDraft` does. Null removes the draft. */
export function writeDraft(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify({ at: Date.now(), value }));
    removeOldest();
  } catch { /* the storage is full: the draft lasts until the page is left */ }
  listeners.forEach((listener) => listener(name, value));
}

/** Put texts into the prompt box of a session, before what the user has written there. */
export function draftPrompt(session, ...texts) {
  const draft = readDraft(session);
  writeDraft(session, { ...draft, text: [...texts, draft?.text].filter(Boolean).join("\n\n") });
  document.querySelector(".composer textarea").focus();
}

function removeOldest() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  if (keys.length <= MAX_DRAFTS) return;
  const at = (key) => JSON.parse(localStorage.getItem(key)).at;
  keys.sort((one, other) => at(one) - at(other)).slice(0, -MAX_DRAFTS).forEach((key) => localStorage.removeItem(key));
}

/** Return a draft, or `initial` if there is none, and the function that stores another value. */
export function useDraft(name, initial) {
  const [known, setKnown] = useState({ name, value: readDraft(name) });
  useEffect(() => {
    const listen = (changed, value) => changed === name && setKnown({ name, value });
    listeners.add(listen);
    return () => listeners.delete(listen);
  }, [name]);
  const value = known.name === name ? known.value : readDraft(name);
  return [value ?? initial, (next) => writeDraft(name, next)];
}
