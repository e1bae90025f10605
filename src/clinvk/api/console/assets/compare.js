// One prompt for several agents: their answers and changes side by side.

import { html, useEffect, useState } from "./vendor/preact.js";
import { follow, get, post, start } from "./api.js";
import { Directory, Permissions, remembered, useBackends } from "./composer.js";
import { Diff } from "./diff.js";
import { ENDED, cost, elapsed, tokens } from "./format.js";
import { useLive } from "./live.js";
import { Answer } from "./markdown.js";
import { navigate } from "./router.js";
import { RunRow } from "./runs.js";
import { Action, Agent, Empty, Loaded, Problem, State, useStored, useTick, visible } from "./ui.js";
import { WorktreeActions } from "./worktrees.js";

const SEARCHED_RUNS = 500;
const MAX_FOLLOWED = 3; // a browser has six connections to a server

/** Load the compares among the newest runs. */
async function loadCompares() {
  const { runs } = await get("runs", { limit: SEARCHED_RUNS });
  return runs.filter((run) => run.kind === "compare");
}

export function Compare() {
  return html`
    <h1 tabindex="-1">Compare</h1>
    <${CompareForm} />
    <h2>Earlier</h2>
    <${Loaded} load=${loadCompares}>${(runs) => (runs.length
      ? html`<div class="list">${runs.map((run) => html`<${RunRow} key=${run.id} run=${run} />`)}</div>`
      : html`<${Empty}>Nothing compared yet.<//>`)}<//>`;
}

function CompareForm() {
  const backends = useBackends() ?? [];
  const [chosen, setChosen] = useStored("compare", []);
  const [directories, setDirectories] = useStored("directories", []);
  const [options, setOptions] = useState({});
  const [prompt, setPrompt] = useState("");
  const [workdir, setWorkdir] = useState("");
  const [isIsolated, setIsolated] = useState(true);
  const [judge, setJudge] = useState("");
  const [check, setCheck] = useState("");
  const [error, setError] = useState(null);
  const names = backends.map((backend) => backend.name).filter((name) => chosen.includes(name));
  const toggle = (name) => setChosen(names.includes(name) ? names.filter((each) => each !== name) : [...names, name]);

  async function submit(event) {
    event.preventDefault();
    setError(null);
    const modes = Object.fromEntries(Object.entries(options).filter(([, value]) => value));
    try {
      const { run_id: run } = await start("compare", {
        prompt, backends: names, ...modes,
        ...(workdir && { workdir }), ...(isIsolated && { isolation: "worktree" }), ...(judge && { judge: { backend: judge } }), ...(isIsolated && check && { check }),
      });
      setDirectories(remembered(workdir, directories));
      navigate(`compare/${run}`);
    } catch (failure) {
      setError(failure);
    }
  }
  return html`
    <form class="composer" aria-label="Compare agents" onSubmit=${submit}>
      <${Problem} error=${error} />
      <textarea aria-label="Prompt" rows="4" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} placeholder="What should each agent do?"></textarea>
      <div class="options"><${Directory} value=${workdir} known=${directories} onChange=${setWorkdir} /></div>
      ${isIsolated && html`<div class="options"><input class="directory mono" aria-label="Check" placeholder="Check: a command to run in each worktree, such as make test"
        value=${check} spellcheck="false" autocomplete="off" onInput=${(event) => setCheck(event.target.value)} /></div>`}
      <fieldset class="options"><legend class="sr">Agents</legend>
        ${backends.map(({ name }) => html`<label class="option"><input type="checkbox" checked=${names.includes(name)} onChange=${() => toggle(name)} /><${Agent} name=${name} /></label>`)}</fieldset>
      <div class="options">
        <${Permissions} backend=${backends.find((backend) => backend.name === names[0])} value=${options} onChange=${setOptions} />
        <select aria-label="Judge" value=${judge} onChange=${(event) => setJudge(event.target.value)}><option value="">No judge</option>
          ${backends.map(({ name }) => html`<option value=${name}>Judge: ${name}</option>`)}</select>
        <label class="option"><input type="checkbox" checked=${isIsolated} onChange=${() => setIsolated(!isIsolated)} />Each in a worktree</label>
        <span class="gap"></span>
        <button class="primary" disabled=${!prompt.trim() || names.length < 2}>Compare</button>
      </div>
    </form>`;
}

/** The answers of a compare, in columns. */
export function Comparison({ id }) {
  const live = useLive();
  const [run, setRun] = useState(null);
  const [worktrees, setWorktrees] = useState([]);
  const [error, setError] = useState(null);
  const known = [...live.runs.values()].filter((each) => each.id === id || each.parent_id === id);
  const states = known.map((each) => each.id + each.state).sort().join();
  useEffect(() => {
    get(`runs/${id}`).then(setRun, setError);
    get("worktrees").then((found) => setWorktrees(found.worktrees), () => {});
  }, [id, states]);
  useTick(Boolean(run) && !ENDED.has(run.state));
  if (!run) return error ? html`<${Problem} error=${error} />` : html`<p class="quiet loading">Loading…</p>`;
  const parts = run.runs.filter((part) => part.name !== "judge");
  return html`
    <header class="session-head"><h1 tabindex="-1">${visible(run.prompt.slice(0, 300))}</h1>
      <p class="meta"><${State} state=${run.state} /><span>${elapsed(run)}</span><span>${tokens(run.token_usage)}</span><span>${cost(run.cost_usd)}</span>
        ${!ENDED.has(run.state) && html`<${Action} class="small" run=${() => post(`runs/${id}/cancel`)}>Stop all<//>`}</p></header>
    <${Problem} error=${error} />
    <div class="answers">${parts.map((part) => html`
      <${Column} key=${part.id} part=${part} worktree=${worktrees.find((each) => (part.workdir + "/").startsWith(`${each.path}/`))} />`)}</div>
    ${run.output && html`<section class="card verdict" aria-label="Checks and verdict"><h2>Checks and verdict</h2><${Answer} text=${run.output} /></section>`}`;
}

function Column({ part, worktree }) {
  const [done, setDone] = useState("");
  const isEnded = ENDED.has(part.state);
  return html`
    <section class="card column" aria-label=${part.backend}>
      <header><h2><${Agent} name=${part.backend} /></h2><${State} state=${part.state} /></header>
      <p class="meta">${part.model && html`<span>${visible(part.model)}</span>`}<span>${elapsed(part)}</span><span>${tokens(part.token_usage)}</span><span>${cost(part.cost_usd)}</span>
        ${part.session_id && html`<a href=${`#/session/${part.session_id}`}>Transcript</a>`}</p>
      ${part.error && html`<p class="problem">${visible(part.error)}</p>`}
      ${isEnded ? html`<${Loaded} load=${() => get(`runs/${part.id}`)}>${({ output }) => html`<${Answer} text=${output} />`}<//>`
        : part.index < MAX_FOLLOWED && html`<${LiveAnswer} runId=${part.id} />`}
      ${done && html`<p class="result" role="status">${visible(done)}</p>`}
      ${worktree && !done && isEnded && html`
        <${Loaded} deps=${[worktree.id, worktree.state]} load=${() => get(`worktrees/${worktree.id}`)}>${(shown) => html`
          ${shown.diff ? html`<${Diff} text=${shown.diff} /><p><a href=${`#/worktree/${shown.id}`}>Review with comments</a></p>` : html`<p class="quiet">No changes.</p>`}
          <${WorktreeActions} worktree=${shown} onDone=${setDone} />`}<//>`}
    </section>`;
}

/** The answer of a run under way. */
function LiveAnswer({ runId }) {
  const [text, setText] = useState("");
  useEffect(() => follow(`runs/${runId}/events`, ({ type, content }) => {
    if (type === "message") setText((old) => old + content.text);
  }), [runId]);
  return html`<${Answer} text=${text} />`;
}
