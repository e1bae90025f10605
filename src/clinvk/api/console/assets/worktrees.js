// The worktrees with changes of agents: review, comment, apply, discard.

import { html, useState } from "./vendor/preact.js";
import { get, post, remove, start } from "./api.js";
import { Diff } from "./diff.js";
import { plural, shortPath } from "./format.js";
import { navigate } from "./router.js";
import { RunRow } from "./runs.js";
import { Action, Empty, Loaded, Time, visible } from "./ui.js";

export const Worktrees = () => html`
  <h1 tabindex="-1">Worktrees</h1>
  <p class="quiet">Agents that run with the isolation <code>worktree</code> leave their changes here until you apply or discard them.</p>
  <${Loaded} load=${() => get("worktrees")}>${({ worktrees }) => (worktrees.length
    ? html`<div class="list">${[...worktrees].reverse().map((each) => html`
        <div class="item" key=${each.id}><a class="main" href=${`#/worktree/${each.id}`}>
          <span class="title">${visible(shortPath(each.repository))}</span>
          <span class="meta"><span class="mono">${visible(each.branch)}</span><span>${plural(each.files.length, "changed file")}</span>
            ${each.problem && html`<span class="error">${visible(each.problem)}</span>`}</span></a>
          <span class="side"><span class="state ${each.state === "in use" ? "running" : ""}">${each.state}</span><${Time} at=${each.made_at} /></span></div>`)}</div>`
    : html`<${Empty}>No worktrees. <a href="#/compare">Compare agents</a> to have each work in one.<//>`)}<//>`;

/** The buttons that end a worktree. `onDone` is called with a text about it. */
export const WorktreeActions = ({ worktree, onDone }) => html`
  <div class="buttons">
    <${Action} class="primary" disabled=${worktree.state !== "changed"} run=${async () => {
      const { files, warnings, removed } = await post(`worktrees/${worktree.id}/apply`);
      onDone(`Applied ${plural(files.length, "file")} to ${worktree.repository}, uncommitted.${removed ? "" : ` The worktree stays: ${warnings.join("; ")}`}`);
    }}>Apply to the repository<//>
    <${Action} class="danger" disabled=${worktree.state === "in use"} confirm="Discard this worktree with all its changes?" run=${async () => {
      await remove(`worktrees/${worktree.id}`);
      onDone("Discarded.");
    }}>Discard<//>
  </div>`;

export const Worktree = ({ id }) => html`
  <${Loaded} deps=${[id]} load=${() => get(`worktrees/${id}`)}>${(worktree, reload) => html`<${Review} worktree=${worktree} onChange=${reload} />`}<//>`;

function Review({ worktree }) {
  const [done, setDone] = useState("");
  const [comments, setComments] = useState(new Map());
  const run = worktree.runs.find((each) => each.session_id);
  const onComment = (path, key, text, line) => setComments((old) => {
    const next = new Map(old);
    if (text.trim()) next.set(`${path}:${key}`, { path, key, text, line });
    else next.delete(`${path}:${key}`);
    return next;
  });
  return html`
    <header class="session-head"><h1 tabindex="-1">${visible(shortPath(worktree.repository))}</h1>
      <p class="meta"><span class="mono">${visible(worktree.branch)}</span><span>${plural(worktree.files.length, "changed file")}</span>
        <span>${worktree.state}</span><${Time} at=${worktree.made_at} /></p></header>
    ${worktree.problem && html`<p class="problem">${visible(worktree.problem)}</p>`}
    ${done ? html`<p class="result" role="status">${visible(done)} <a href="#/worktrees">All worktrees</a></p>` : html`<${WorktreeActions} worktree=${worktree} onDone=${setDone} />`}
    ${worktree.runs.length > 0 && html`<h2>Runs</h2><div class="list">${worktree.runs.map((each) => html`<${RunRow} key=${each.id} run=${each} />`)}</div>`}
    <h2>Changes</h2>
    ${worktree.diff ? html`${run && !done && html`<p class="quiet">Choose a line number to comment. All comments become one prompt for the agent.</p>`}
        <${Diff} text=${worktree.diff} comments=${comments} onComment=${run && !done ? onComment : undefined} />`
      : html`<${Empty}>${worktree.state === "in use" ? "The agent is at work. The diff is here when it has ended." : "No changes."}<//>`}
    ${comments.size > 0 && html`<div class="dock bar"><span>${plural(comments.size, "comment")}</span>
      <${Action} class="primary" run=${() => sendComments(run, [...comments.values()])}>Send to the agent<//></div>`}`;
}

/** Continue the session of a run with all comments as one prompt. */
async function sendComments(run, comments) {
  const written = comments.map(({ path, key, text, line }) =>
    `${path}, line ${key.replace("-", "")}${line.kind === "removed" ? " (removed)" : ""}:\n> ${line.text}\n${text.trim()}`);
  const prompt = `Address these comments on your changes:\n\n${written.join("\n\n")}`;
  const { session_id: session } = await start("prompt", { session_id: run.session_id, prompt });
  navigate(`session/${session}`);
}
