// The console: login, navigation and the screens.

import { html, render, useEffect, useState } from "./vendor/preact.js";
import { get, onUnauthorized, post } from "./base/api.js";
import { Inbox } from "./screens/inbox.js";
import { live, useLive } from "./base/live.js";
import { Login, takeToken } from "./screens/login.js";
import { navigate, useRoute } from "./base/router.js";
import { Checkbox, ErrorBoundary, announce, useStored } from "./base/ui.js";

const screen = (module, name) => () => import(module).then((loaded) => loaded[name]);
const SCREENS = {
  "": { title: "Inbox", load: async () => Inbox },
  runs: { title: "Runs", load: screen("./screens/runs.js", "Runs") },
  sessions: { title: "Sessions", load: screen("./screens/sessions.js", "Sessions") },
  new: { title: "New session", load: screen("./session/session.js", "NewSession") },
  session: { title: "Session", load: screen("./session/session.js", "Session"), props: (id) => ({ sessionId: id }) },
  run: { title: "Run", load: screen("./session/session.js", "Session"), props: (id) => ({ runId: id }) },
  compare: { title: "Compare", load: screen("./screens/compare.js", "Compare"), detail: screen("./screens/compare.js", "Comparison") },
  worktrees: { title: "Worktrees", load: screen("./review/worktrees.js", "Worktrees") },
  worktree: { title: "Worktree", load: screen("./review/worktrees.js", "Worktree") },
  usage: { title: "Usage", load: screen("./screens/usage.js", "Usage") },
  agents: { title: "Agents", load: screen("./screens/agents.js", "Agents") },
};
const MENU = ["", "sessions", "runs", "compare", "worktrees", "usage", "agents"];
const IN_BAR = 3; // on a phone; the others are in its menu
const KEYS = { i: "", s: "sessions", r: "runs", c: "compare", w: "worktrees", u: "usage", a: "agents", n: "new" };
const CONNECTIONS = { lost: "Connection lost. Reconnecting…", ended: "The server sends no events. Reload the page." };
const SECTION = { session: "sessions", run: "runs", new: "sessions", worktree: "worktrees" };

function App() {
  const [me, setMe] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    onUnauthorized.handle = () => setMe((old) => ({ ...old, authenticated: false }));
    const onHashChange = () => location.hash.startsWith("#login=") && enter();
    window.addEventListener("hashchange", onHashChange);
    enter();
    return () => window.removeEventListener("hashchange", onHashChange);
  }, []);

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
  live.me = me;
  useEffect(() => {
    live.onInteraction = (interaction) => announce(`${interaction.backend} asks: ${interaction.title}`);
    live.onRunEnd = (run) => announce(`${run.backend || run.kind} run ${run.state}`);
    live.start();
    return () => live.stop();
  }, []);
  useEffect(() => {
    document.title = `${pending.length ? `(${pending.length}) ` : ""}${route.title} · clinvk`;
  }, [pending.length, route]);

  const logOut = () => post("logout").catch(() => {}).then(onLogout);
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to content</a>
    <${Navigation} section=${SECTION[name] ?? name} pending=${pending.length} me=${me} onLogout=${logOut} />
    <main class="scroller" id="content" tabindex="-1">
      ${CONNECTIONS[connection] && html`<p class="connection" role="status">${CONNECTIONS[connection]}</p>`}
      <div class="screen ${name}" key=${`${name}/${id}`}>
        <${ErrorBoundary}><${Screen} route=${route} id=${id} /><//>
      </div>
    </main>
    <${Shortcuts} />
    <div id="announcements" class="sr" role="status" aria-live="polite"></div>`;
}

/** Load the module of a screen and show it. The heading gets the focus, so that screen readers begin there. */
function Screen({ route, id }) {
  const [Shown, setShown] = useState(() => (route === SCREENS[""] ? Inbox : null));
  const [error, setError] = useState(null);
  useEffect(() => {
    (id && route.detail ? route.detail : route.load)().then((component) => setShown(() => component), setError);
  }, []);
  useEffect(() => {
    const isElsewhere = document.activeElement.matches("body, nav *");
    if (Shown && isElsewhere) document.querySelector("main h1")?.focus({ preventScroll: true });
  }, [Shown]);
  if (error) throw error;
  return Shown && html`<${Shown} ...${route.props?.(id) ?? { id }} />`;
}

function Navigation({ section, pending, me, onLogout }) {
  const badge = pending > 0 && html`<span class="badge" aria-label=${`${pending} waiting`}>${pending}</span>`;
  const link = (name) => html`
    <a href=${`#/${name}`} aria-current=${section === name ? "page" : undefined}>
      ${SCREENS[name].title} ${name === "" && badge}</a>`;
  const rest = html`${MENU.slice(IN_BAR).map(link)}
    <a href="docs">API reference</a>
    <button type="button" class="link" onClick=${showShortcuts}>Shortcuts</button>
    ${me.login_required && html`
      <button type="button" class="link" onClick=${onLogout}>Log out ${me.key}</button>`}`;
  const close = (event) => { event.currentTarget.parentElement.open = false; };
  return html`
    <nav aria-label="Screens">
      <a class="brand" href="#/"><img src="console/icon.svg" alt="" width="24" height="24" />clinvk</a>
      ${MENU.slice(0, IN_BAR).map(link)}
      <div class="rest">${rest}</div>
      <details class="menu" key=${section}>
        <summary aria-current=${MENU.indexOf(section) >= IN_BAR || undefined}>More</summary>
        <div class="popup" onClick=${close}>${rest}</div>
      </details>
    </nav>`;
}

const showShortcuts = () => document.querySelector("dialog").showModal();

/** The keyboard shortcuts and the dialog that lists them, where they can be turned off. */
function Shortcuts() {
  const [isOn, setOn] = useStored("shortcuts", true);
  useEffect(() => {
    let isAfterG = false;
    function onKeyDown(event) {
      const isTyping = event.target.closest("input, textarea, select, dialog");
      if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !isOn) return;
      const target = KEYS[event.key];
      if (event.key === "?") showShortcuts();
      else if (event.key === "/") document.querySelector("main input[type=search], .composer textarea")?.focus();
      else if (isAfterG && target !== undefined) navigate(target);
      else {
        isAfterG = event.key === "g";
        return;
      }
      isAfterG = false;
      event.preventDefault(); // the keys of a request have other meanings
    }
    window.addEventListener("keydown", onKeyDown, true);
    return () => window.removeEventListener("keydown", onKeyDown, true);
  }, [isOn]);
  return html`
    <dialog aria-label="Keyboard shortcuts"><form method="dialog">
      <h2>Keyboard shortcuts</h2>
      <dl class="keys">
        ${Object.entries(KEYS).map(([key, name]) => html`
          <div><dt><kbd>g</kbd> <kbd>${key}</kbd></dt><dd>${SCREENS[name].title}</dd></div>`)}
        <div><dt><kbd>/</kbd></dt><dd>Search, or write a prompt</dd></div>
        <div><dt><kbd>a</kbd> <kbd>d</kbd></dt><dd>At a request chosen with <kbd>Tab</kbd>: allow, deny</dd></div>
        <div><dt><kbd>Enter</kbd></dt><dd>In the prompt: send. <kbd>Shift</kbd> <kbd>Enter</kbd>: new line</dd></div>
      </dl>
      <${Checkbox} checked=${isOn} onChange=${() => setOn(!isOn)}>Single-key shortcuts<//>
      <div class="buttons"><button class="primary">Close</button></div>
    </form></dialog>`;
}

window.addEventListener("pageshow", (event) => event.persisted && location.reload()); // its streams have ended
render(html`<${App} />`, document.getElementById("app"));
