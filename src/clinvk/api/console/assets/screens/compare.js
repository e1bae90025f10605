// One prompt for several agents: their answers and changes side by side.

import { html, useEffect, useState } from "../vendor/preact.js";
import { cancel, get, start } from "../base/api.js";
import { filled, useBackends } from "../session/composer.js";
import { Permissions, withApproval } from "../session/permissions.js";
import { Project, useRemembered } from "../session/project.js";
import { Diff } from "../review/diff.js";
import { ENDED, cost, elapsed, tokens } from "../base/format.js";
import { useLive } from "../base/live.js";
import { Answer } from "../base/markdown.js";
import { navigate } from "../base/router.js";
import { RunList } from "./rows.js";
import { stream } from "../base/stream.js";
import { RunBlocks } from "../session/transcript.js";
import {
  Action, Agent, Checkbox, Empty, Facts, Form, Loaded, Loading, Problem, Select, State, TextArea, TextField, useStored, useTick,
  visible,
} from "../base/ui.js";
import { WorktreeActions } from "../review/actions.js";

const SEARCHED_RUNS = 500;

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
      ? html`<${RunList} runs=${runs} />` : html`<${Empty}>Nothing compared yet.<//>`)}<//>`;
}

function CompareForm() {
  const backends = useBackends() ?? [];
  const [chosen, setChosen] = useStored("compare", []);
  const [, remember] = useRemembered();
  const [modes, setModes] = useState({});
  const [prompt, setPrompt] = useState("");
  const [workdir, setWorkdir] = useState("");
  const [isIsolated, setIsolated] = useState(true);
  const [judge, setJudge] = useState("");
  const [check, setCheck] = useState("");
  const [error, setError] = useState(null);
  const names = backends.map((backend) => backend.name).filter((name) => chosen.includes(name));
  const agents = backends.filter((backend) => names.includes(backend.name));
  const options = withApproval(modes, agents);
  const toggle = (name) => setChosen(names.includes(name) ? names.filter((each) => each !== name) : [...names, name]);

  async function submit() {
    setError(null);
    const inWorktrees = isIsolated && { isolation: "worktree", check };
    const fields = { ...options, workdir, ...inWorktrees, judge: judge && { backend: judge } };
    try {
      const { run_id: run } = await start("compare", { prompt, backends: names, ...filled(fields) });
      remember(workdir);
      navigate(`compare/${run}`);
    } catch (failure) {
      setError(failure);
    }
  }
  return html`
    <${Form} class="composer" aria-label="Compare agents" onSubmit=${submit}>
      <${Problem} error=${error} />
      <${TextArea} label="Prompt" rows="4" value=${prompt} onChange=${setPrompt} placeholder="What should each agent do?" />
      <div class="options"><${Project} value=${workdir} onChange=${setWorkdir} /></div>
      ${isIsolated && html`<div class="options"><${TextField} class="directory" label="Check" value=${check} onChange=${setCheck}
        placeholder="Check: a command to run in each worktree, such as make test" /></div>`}
      <fieldset class="options"><legend class="sr">Agents</legend>
        ${backends.map(({ name }) => html`
          <${Checkbox} checked=${names.includes(name)} onChange=${() => toggle(name)}><${Agent} name=${name} /><//>`)}</fieldset>
      <div class="options">
        <${Permissions} backend=${agents[0]} value=${options} onChange=${setModes} />
        <${Select} label="Judge" value=${judge} onChange=${setJudge}
          options=${[["", "No judge"], ...backends.map(({ name }) => [name, `Judge: ${name}`])]} />
        <${Checkbox} checked=${isIsolated} onChange=${() => setIsolated(!isIsolated)}>Each in a worktree<//>
        <span class="gap"></span>
        <button class="primary" disabled=${!prompt.trim() || names.length < 2}>Compare</button>
      </div>
    <//>`;
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
  if (!run) return error ? html`<${Problem} error=${error} />` : html`<${Loading} />`;
  const judge = run.runs.find((part) => part.name === "judge");
  const parts = run.runs.filter((part) => part.name !== "judge");
  const worktreeOf = (part) => worktrees.find((each) => each.path === part.workdir);
  const isIsolated = parts.some(worktreeOf);
  return html`
    <header class="session-head"><h1 tabindex="-1">${visible(run.prompt.slice(0, 300))}</h1>
      <p class="meta"><${State} state=${run.state} />
        <${Facts} of=${[elapsed(run), tokens(run.token_usage), cost(run.cost_usd)]} />
        ${!ENDED.has(run.state) && html`<${Action} class="small" run=${() => cancel(id)}>Stop all<//>`}</p>
    </header>
    <${Problem} error=${error} />
    <div class="answers">${parts.map((part) => html`
      <${Column} key=${part.id} part=${part} isUnchanged=${ENDED.has(run.state) && isIsolated && !worktreeOf(part)}
        worktree=${worktreeOf(part)} />`)}</div>
    ${judge && !ENDED.has(judge.state) && html`
      <p class="working"><span class="pulse" aria-hidden="true"></span>${judge.backend} judges the answers</p>`}
    ${run.output && html`
      <section class="card verdict" aria-label="Checks and verdict">
        <h2>Checks and verdict</h2>
        <${Answer} text=${run.output} />
      </section>`}`;
}

function Column({ part, isUnchanged, worktree }) {
  const [done, setDone] = useState("");
  const isEnded = ENDED.has(part.state);
  return html`
    <section class="card column" aria-label=${part.backend}>
      <header><h2><${Agent} name=${part.backend} /></h2><${State} state=${part.state} /></header>
      <p class="meta">
        <${Facts} of=${[visible(part.model), elapsed(part), tokens(part.token_usage), cost(part.cost_usd)]} />
        ${part.session_id && html`<a href=${`#/session/${part.session_id}`}>Transcript</a>`}</p>
      ${part.error && part.state !== "cancelled" && html`<p class="problem">${visible(part.error)}</p>`}
      ${isEnded
        ? html`<${Loaded} load=${() => get(`runs/${part.id}`)}>${(run) => html`<${Answer} text=${run.output} />`}<//>`
        : html`<${LiveAnswer} runId=${part.id} />`}
      ${done && html`<p class="result" role="status">${visible(done)}</p>`}
      ${worktree && !done && isEnded && html`
        <${Loaded} deps=${[worktree.state]} load=${() => get(`worktrees/${worktree.id}`)}>${(shown) => html`
          ${shown.diff
            ? html`<${Diff} text=${shown.diff} /><p><a href=${`#/worktree/${shown.id}`}>Review with comments</a></p>`
            : html`<p class="quiet">
                ${shown.state === "in use" ? "The changes are shown when the check has ended." : "No changes."}</p>`}
          <${WorktreeActions} worktree=${shown} onDone=${setDone} />`}<//>`}
      ${isUnchanged && html`<p class="quiet">No changes.</p>`}
    </section>`;
}

/** The answer of a run under way. */
function LiveAnswer({ runId }) {
  const [{ blocks }, setState] = useState(() => ({ blocks: new RunBlocks(runId) }));
  useEffect(() => stream.followRun(runId, (event) => {
    blocks.add(event);
    setState({ blocks });
  }), [runId]);
  return blocks.blocks.filter(({ kind }) => kind === "text").map((block) => html`
    <${Answer} key=${block.id} text=${block.text} isWhole />`);
}
