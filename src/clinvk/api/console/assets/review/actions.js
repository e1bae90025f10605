// What ends a worktree: its changes are applied to the repository, committed to a branch, or discarded.

import { html, useState } from "../vendor/preact.js";
import { post, remove, send } from "../base/api.js";
import { plural } from "../base/format.js";
import { Action, Empty, useFocus } from "../base/ui.js";

const PROPOSAL_MS = 180_000; // an agent reads the changes

/** Return what `load` returns, or an empty object if the worktree is gone. */
export const unlessEnded = (load) => load().catch((error) => {
  if (error.status !== 404) throw error;
  return {};
});

export const WorktreeEnded = () => html`<${Empty}>This worktree has ended: its changes were applied, committed or discarded.
  The next prompt of the session creates the worktree again.<//>`;

/** Apply the changes of a worktree. Return a text about it. */
export async function apply({ id, repository }) {
  const { files, warnings, removed } = await post(`worktrees/${id}/apply`);
  const kept = removed ? "" : ` The worktree stays: ${warnings.join("; ")}`;
  return `Applied ${plural(files.length, "file")} to ${repository}, uncommitted.${kept}`;
}

/** The buttons that end a worktree. `onDone` is called with a text about it. */
export function WorktreeActions({ worktree, onDone }) {
  const { id, state } = worktree;
  const [isCommitting, setCommitting] = useState(false);
  async function discard() {
    await remove(`worktrees/${id}`);
    onDone("Discarded.");
  }
  if (isCommitting) return html`<${CommitForm} id=${id} onDone=${onDone} onCancel=${() => setCommitting(false)} />`;
  return html`
    <div class="buttons">
      ${state === "changed" && html`
        <${Action} class="primary" run=${async () => onDone(await apply(worktree))}>Apply to the repository<//>
        <button type="button" onClick=${() => setCommitting(true)}>Commit…</button>`}
      ${state !== "in use" && html`
        <${Action} class="danger" run=${discard} confirm="Discard this worktree with all its changes?">Discard<//>`}
    </div>`;
}

function CommitForm({ id, onDone, onCancel }) {
  const [message, setMessage] = useState("");
  const field = useFocus();
  async function propose() {
    try {
      const response = await send("POST", `worktrees/${id}/message`, { body: {}, signal: AbortSignal.timeout(PROPOSAL_MS) });
      const proposed = (await response.json()).message;
      setMessage((typed) => (typed === message ? proposed : typed));
    } catch (failure) {
      throw new Error(`No message: ${failure.message.replace(/\.$/, "")}. Write the message, or try again.`);
    }
  }
  async function commit() {
    const { commit: name, branch } = await post(`worktrees/${id}/commit`, { message: message.trim() });
    onDone(`Committed ${name.slice(0, 10)} to the branch ${branch}.`);
  }
  return html`
    <form class="card" aria-label="Commit">
      <label>Commit message <textarea aria-label="Commit message" value=${message} ref=${field}
        onInput=${(event) => setMessage(event.target.value)}></textarea></label>
      <div class="buttons"><${Action} class="primary" run=${commit} disabled=${!message.trim()}>Commit<//>
        <${Action} run=${propose}>Propose message<//>
        <button type="button" onClick=${onCancel}>Cancel</button></div>
    </form>`;
}
