// The changes of a session: its diff since the beginning or a turn, comments for the agent, and what ends its worktree.

import { html, useState } from "../vendor/preact.js";
import { WorktreeActions, WorktreeEnded, unlessEnded } from "./actions.js";
import { get } from "../base/api.js";
import { draftPrompt } from "../base/drafts.js";
import { firstLine } from "../base/format.js";
import { Review } from "./review.js";
import { Loaded, Select, useFocus, visible } from "../base/ui.js";

const MAX_TURNS = 30;

export function ChangesPanel({ session, turns, onClose }) {
  const [since, setSince] = useState("");
  const [done, setDone] = useState({}); // what ended the worktree, until the next turn
  const heading = useFocus();
  const isBusy = turns.some((turn) => turn.isActive);
  const ended = turns.filter((turn) => !turn.isActive && !turn.isWithdrawn);
  const load = () => unlessEnded(() => get(`sessions/${session.id}/changes`, { since }));
  function insert(prompt) {
    onClose();
    draftPrompt(session.id, prompt);
  }
  const onKeyDown = (event) => event.key === "Escape" && !event.defaultPrevented && onClose();
  const choices = ended.slice(-MAX_TURNS).reverse().map(({ run, prompt }) => [run.id, `Since: ${firstLine(prompt).slice(0, 60)}`]);
  return html`
    <section class="changes scroller" aria-label="Changes" onKeyDown=${onKeyDown}>
      <header class="screen-head"><h2 tabindex="-1" ref=${heading}>Changes</h2>
        ${session.worktree && html`<${Select} label="Changes since" value=${since} onChange=${setSince}
          options=${[["", "Since the beginning"], ...choices]} />`}
        <button type="button" class="small" onClick=${onClose}>Close</button></header>
      ${done.turns === turns.length && html`<p class="result" role="status">${visible(done.text)}</p>`}
      <${Loaded} deps=${[since, ended.length, done]} load=${load}>${({ diff, diff_is_cut: isCut, branch, worktree, files }) => (
        diff === undefined ? html`<${WorktreeEnded} />` : html`
          <p class="meta"><span>${worktree ? "In its own worktree" : "Uncommitted"}</span>
            ${branch && html`<span class="mono">${visible(branch)}</span>`}</p>
          ${worktree && html`<${WorktreeActions} onDone=${(text) => setDone({ text, turns: turns.length })} worktree=${{
            id: worktree, repository: session.project, state: isBusy ? "in use" : files.length ? "changed" : "unchanged",
          }} />`}
          <${Review} text=${diff} isCut=${isCut} sessionId=${session.id} isBusy=${isBusy} onInsert=${insert} />`)}<//>
    </section>`;
}
