// The subscription of this browser to Web Push.

import { get, post, remove } from "./api.js";
import { keepSettings, notificationSettings } from "./notify.js";

const DAY_MIN = 24 * 60;
const DEADLINE_MS = 10_000;
const SCRIPT = new URL("../sw.js", import.meta.url);
const SCOPE = new URL("../../", import.meta.url).href;

/** Return the minutes of the day, UTC, of the quiet hours. */
function quietMinutes({ from, to }) {
  if (!from || !to) return undefined;
  return [from, to].map((time) => {
    const [hours, minutes] = time.split(":").map(Number);
    return (hours * 60 + minutes + new Date().getTimezoneOffset() + DAY_MIN) % DAY_MIN;
  });
}

const late = () => new Promise((_, reject) => {
  setTimeout(() => reject(new Error("The push service of this browser does not answer.")), DEADLINE_MS);
});

const register = () => navigator.serviceWorker.register(SCRIPT, { scope: SCOPE }).then(() => navigator.serviceWorker.ready);

async function subscription() {
  const { pushManager } = await register();
  if (!pushManager) throw new Error("This browser has no Web Push.");
  const options = { userVisibleOnly: true, applicationServerKey: (await get("push")).key };
  return pushManager.subscribe(options).catch(async () => {
    await (await pushManager.getSubscription())?.unsubscribe(); // it belongs to another key of the server
    return pushManager.subscribe(options);
  });
}

/** Save the settings and, if notifications are on, subscribe again. Return why the browser gets nothing while it is closed. */
export async function save(settings) {
  keepSettings({ ...settings, push: null });
  if (!settings.isOn) return unsubscribe(settings);
  try {
    const { endpoint, keys } = (await Promise.race([subscription(), late()])).toJSON();
    const { id } = await post("push", { endpoint, ...keys, quiet: quietMinutes(settings) });
    keepSettings({ ...settings, push: id });
    return "";
  } catch (error) {
    return error.message;
  }
}

/** Ask the user of the browser to allow notifications. */
export async function allow() {
  if (await Notification.requestPermission() !== "granted") {
    throw new Error("The browser blocks notifications of this page. Allow them in the settings of the browser.");
  }
  await register();
}

async function unsubscribe({ push }) {
  if (push) await remove(`push/${push}`);
  const registration = await navigator.serviceWorker?.getRegistration(SCOPE);
  await (await registration?.pushManager?.getSubscription())?.unsubscribe();
  return "";
}

export const leave = () => unsubscribe(notificationSettings()).catch(() => {});
