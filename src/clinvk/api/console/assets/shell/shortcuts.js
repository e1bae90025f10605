// The keyboard shortcuts, and the dialog that lists them, where those of a single key can be turned off.

import { html, useEffect } from "../vendor/preact.js";
import { newestFirst, pathOf } from "../base/format.js";
import { live } from "../base/live.js";
import { navigate } from "../base/router.js";
import { Checkbox, announce, stored, useStored } from "../base/ui.js";
import { KEYS, SCREENS } from "./screens.js";

const ROWS = "main :is(.item .main, .ask, .interaction)";
const REVIEW = ".review:not(.changes *), .changes:focus-within"; // has its own keys
const STEPS = { j: 1, k: -1 };
const TYPING_MS = 500;

export const showShortcuts = () => document.querySelector("dialog.shortcuts").showModal();

/** Focus the row after or before the one with the focus; at first, one that is in view. */
function step(by) {
  const rows = [...document.querySelectorAll(ROWS)].filter((row) => row.checkVisibility());
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const top = document.getElementById("content").getBoundingClientRect().top;
  const next = at < 0 ? rows.find((row) => row.getBoundingClientRect().top >= top) : rows[at + by];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest" });
}

/** Open the session of the request that has waited longest; from there, of the next one. */
export function goToWaiting() {
  const paths = [...live.pending].sort(newestFirst).reverse().map((each) => pathOf({ ...each, id: each.run_id }));
  const others = [...new Set(paths)];
  if (!others.length) return announce("Nothing waits for you.");
  return navigate(others[(others.indexOf(location.hash) + 1) % others.length].slice(2));
}

/** Return what a key does, or undefined. Letters within a typed text do nothing. */
function actionOf(key, isAfterG, isTyping) {
  if (isAfterG) return KEYS[key] === undefined ? undefined : () => navigate(KEYS[key]);
  if (STEPS[key]) return isTyping || document.querySelector(REVIEW) ? undefined : () => step(STEPS[key]);
  return {
    "?": showShortcuts,
    "/": () => document.querySelector("main input[type=search], .composer textarea")?.focus(),
    w: isTyping ? undefined : goToWaiting,
  }[key];
}

/** `onPalette` opens the palette. */
export function Shortcuts({ onPalette }) {
  const [isOn, setOn] = useStored("shortcuts", true);
  useEffect(() => {
    let [isAfterG, typedAt] = [false, -TYPING_MS];
    function onKeyDown(event) {
      if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey) {
        event.preventDefault();
        onPalette();
        return;
      }
      const isInField = event.target.closest("input:not([type=checkbox]), textarea, select, dialog");
      if (isInField || event.ctrlKey || event.metaKey || event.altKey || !stored("shortcuts", true)) return;
      const action = actionOf(event.key, isAfterG, event.timeStamp - typedAt < TYPING_MS);
      if (event.key.length === 1 && !action) typedAt = event.timeStamp;
      isAfterG = !action && event.key === "g";
      if (!action) return;
      action();
      event.preventDefault(); // the keys of a request have other meanings
    }
    window.addEventListener("keydown", onKeyDown, true);
    return () => window.removeEventListener("keydown", onKeyDown, true);
  }, []);
  const row = (keys, text) => html`<div><dt>${keys.map((key) => html`<kbd>${key}</kbd> `)}</dt><dd>${text}</dd></div>`;
  return html`
    <dialog class="shortcuts" aria-label="Keyboard shortcuts"><form method="dialog">
      <h2>Keyboard shortcuts</h2>
      <dl class="keys">
        ${row(["Ctrl", "K"], "Palette: screens, projects, sessions and actions")}
        ${row(["?"], "Keyboard shortcuts")}
        ${row(["/"], "Search, or write a prompt")}
        ${row(["j", "k"], "Next or previous row or request of a list, or file of a review")}
        ${row(["n", "p"], "Next or previous change of a review")}
        ${row(["↓", "↑"], "Next or previous line of a review. In an empty prompt: earlier prompts")}
        ${row(["←", "→"], "Agent of a comparison, or day of the usage")}
        ${row(["v"], "Mark the file of a review as viewed")}
        ${row(["w"], "Next session that waits for you")}
        ${row(["a", "d"], html`At a request chosen with <kbd>Tab</kbd>: allow, deny`)}
        ${row(["Enter"], html`In the prompt: send or queue. <kbd>Shift</kbd> <kbd>Enter</kbd>: new line`)}
        ${row(["Ctrl", "Enter"], "In the prompt: steer the agent. In a comment: save")}
        ${row(["@"], html`In the prompt: name a file; <kbd>/</kbd> at the beginning: a command of the agent`)}
        ${row(["Esc"], "Close a menu, a list of files or the changes, or cancel an edit")}
        ${Object.entries(KEYS).map(([key, name]) => row(["g", key], SCREENS[name].title))}
      </dl>
      <${Checkbox} checked=${isOn} onChange=${() => setOn(!isOn)}>Single-key shortcuts<//>
      <div class="buttons"><button class="primary">Close</button></div>
    </form></dialog>`;
}
