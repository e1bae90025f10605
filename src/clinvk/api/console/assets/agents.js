// The installed agents, the nodes of a cluster, and the health of the server.

import { html } from "./vendor/preact.js";
import { get } from "./api.js";
import { useLive } from "./live.js";
import { Agent, Code, Loaded, Time, visible } from "./ui.js";

const LOGINS = { claude: "run claude and /login", codex: "codex login", gemini: "run gemini" };

export function Agents() {
  const { newestRuns } = useLive();
  const lastOf = (name) => newestRuns.find((run) => run.backend === name && run.ended_at);
  const health = () => get("../../health").catch((error) => error.problem);
  const load = () => Promise.all([get("backends"), get("nodes"), health()]);
  return html`
    <h1 tabindex="-1">Agents</h1>
    <${Loaded} load=${load}>${([{ backends }, { nodes }, health]) => html`
      <div class="cards">${backends.map((backend) => html`
        <${AgentCard} key=${backend.name} backend=${backend} last=${lastOf(backend.name)} />`)}</div>
      ${nodes.length > 0 && html`<h2>Nodes</h2>
        <div class="cards">${nodes.map((node) => html`<${NodeCard} key=${node.node} node=${node} />`)}</div>`}
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

function NodeCard({ node }) {
  const agents = node.backends.filter((each) => each.available).map((each) => `${each.name} ${each.version ?? ""}`);
  return html`
    <section class="card" aria-label=${node.node}>
      <header><h2>${visible(node.node)}</h2>
        <span class="state ${node.state === "up" ? "finished" : "failed"}">${node.state}</span></header>
      <dl>
        <dt>Agents</dt><dd>${agents.length ? agents.map(visible).join(", ") : "none"}</dd>
        <dt>Runs</dt><dd>${node.running} of ${node.max_concurrent_runs}, ${node.queued} waiting</dd>
        ${node.labels.length > 0 && html`<dt>Labels</dt><dd>${node.labels.map(visible).join(", ")}</dd>`}
        <dt>clinvk</dt><dd>${node.version}</dd>
      </dl>
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
