// The worktrees with changes of agents: review, comment, apply, discard.

import { html, useState } from "../vendor/preact.js";
import { get, post, remove, start } from "../base/api.js";
import { Diff } from "./diff.js";
import { plural, shortPath } from "../base/format.js";
import { live } from "../base/live.js";
import { navigate } from "../base/router.js";
import { RunList } from "../screens/rows.js";
import { Action, Empty, Facts, List, Loaded, Time, visible } from "../base/ui.js";

export const Worktrees = () => html`
  <h1 tabindex="-1">Worktrees</h1>
  <p class="quiet">Agents leave their changes here until you apply or discard them.</p>
  <${Loaded} load=${() => get("worktrees")}>${({ worktrees }) => (worktrees.length
    ? html`<${List} items=${[...worktrees].reverse()} row=${(each) => html`<${WorktreeRow} key=${each.id} worktree=${each} />`} />`
    : html`<${Empty}>No worktrees. <a href="#/compare">Compare agents</a> to have each work in one.<//>`)}<//>`;

const WorktreeRow = ({ worktree: { id, state, repository, branch, files, problem, made_at: madeAt } }) => html`
  <div class="item"><a class="main" href=${`#/worktree/${id}`}>
    <span class="title">${visible(shortPath(repository))}</span>
    <span class="meta"><span class="mono">${visible(branch)}</span><${Facts} of=${[plural(files.length, "changed file")]} />
      ${problem && html`<span class="error">${visible(problem)}</span>`}</span></a>
    <span class="side"><span class="state ${state === "in use" ? "running" : ""}">${state}</span>
      <${Time} at=${madeAt} /></span></div>`;

/** The buttons that end a worktree. `onDone` is called with a text about it. */
export function WorktreeActions({ worktree: { id, state, repository }, onDone }) {
  async function apply() {
    const { files, warnings, removed } = await post(`worktrees/${id}/apply`);
    const kept = removed ? "" : ` The worktree stays: ${warnings.join("; ")}`;
    onDone(`Applied ${plural(files.length, "file")} to ${repository}, uncommitted.${kept}`);
  }
  async function discard() {
    await remove(`worktrees/${id}`);
    onDone("Discarded.");
  }
  return html`
    <div class="buttons">
      ${state === "changed" && html`<${Action} class="primary" run=${apply}>Apply to the repository<//>`}
      ${state !== "in use" && html`
        <${Action} class="danger" run=${discard} confirm="Discard this worktree with all its changes?">Discard<//>`}
    </div>`;
}

export const Worktree = ({ id }) => html`
  <${Loaded} load=${() => get(`worktrees/${id}`)}>${(worktree) => html`<${Review} worktree=${worktree} />`}<//>`;

function Review({ worktree }) {
  const [done, setDone] = useState("");
  const [comments, setComments] = useState(new Map());
  const run = worktree.runs.find((each) => each.session_id);
  const takesComments = Boolean(run && worktree.diff && !done);
  const onComment = (path, key, text, line) => setComments((old) => {
    const next = new Map(old);
    if (text.trim()) next.set(`${path}:${key}`, { path, text, line });
    else next.delete(`${path}:${key}`);
    return next;
  });
  return html`
    <header class="session-head"><h1 tabindex="-1">${visible(shortPath(worktree.repository))}</h1>
      <p class="meta"><span class="mono">${visible(worktree.branch)}</span>
        <${Facts} of=${[plural(worktree.files.length, "changed file"), worktree.state]} />
        <${Time} at=${worktree.made_at} /></p></header>
    ${worktree.problem && html`<p class="problem">${visible(worktree.problem)}</p>`}
    ${done
      ? html`<p class="result" role="status">${visible(done)} <a href="#/worktrees">All worktrees</a></p>`
      : html`<${WorktreeActions} worktree=${worktree} onDone=${setDone} />`}
    ${worktree.runs.length > 0 && html`<h2>Runs</h2><${RunList} runs=${worktree.runs} />`}
    <h2>Changes</h2>
    ${takesComments && html`
      <p class="quiet">Choose a line number to comment. All comments become one prompt for the agent.</p>`}
    ${worktree.diff
      ? html`<${Diff} text=${worktree.diff} comments=${comments} onComment=${takesComments && onComment} />`
      : html`<${Empty}>${worktree.state === "in use" ? "The diff is here when the agent has ended." : "No changes."}<//>`}
    ${worktree.diff_is_cut && html`<p class="quiet">The diff is cut here.</p>`}
    ${comments.size > 0 && html`<div class="dock bar"><span>${plural(comments.size, "comment")}</span>
      <${Action} class="primary" run=${() => sendComments(run, [...comments.values()])}>Send to the agent<//></div>`}`;
}

/** Continue the session of a run with all comments as one prompt. */
async function sendComments(run, comments) {
  const written = comments.map(({ path, text, line }) => {
    const place = line.kind === "removed" ? `removed line ${line.before}` : `line ${line.after}`;
    return `${path}, ${place}:\n> ${line.text}\n${text.trim()}`;
  });
  const prompt = `Address these comments on your changes:\n\n${written.join("\n\n")}`;
  const { session_id: session } = await start("prompt", {
    ...(live.me.may_ask && { approval_mode: "ask" }), session_id: run.session_id, prompt,
  });
  navigate(`session/${session}`);
}
