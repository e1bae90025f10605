// The outcome of a compare: a table of the agents, their answers in columns, and one review with a tab for each agent.

import { html, useEffect, useState } from "../vendor/preact.js";
import { WorktreeActions, apply } from "../review/actions.js";
import { cancel, get } from "../base/api.js";
import { Counts, parseDiff } from "../review/diff.js";
import { ENDED, cost, elapsed, tokens } from "../base/format.js";
import { useLive } from "../base/live.js";
import { Answer } from "../base/markdown.js";
import { Review } from "../review/review.js";
import { stream } from "../base/stream.js";
import { InteractionCard } from "../session/interaction.js";
import { RunBlocks } from "../session/transcript.js";
import { Action, Agent, Facts, Loaded, Loading, Problem, State, useLoaded, useTick, visible } from "../base/ui.js";

/** Read the results of the checks and the verdict from the output of a compare; `best` is the index of a part. */
function outcomeOf(output) {
  const best = /^best: \[(\d+)\]/m.exec(output);
  const checks = [...output.slice(0, best?.index).matchAll(/^\[(\d+)\] .*: check (passed|failed)$/gm)];
  return { best: best ? best[1] - 1 : null, checks: new Map(checks.map(([, number, result]) => [number - 1, result])) };
}

/** Load the worktrees of the parts, each with its diff, by path. */
async function loadWorktrees(parts) {
  const { worktrees } = await get("worktrees");
  const ours = worktrees.filter(({ path }) => parts.some((part) => part.workdir === path));
  return new Map(await Promise.all(ours.map(async ({ id, path }) => [path, await get(`worktrees/${id}`)])));
}

export function Comparison({ id }) {
  const live = useLive();
  const [done, setDone] = useState("");
  const known = [...live.runs.values()].filter((each) => each.id === id || each.parent_id === id);
  const states = known.map((each) => each.id + each.state).sort().join();
  const { value: run, error } = useLoaded(() => get(`runs/${id}`), [id, states]);
  const parts = run?.runs.filter((part) => part.name !== "judge") ?? [];
  const { value: worktrees = new Map(), error: unknown } = useLoaded(() => loadWorktrees(parts), [run, done]);
  useTick(Boolean(run) && !ENDED.has(run.state));
  if (!run) return error ? html`<${Problem} error=${error} />` : html`<${Loading} />`;
  const judge = run.runs.find((part) => part.name === "judge");
  const outcome = outcomeOf(run.output);
  const asked = [...live.interactions.values()].filter(({ run_id: asks }) => run.runs.some((part) => part.id === asks));
  const best = worktrees.get(parts[outcome.best]?.workdir);
  return html`
    <header class="session-head"><h1 tabindex="-1">${visible(run.prompt.slice(0, 300))}</h1>
      <p class="meta"><${State} state=${run.state} />
        <${Facts} of=${[elapsed(run), tokens(run.token_usage), cost(run.cost_usd)]} />
        ${!ENDED.has(run.state) && html`<${Action} class="small" run=${() => cancel(id)}>Stop all<//>`}</p>
    </header>
    <${Problem} error=${error ?? unknown} />
    ${asked.map((each) => html`<${InteractionCard} key=${each.id} interaction=${each} />`)}
    <${Outcome} parts=${parts} outcome=${outcome} worktrees=${worktrees} />
    ${judge && !ENDED.has(judge.state) && html`
      <p class="working"><span class="pulse" aria-hidden="true"></span>${judge.backend} judges the answers</p>`}
    ${done && html`<p class="result" role="status">${visible(done)}</p>`}
    ${best?.state === "changed" && html`<div class="buttons">
      <${Action} class="primary" run=${async () => setDone(await apply(best))}>Apply the best<//></div>`}
    ${run.output && html`
      <section class="card verdict" aria-label="Checks and verdict"><h2>Checks and verdict</h2><${Answer} text=${run.output} /></section>`}
    <h2>Answers</h2>
    <div class="answers">${parts.map((part) => html`<${Column} key=${part.id} part=${part} />`)}</div>
    <${Tabs} parts=${parts.filter((part) => worktrees.has(part.workdir))} first=${parts[outcome.best]} worktrees=${worktrees}
      onDone=${setDone} />`;
}

const COLUMNS = ["Agent", "Verdict", "Check", "State", "Duration", "Cost", "Changes"];

const Outcome = ({ parts, outcome, worktrees }) => html`
  <div class="scroll" tabindex="0"><table class="outcome"><caption class="sr">Outcome by agent</caption>
    <thead><tr>${COLUMNS.map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
    <tbody>${parts.map((part, index) => {
      const isBest = index === outcome.best;
      const diff = worktrees.get(part.workdir)?.diff;
      return html`<tr key=${part.id} class=${isBest ? "best" : ""}>
        <th scope="row"><${Agent} name=${part.backend} /> <span class="quiet">${visible(part.model)}</span></th>
        <td>${isBest ? "★ Best" : "–"}</td><td class=${outcome.checks.get(index)}>${outcome.checks.get(index) ?? "–"}</td>
        <td><${State} state=${part.state} /></td><td>${elapsed(part)}</td><td>${cost(part.cost_usd) || "–"}</td>
        <td>${diff ? html`<${Counts} files=${parseDiff(diff)} />` : "–"}</td></tr>`;
    })}</tbody></table></div>`;

function Column({ part }) {
  return html`
    <section class="card column" aria-label=${part.backend}>
      <header><h3><${Agent} name=${part.backend} /></h3><${State} state=${part.state} />
        ${part.session_id && html`<a href=${`#/session/${part.session_id}`}>Transcript</a>`}</header>
      ${part.error && part.state !== "cancelled" && html`<p class="problem">${visible(part.error)}</p>`}
      ${ENDED.has(part.state)
        ? html`<${Loaded} load=${() => get(`runs/${part.id}`)}>${(run) => html`<${Answer} text=${run.output} />`}<//>`
        : html`<${LiveAnswer} runId=${part.id} />`}
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

/** One review with a tab for each agent, which the arrow keys change. */
function Tabs({ parts, first, worktrees, onDone }) {
  const [chosen, setChosen] = useState(null);
  const part = parts.find(({ id }) => id === chosen) ?? parts.find((each) => each === first) ?? parts[0];
  if (!part) return html`<p class="quiet">No changes in worktrees.</p>`;
  function onKeyDown(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = by && parts.at((parts.indexOf(part) + by) % parts.length);
    if (!next) return;
    setChosen(next.id);
    event.currentTarget.children[parts.indexOf(next)].focus();
  }
  return html`
    <h2>Changes</h2>
    <div class="tabs" role="tablist" aria-label="Agents" onKeyDown=${onKeyDown}>${parts.map((each) => html`
      <button type="button" role="tab" key=${each.id} aria-selected=${each === part} tabindex=${each === part ? 0 : -1}
        onClick=${() => setChosen(each.id)}><${Agent} name=${each.backend} /></button>`)}</div>
    <div role="tabpanel" aria-label=${`Changes of ${part.backend}`}>
      <${Changes} key=${part.id} part=${part} worktree=${worktrees.get(part.workdir)} onDone=${onDone} /></div>`;
}

const Changes = ({ part, worktree, onDone }) => html`
  <${WorktreeActions} worktree=${worktree} onDone=${onDone} />
  ${worktree.state === "in use" ? html`<p class="quiet">The changes are shown when the check has ended.</p>` : html`
    <${Review} text=${worktree.diff ?? ""} isCut=${worktree.diff_is_cut}
      sessionId=${ENDED.has(part.state) ? part.session_id : undefined} />`}`;
