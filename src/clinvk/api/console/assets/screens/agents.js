// The installed agents, the nodes of a cluster, and the health of the server.

import { html } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { useLive } from "../base/live.js";
import { Agent, Code, Loaded, Time, visible } from "../base/ui.js";

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

/** A card with facts, of which the empty ones are left out. */
const Card = ({ label, title = label, status, isGood, facts, children }) => html`
  <section class="card" aria-label=${label}>
    <header><h2>${title}</h2><span class="state ${isGood ? "finished" : "failed"}">${status}</span></header>
    <dl>${Object.entries(facts).map(([name, value]) => value && html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>
    ${children}
  </section>`;

function AgentCard({ backend, last }) {
  const { name, available, enabled, version, path, install, models, capabilities } = backend;
  const isLoggedOut = last?.error_code === "agent_unauthenticated";
  const status = available ? (isLoggedOut ? "not logged in" : "ready") : enabled ? "not installed" : "turned off";
  const facts = {
    Version: visible(version), Program: path && html`<span class="mono">${visible(path)}</span>`,
    Models: visible(models.join(", ")), Approval: capabilities.approval_modes.join(", "),
    Sandbox: capabilities.sandbox_modes.join(", "),
    "Last run": last && html`${last.state === "finished" ? "done" : last.state}, <${Time} at=${last.ended_at} />`,
  };
  return html`
    <${Card} label=${name} title=${html`<${Agent} name=${name} />`} status=${status} isGood=${status === "ready"} facts=${facts}>
      ${isLoggedOut && html`<p>To log in: <code>${LOGINS[name] ?? "see the agent's own help"}</code></p>`}
      ${install && html`<${Code} text=${install} label="Install command" />`}<//>`;
}

function NodeCard({ node }) {
  const agents = node.backends.filter((each) => each.available).map((each) => `${each.name} ${each.version ?? ""}`);
  const facts = {
    Agents: visible(agents.join(", ")) || "none", Runs: `${node.running} of ${node.max_concurrent_runs}, ${node.queued} waiting`,
    Labels: visible(node.labels.join(", ")), clinvk: node.version,
  };
  return html`<${Card} label=${node.node} title=${visible(node.node)} status=${node.state} isGood=${node.state === "up"} facts=${facts} />`;
}

function Health({ health }) {
  if (!health?.version) return null;
  const { status, version, uptime, capacity, warm, session_store: store, warnings = [] } = health;
  const facts = {
    clinvk: `${version}, up ${uptime}`, "Runs at once": `${capacity.max_concurrent_runs} (${capacity.reason})`,
    Sessions: store.available ? store.session_count.toLocaleString("en") : visible(store.error),
    "Warm agents": warm
      && `${warm.processes} processes, ${warm.memory_mb} MB, ${warm.hits} of ${warm.hits + warm.misses} runs started warm`,
  };
  return html`
    <${Card} label="Server" status=${status} isGood=${status === "ok"} facts=${facts}>
      ${warnings.map((warning) => html`<p class="problem">${visible(warning)}</p>`)}
      <p class="quiet"><code>clinvk doctor</code> checks agents, settings and the database.</p><//>`;
}
