// The notifications of this browser: on or off, quiet hours, and a test.

import { html, useEffect, useState } from "../vendor/preact.js";
import { post } from "../base/api.js";
import { notificationSettings, show } from "../base/notify.js";
import { allow, save } from "../base/push.js";
import { Action, Checkbox, Problem, TextField, visible } from "../base/ui.js";

const IS_SUPPORTED = "Notification" in window && "serviceWorker" in navigator;

export function Notifications() {
  const [settings, setSettings] = useState(notificationSettings);
  const [closed, setClosed] = useState(null); // null: not known yet; else why the browser gets nothing while it is closed
  const [error, setError] = useState(null);
  const [done, setDone] = useState("");
  async function change(changed) {
    setError(null);
    setDone("");
    try {
      if (changed.isOn && !settings.isOn) await allow();
      setSettings(changed);
      setClosed(null);
      setClosed(await save(changed));
      setSettings(notificationSettings());
    } catch (failure) {
      setError(failure);
    }
  }
  useEffect(() => { if (settings.isOn) change(settings); }, []);

  async function test() {
    const { error: refusal } = settings.push
      ? await post(`push/${settings.push}/test`)
      : await show({ title: "clinvk", body: "Notifications of clinvk arrive here.", path: "#/notifications", tag: "test" });
    if (refusal) throw new Error(`The push service of this browser did not accept the test: ${refusal}`);
    setDone("Sent. If nothing appears, the system may block notifications of this browser.");
  }
  const time = (label, name) => html`
    <label>${label} <${TextField} label=${label} type="time" value=${settings[name]}
      onChange=${(value) => change({ ...settings, [name]: value })} /></label>`;
  return html`
    <h1 tabindex="-1">Notifications</h1>
    <p>This browser can tell you of a run that waits for you, has failed, or is done after more than a minute.</p>
    ${IS_SUPPORTED ? html`
      <section class="card" aria-label="Notifications in this browser">
        <${Checkbox} checked=${settings.isOn} onChange=${() => change({ ...settings, isOn: !settings.isOn })}>
          Notifications in this browser<//>
        <${Problem} error=${error} />
        ${settings.isOn && html`
          <p role="status">${closed === null ? "Loading…" : closed
            ? `They appear while a tab of the console is open. ${visible(closed)}` : "They appear also while the console is closed."}</p>
          <p class="options">${time("Quiet from", "from")} ${time("Quiet until", "to")}</p>
          <p><${Action} run=${test}>Send a test<//></p>
          ${done && html`<p role="status">${done}</p>`}`}
      </section>`
      : html`<p class="problem">This browser shows notifications only over HTTPS or on <code>localhost</code>. On an iPhone or iPad,
        add the console to the home screen first.</p>`}`;
}
