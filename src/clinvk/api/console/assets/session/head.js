// The head of a session, which stays in view: title, agent, state, *Stop*, and a menu for the session itself.

import { html, useState } from "../vendor/preact.js";
import { cancel, patch, post, remove } from "../base/api.js";
import { cost, shortPath, titleOf, tokens } from "../base/format.js";
import { Menu } from "../base/menu.js";
import { navigate } from "../base/router.js";
import { Action, Agent, Facts, Form, Problem, State, useAction, useFocus, visible } from "../base/ui.js";

/**
 * `session` is null for a run without one. `run` is the last run, `activeRun` the run in progress, `parent` the session
 * that this one was forked from. `onChange` is called after the title or the archive has changed.
 */
export function Head({ session, run, activeRun, parent, onChange, children }) {
  const [isNaming, setNaming] = useState(false);
  const [attempt, , error] = useAction((action) => action());
  const { backend, model } = session ?? run;
  const workdir = session?.project ?? session?.working_dir ?? run.workdir;
  const state = (activeRun ?? run)?.state;
  async function change(fields) {
    await patch(`sessions/${session.id}`, fields);
    setNaming(false);
    onChange();
  }
  async function drop() {
    if (!window.confirm("Delete this session with its runs?")) return;
    await remove(`sessions/${session.id}`);
    navigate("sessions");
  }
  const fork = async () => navigate(`session/${(await post(`sessions/${session.id}/fork`)).id}`);
  const items = session && [
    { label: "Rename", run: () => setNaming(true) },
    { label: "Fork", run: () => attempt(fork) },
    "archived" in session && {
      label: session.archived ? "Unarchive" : "Archive", run: () => attempt(() => change({ archived: !session.archived })),
    },
    { label: "Delete", isDanger: true, run: () => attempt(drop) },
  ];
  return html`
    <header class="session-head">
      <div class="top">
        ${isNaming
          ? html`<${Naming} title=${titleOf(session)} onSave=${(title) => attempt(() => change({ title }))}
              onCancel=${() => setNaming(false)} />`
          : html`<h1 tabindex="-1">${visible(session ? titleOf(session) : "Run without session")}</h1>`}
        ${state && html`<${State} state=${state} />`}
        ${activeRun && html`<${Action} class="small danger stop" run=${() => cancel(activeRun.id)}>Stop<//>`}
        ${children}
        ${session && html`<${Menu} label="Session" items=${items} />`}
      </div>
      <p class="meta"><${Agent} name=${backend} />
        <${Facts} of=${[
          visible(model), html`<span title=${workdir}>${visible(shortPath(workdir))}</span>`,
          session?.worktree && html`<a href=${`#/worktree/${session.worktree}`}>Worktree ${visible(session.worktree)}</a>`,
          session && tokens(session.token_usage), session && cost(session.cost_usd), session?.archived && "archived",
          parent && html`Fork of <a href=${`#/session/${parent.id}`}>${visible(titleOf(parent))}</a>`,
        ]} /></p>
      <${Problem} error=${error} />
    </header>`;
}

function Naming({ title, onSave, onCancel }) {
  const field = useFocus();
  const save = (event) => onSave(new FormData(event.target).get("title").trim());
  return html`
    <${Form} class="naming" onSubmit=${save}>
      <input name="title" aria-label="Title" maxlength="500" value=${title} ref=${field}
        onKeyDown=${(event) => event.key === "Escape" && onCancel()} />
      <button class="primary">Save</button><button type="button" onClick=${onCancel}>Cancel</button><//>`;
}
