// What ends a worktree: its changes are applied to the repository, committed to a branch, or discarded.

import { html, useState } from "../vendor/preact.js";
import { post, remove, send } from "../base/api.js";
import { plural } from "../base/format.js";
import { Action, Form, Problem, TextArea } from "../base/ui.js";

const PROPOSAL_MS = 180_000; // an agent reads the changes

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
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  async function propose() {
    const response = await send("POST", `worktrees/${id}/message`, { body: {}, signal: AbortSignal.timeout(PROPOSAL_MS) });
    setMessage((await response.json()).message);
  }
  async function commit() {
    setBusy(true);
    try {
      const { commit: name, branch } = await post(`worktrees/${id}/commit`, { message: message.trim() });
      onDone(`Committed ${name.slice(0, 10)} to the branch ${branch}.`);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  }
  return html`
    <${Form} class="card" aria-label="Commit" onSubmit=${commit}>
      <label>Commit message <${TextArea} label="Commit message" rows="4" value=${message} onChange=${setMessage} /></label>
      <${Problem} error=${error} />
      <div class="buttons"><button class="primary" disabled=${isBusy || !message.trim()}>Commit</button>
        <${Action} run=${propose} disabled=${isBusy}>Propose message<//>
        <button type="button" onClick=${onCancel}>Cancel</button></div>
    <//>`;
}
