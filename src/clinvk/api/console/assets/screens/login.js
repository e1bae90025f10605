// The login: with a key, or with the token of a login link, which is removed from the address at once.

import { html, useState } from "../vendor/preact.js";
import { post } from "../base/api.js";
import { Problem, useFocus } from "../base/ui.js";

/** Take the token from the address, so that it stays in no history. Return null if there is none. */
export function takeToken() {
  const token = /^#login=(.+)$/.exec(location.hash)?.[1];
  if (!token) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return decodeURIComponent(token);
}

export function Login({ error: first, onLogin }) {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(first);
  const field = useFocus();
  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      onLogin(await post("login", { key: new FormData(event.target).get("key") }));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  }
  return html`
    <main class="login">
      <form class="card" onSubmit=${submit}>
        <h1><img src="console/icon.svg" alt="" width="32" height="32" /> clinvk</h1>
        <label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="current-password" required ref=${field} />
        <${Problem} error=${error} />
        <button class="primary" disabled=${isBusy}>Log in</button>
        <p class="quiet"><code>clinvk keys create NAME</code> creates a key. On the machine of the server,
          ${" "}<code>clinvk open</code> logs in without one.</p>
      </form>
    </main>`;
}
