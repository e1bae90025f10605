// The installed agents, and the health of the server.

import { html } from "./vendor/preact.js";
import { get } from "./api.js";
import { useLive } from "./live.js";
import { Agent, Code, Loaded, Time, visible } from "./ui.js";

const LOGINS = { claude: "run claude and /login", codex: "codex login", gemini: "run gemini" };

export function Agents() {
  const { newestRuns } = useLive();
  const lastOf = (name) => newestRuns.find((run) => run.backend === name && run.ended_at);
  const load = () => Promise.all([get("backends"), get("../../health").catch((error) => error.problem)]);
  return html`
    <h1 tabindex="-1">Agents</h1>
    <${Loaded} load=${load}>${([{ backends }, health]) => html`
      <div class="cards">${backends.map((backend) => html`
        <${AgentCard} key=${backend.name} backend=${backend} last=${lastOf(backend.name)} />`)}</div>
      <${Health} health=${health} />`}<//>`;
}

function AgentCard({ backend, last }) {
  const { name, available, enabled, version, path, install, models, capabilities } = backend;
  const isLoggedOut = last?.error_code === "agent_unauthenticated";
  const status = available ? (isLoggedOut ? "not logged in" : "ready") : enabled ? "not installed" : "turned off";
  return html`
    <section class="card" aria-label=${name}>
      <header><h2><${Agent} name=${name} /></h2>
        <span class="state ${status === "ready" ? "finished" : "failed"}">${status}</span></header>
      <dl>
        ${version && html`<dt>Version</dt><dd>${visible(version)}</dd>`}
        ${path && html`<dt>Program</dt><dd class="mono">${visible(path)}</dd>`}
        ${models.length > 0 && html`<dt>Models</dt><dd>${models.map(visible).join(", ")}</dd>`}
        <dt>Approval</dt><dd>${capabilities.approval_modes.join(", ")}</dd>
        <dt>Sandbox</dt><dd>${capabilities.sandbox_modes.join(", ")}</dd>
        ${last && html`<dt>Last run</dt>
          <dd>${last.state === "finished" ? "done" : last.state}, <${Time} at=${last.ended_at} /></dd>`}
      </dl>
      ${isLoggedOut && html`<p>To log in: <code>${LOGINS[name] ?? "see the agent's own help"}</code></p>`}
      ${install && html`<${Code} text=${install} label="Install command" />`}
    </section>`;
}

function Health({ health }) {
  if (!health?.version) return null;
  const { status, version, uptime, capacity, warm, session_store: store, warnings = [] } = health;
  return html`
    <section class="card" aria-label="Server">
      <header><h2>Server</h2><span class="state ${status === "ok" ? "finished" : "failed"}">${status}</span></header>
      <dl>
        <dt>clinvk</dt><dd>${version}, up ${uptime}</dd>
        <dt>Runs at once</dt><dd>${capacity.max_concurrent_runs} (${capacity.reason})</dd>
        <dt>Sessions</dt><dd>${store.available ? store.session_count.toLocaleString("en") : visible(store.error)}</dd>
        ${warm && html`<dt>Warm agents</dt>
          <dd>${warm.processes} processes, ${warm.memory_mb} MB, ${warm.hits} of ${warm.hits + warm.misses} runs started warm</dd>`}
      </dl>
      ${warnings.map((warning) => html`<p class="problem">${visible(warning)}</p>`)}
      <p class="quiet"><code>clinvk doctor</code> checks agents, settings and the database.</p>
    </section>`;
}
