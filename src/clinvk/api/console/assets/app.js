// The console: login, navigation and the screens.

import { html, render, useEffect, useState } from "./vendor/preact.js";
import { get, onUnauthorized, post } from "./base/api.js";
import { focusScreen } from "./base/focus.js";
import { Icon } from "./base/icons.js";
import { live, useLive } from "./base/live.js";
import { leavePush, renewPush, showNumber, tellOfEnd, tellOfRequest } from "./base/notify.js";
import { goBack, takeToken, useRoute } from "./base/router.js";
import "./base/theme.js";
import { ErrorBoundary, announce, forgetLists, useEvent, useLoaded } from "./base/ui.js";
import { Login } from "./screens/login.js";
import { Navigation } from "./shell/navigation.js";
import { SCREENS, SECTION } from "./shell/screens.js";
import { Shortcuts } from "./shell/shortcuts.js";

const CONNECTIONS = { lost: "Connection lost. Reconnecting…", ended: "The server sends no events. Reload the page." };

function App() {
  const [me, setMe] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    onUnauthorized.handle = () => setMe((old) => ({ ...old, authenticated: false }));
    enter();
  }, []);
  useEvent(window, "hashchange", () => location.hash.startsWith("#login=") && enter());

  async function enter() {
    const token = takeToken();
    try {
      setMe(token ? await post("login", { token }) : await get("me"));
    } catch (failure) {
      setError(failure);
      setMe(failure.status ? { authenticated: false } : null);
    }
  }
  if (me?.authenticated) return html`<${Console} me=${me} onLogout=${() => setMe({ authenticated: false })} />`;
  if (me) return html`<${Login} error=${error} onLogin=${setMe} />`;
  return error && html`<main class="login"><div class="card"><p class="problem" role="alert">${error.message}</p>
    <button onClick=${() => location.reload()}>Try again</button></div></main>`;
}

function skip(event) {
  event.preventDefault(); // the fragment of the address names the screen
  document.querySelector("main").focus();
}

function Console({ me, onLogout }) {
  const { pending, connection } = useLive();
  const [name = "", id] = useRoute();
  const route = SCREENS[name] ?? SCREENS[""];
  const [Palette, setPalette] = useState(null);
  const sessionId = name === "session" && id;
  const section = SECTION[name] ?? name;
  live.me = me;
  useEffect(() => {
    live.onInteraction = (interaction) => {
      announce(`${interaction.backend} asks: ${interaction.title}`);
      tellOfRequest(interaction);
    };
    live.onRunEnd = (run) => {
      announce(`${run.backend || run.kind} run ${run.state}`);
      tellOfEnd(run);
    };
    live.start();
    renewPush();
    return () => {
      live.stop();
      forgetLists();
    };
  }, []);
  useEffect(() => {
    document.title = `${pending.length ? `(${pending.length}) ` : ""}${route.title} · clinvk`;
    showNumber(pending.length);
  }, [pending.length, route]);

  const showPalette = () => import("./shell/palette.js").then((loaded) => setPalette(() => loaded.Palette));
  const logOut = () => leavePush().then(() => post("logout")).catch(() => {}).then(onLogout);
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to content</a>
    <${Navigation} section=${section} sessionId=${sessionId} pending=${pending.length} me=${me}
      onPalette=${showPalette} onLogout=${logOut} />
    <main class="scroller" id="content" tabindex="-1">
      ${CONNECTIONS[connection] && html`<p class="connection" role="status">${CONNECTIONS[connection]}</p>`}
      <div class="screen ${name}" key=${`${name}/${id}`}>
        ${(id || name === "new") && html`<${Back} parent=${section} />`}
        <${ErrorBoundary}><${Screen} route=${route} id=${id} /><//>
      </div>
    </main>
    <${Shortcuts} onPalette=${showPalette} />
    ${Palette && html`<${Palette} sessionId=${sessionId} onClose=${() => setPalette(null)} />`}
    <div id="announcements" class="sr" role="status" aria-live="polite"></div>`;
}

/** The button that leads back, on a phone. */
const Back = ({ parent }) => html`
  <div class="go-back"><button type="button" aria-label="Back" onClick=${() => goBack(parent)}><${Icon} name="back" /></button></div>`;

const load = (route, id) => (id && route.detail ? route.detail : route.load)();

/** Load the module of a screen and show it. The heading gets the focus, so that screen readers begin there. */
function Screen({ route, id }) {
  const { value: Shown, error } = useLoaded(() => load(route, id));
  useEffect(focusScreen, []);
  if (error) throw error;
  return Shown && html`<${Shown} ...${route.props?.(id) ?? { id }} />`;
}

window.addEventListener("pageshow", (event) => event.persisted && location.reload()); // its streams have ended
render(html`<${App} />`, document.getElementById("app"));
