// The login with a key.

import { html } from "../vendor/preact.js";
import { post } from "../base/api.js";
import { Form, Problem, useFocus } from "../base/ui.js";

export function Login({ error, onLogin }) {
  const field = useFocus();
  const submit = async (event) => onLogin(await post("login", { key: new FormData(event.target).get("key") }));
  return html`
    <main class="login">
      <${Form} class="card" onSubmit=${submit}>
        <h1><img src="console/icon.svg" alt="" width="32" height="32" /> clinvk</h1>
        <label for="key">API key</label>
        <input id="key" name="key" type="password" autocomplete="current-password" required ref=${field} />
        <${Problem} error=${error} />
        <button class="primary">Log in</button>
        <p class="quiet"><code>clinvk keys create NAME</code> creates a key. On the machine of the server,
          ${" "}<code>clinvk open</code> logs in without one.</p>
      <//>
    </main>`;
}
