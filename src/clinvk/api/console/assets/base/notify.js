// Notifications of this browser, and the number of waiting requests in its icons.

import { get } from "./api.js";
import { duration } from "./format.js";
import { live } from "./live.js";
import { stream } from "./stream.js";
import { stored } from "./ui.js";

const LONG_MS = 60_000; // as the messages of the server
const SHOWN_AS = { failed: "has failed", finished: "is done" };
const OFF = { isOn: false, push: null, from: "", to: "" };

/** Return the settings of this browser: `push` is the id of its subscription to Web Push, `from` and `to` the quiet hours. */
export const notificationSettings = () => ({ ...OFF, ...stored("notifications", OFF) });
export const keepSettings = (settings) => localStorage.setItem("clinvk.notifications", JSON.stringify(settings));

/** Subscribe to Web Push again: the hours of summer time, or the key of the server, may have changed. */
export const renewPush = async () => notificationSettings().isOn && (await import("./push.js")).save(notificationSettings());

/** End the subscription of the client that logs out. The next login renews it. */
export const leavePush = async () => notificationSettings().push && (await import("./push.js")).leave();

/** Return whether a time is in the quiet hours, which may include midnight. */
export function isQuiet({ from, to }, time = new Date().toTimeString().slice(0, 5)) {
  if (!from || !to) return false;
  return from <= to ? from <= time && time < to : from <= time || time < to;
}

/** Show a notification. One with the same tag is replaced. */
export async function show({ title, body, path, tag }) {
  const registration = await navigator.serviceWorker.ready;
  await registration.showNotification(title, { body, tag, icon: new URL("../icon-192.png", import.meta.url).href, data: path });
}

/** Tell of a run if nobody looks: only the tab that leads does, and only without Web Push, which tells of it too. */
function tell(title, { id, workdir, session_id: session }) {
  const settings = notificationSettings();
  if (!settings.isOn || settings.push || !document.hidden || !stream.connection || isQuiet(settings)) return;
  const body = workdir?.split("/").at(-1) ?? "";
  show({ title, body, path: session ? `#/session/${session}` : `#/run/${id}`, tag: id }).catch(() => {});
}

export async function tellOfRequest({ backend, run_id: id, session_id }) {
  if (!live.isLoaded) return;
  const run = live.runs.get(id) ?? await get(`runs/${id}`).catch(() => null); // an event may overtake the list of runs
  tell(`${backend} waits for you`, { session_id, workdir: run?.workdir, id });
}

export function tellOfEnd(run) {
  const tookMs = Date.parse(run.ended_at) - Date.parse(run.started_at ?? run.created_at);
  if (!SHOWN_AS[run.state] || run.parent_id || (run.state === "finished" && tookMs < LONG_MS)) return;
  const after = run.state === "finished" ? ` after ${duration(tookMs)}` : "";
  tell(`${run.backend || run.kind} ${SHOWN_AS[run.state]}${after}`, run);
}

const icon = document.querySelector("link[rel=icon]");
const plainIcon = icon.href;

/** Show a number in the icon of the page, and of the installed console. */
export function showNumber(number) {
  const text = number > 9 ? "9+" : number;
  icon.href = !number ? plainIcon : `data:image/svg+xml,${encodeURIComponent(`
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="14" fill="#2f5fd0"/>
    <path d="M12 30l10 9-10 9" fill="none" stroke="#fff" stroke-width="6" stroke-linecap="round" stroke-linejoin="round"/>
    <circle cx="42" cy="22" r="22" fill="#c62828"/>
    <text x="42" y="33" font-family="sans-serif" font-weight="700" font-size="30" text-anchor="middle" fill="#fff">${text}</text>
    </svg>`)}`;
  navigator.setAppBadge?.(number).catch(() => {});
}
