// The worktrees with changes of agents: review, comment, apply, commit, discard.

import { html, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { WorktreeActions, WorktreeEnded, unlessEnded } from "./actions.js";
import { Counts } from "./diff.js";
import { firstLine, plural, shortPath } from "../base/format.js";
import { Review } from "./review.js";
import { RunList } from "../screens/rows.js";
import { Agent, Empty, Facts, List, Loaded, Time, visible } from "../base/ui.js";

const SEARCHED_RUNS = 1_000;

/** Load the worktrees, newest first, each with the first run in it, and the runs that compare agents by id. */
async function loadWorktrees() {
  const [{ worktrees }, { runs }] = await Promise.all([get("worktrees"), get("runs", { limit: SEARCHED_RUNS })]);
  const runOf = (worktree) => runs.findLast((run) => run.workdir === worktree.path && run.kind !== "compare");
  return {
    worktrees: worktrees.reverse().map((worktree) => ({ ...worktree, run: runOf(worktree) })),
    parents: new Map(runs.map((run) => [run.id, run])),
  };
}

export const Worktrees = () => html`
  <h1 tabindex="-1">Worktrees</h1>
  <p class="quiet">Agents leave their changes here until you apply, commit or discard them.</p>
  <${Loaded} load=${loadWorktrees}>${({ worktrees, parents }) => (worktrees.length
    ? html`<${Groups} worktrees=${worktrees} parents=${parents} />`
    : html`<${Empty}>No worktrees. <a href="#/new">Start a session</a> in a worktree, or <a href="#/compare">compare agents</a>.<//>`)}<//>`;

/** The worktrees of a compare stand together. */
function Groups({ worktrees, parents }) {
  const compareOf = ({ run }) => parents.get(run?.parent_id);
  const groups = Map.groupBy(worktrees, (each) => compareOf(each)?.id ?? "");
  return [...groups].map(([id, group]) => html`
    <section key=${id}>${id && html`<h2><a href=${`#/compare/${id}`}>Compare: ${visible(firstLine(parents.get(id).prompt))}</a></h2>`}
      <${List} items=${group} row=${(each) => html`<${WorktreeRow} key=${each.id} worktree=${each} />`} /></section>`);
}

function WorktreeRow({ worktree: { id, state, repository, branch, files, problem, made_at: madeAt, run } }) {
  return html`
    <div class="item"><a class="main" href=${`#/worktree/${id}`}>
      <span class="title">${visible(firstLine(run?.prompt) || shortPath(repository))}</span>
      <span class="meta">${run && html`<${Agent} name=${run.backend} />`}<span title=${repository}>${visible(shortPath(repository))}</span>
        <span class="mono">${visible(branch)}</span><${Facts} of=${[plural(files.length, "changed file")]} />
        ${files.some((file) => file.added !== undefined) && html`<${Counts} files=${files} />`}
        ${problem && html`<span class="error">${visible(problem)}</span>`}</span></a>
      <span class="side"><span class="state ${state === "in use" ? "running" : ""}">${state}</span>
        <${Time} at=${madeAt} /></span></div>`;
}

export const Worktree = ({ id }) => html`
  <${Loaded} load=${() => unlessEnded(() => get(`worktrees/${id}`))}>${(worktree) => (worktree.id
    ? html`<${WorktreeReview} worktree=${worktree} />`
    : html`<h1 tabindex="-1">Worktree ${id}</h1><${WorktreeEnded} />`)}<//>`;

function WorktreeReview({ worktree }) {
  const [done, setDone] = useState("");
  const run = worktree.runs.find((each) => each.session_id);
  return html`
    <header class="session-head"><h1 tabindex="-1">${visible(firstLine(run?.prompt) || shortPath(worktree.repository))}</h1>
      <p class="meta">${run && html`<${Agent} name=${run.backend} />`}
        <span title=${worktree.repository}>${visible(shortPath(worktree.repository))}</span>
        <span class="mono">${visible(worktree.branch)}</span><${Facts} of=${[!done && worktree.state]} /><${Time} at=${worktree.made_at} /></p></header>
    ${worktree.problem && html`<p class="problem">${visible(worktree.problem)}</p>`}
    ${done
      ? html`<p class="result" role="status">${visible(done)} <a href="#/worktrees">All worktrees</a></p>`
      : html`<${WorktreeActions} worktree=${worktree} onDone=${setDone} />`}
    ${worktree.runs.length > 0 && html`<h2>Runs</h2><${RunList} runs=${worktree.runs} />`}
    <h2>Changes</h2>
    ${worktree.diff
      ? html`<${Review} text=${worktree.diff} isCut=${worktree.diff_is_cut} sessionId=${done ? undefined : run?.session_id} />`
      : html`<${Empty}>${worktree.state === "in use" ? "The diff is here when the agent has ended." : "No changes."}<//>`}`;
}
