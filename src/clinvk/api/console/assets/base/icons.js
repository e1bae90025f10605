// Stroke icons of 16 by 16 pixels, in the colour of the text.

import { html } from "../vendor/preact.js";

const CIRCLE = "M1.5 8a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0-13 0";
const ALERT = `${CIRCLE}M8 4.5v4M8 11h.01`;
const CHECK = "M3 8.5l3 3 7-7";
const STOPPED = `${CIRCLE}M5.5 8h5`;
const RUNNING = "M8 1.5a6.5 6.5 0 1 1-6.5 6.5";
const dot = (x, y) => `M${x - 1.5} ${y}a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0`;

const PATHS = {
  inbox: "M2 9h3l1 2h4l1-2h3M2 9l2-6h8l2 6v4H2z",
  sessions: "M2 3h12v8H7l-3 3v-3H2z",
  compare: "M2 2.5h5v11H2zM9 2.5h5v11H9z",
  worktrees: `${dot(4.5, 3.5)}${dot(4.5, 12.5)}${dot(11.5, 3.5)}M4.5 5v6M11.5 5c0 3-7 2-7 6`,
  usage: "M2 14h12M4 11V8M8 11V3M12 11V6",
  agents: "M3 6h10v7H3zM8 6V3M6 9v1M10 9v1",
  bell: "M8 2a4 4 0 0 0-4 4v3l-1.5 2.5h11L12 9V6a4 4 0 0 0-4-4M6.5 14h3",
  plus: "M8 3v10M3 8h10",
  search: "M2.5 7a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0M10.5 10.5l3.5 3.5",
  back: "M10 3L5 8l5 5",
  fold: "M6 4l4 4-4 4",
  archive: "M2 3h12v3H2zM3 6v7h10V6M6 9h4",
  folder: "M2 4h4l1.5 2H14v7H2z",
  more: "M3 8h.01M8 8h.01M13 8h.01",
  docs: "M3 2h10v12H3zM6 5.5h4M6 8.5h4",
  keyboard: "M1 4h14v8H1zM4 7h.01M8 7h.01M12 7h.01M5 9.5h6",
  theme: `${CIRCLE}M8 1.5v13M11 3.5v9`,
  logout: "M6 2H3v12h3M7 8h7M11 5l3 3-3 3",
  waiting: `${CIRCLE}M6 6.5a2 2 0 1 1 2.6 1.9c-.4.2-.6.5-.6 1.1M8 11.5h.01`,
  running: RUNNING, active: RUNNING,
  queued: `${CIRCLE}M8 4.5V8l2.5 1.5`,
  finished: CHECK, completed: CHECK,
  failed: ALERT, error: ALERT, interrupted: ALERT,
  cancelled: STOPPED, paused: STOPPED,
};

export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
