// The installed agents, the nodes of a cluster, and the health of the server.

import { html, useState } from "../vendor/preact.js";
import { get, post } from "../base/api.js";
import { duration } from "../base/format.js";
import { useLive } from "../base/live.js";
import { Action, Agent, Code, Copy, Loaded, Time, visible } from "../base/ui.js";

const LOGINS = {
  claude: ["claude auth login", "opens a page whose code you paste"],
  codex: ["codex login --device-auth", "shows an address and a code to enter there, on any device"],
  gemini: ["gemini", "opens a page; NO_BROWSER=true shows the address instead"],
};
const TEST = { prompt: "Answer with the word ready.", ephemeral: true };

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
      ${install && html`<${Code} text=${install} label="Install command" /><${Copy} text=${install} />`}
      ${available && html`<${Test} name=${name} />
        ${LOGINS[name] && html`<${Login} login=${LOGINS[name]} isOpen=${isLoggedOut} />`}`}<//>`;
}

/** How to log in, on the machine of the server: agents accept a login at a terminal only. */
const Login = ({ login: [command, effect], isOpen }) => html`
  <details open=${isOpen}><summary>Log in</summary>
    <p class="quiet">Run this on the machine of the server, as its user. It ${effect}.</p>
    <${Code} text=${command} label="Login command" /><${Copy} text=${command} /></details>`;

/** A button that sends a small prompt, which is not stored, and shows the answer and the time. */
function Test({ name }) {
  const [result, setResult] = useState(null);
  async function test() {
    setResult(null);
    const { output, error, exit_code: code, duration_ms: ms } = await post("prompt", { ...TEST, backend: name });
    if (code !== 0) throw new Error(error || `The agent ended with code ${code}.`);
    setResult(`${duration(ms)}: ${output.trim().slice(0, 200)}`);
  }
  return html`<p><${Action} run=${test} aria-label=${`Test ${name}`}>Test<//></p>
    ${result && html`<p class="result" role="status">${visible(result)}</p>`}`;
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
