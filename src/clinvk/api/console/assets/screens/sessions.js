// The list of sessions, with a search.

import { html, useState } from "../vendor/preact.js";
import { cost, plural, shortPath, titleOf, tokens } from "../base/format.js";
import { live, useLive } from "../base/live.js";
import { Agent, Empty, Facts, Problem, State, TextField, Time, usePages, visible } from "../base/ui.js";
import { VirtualList } from "../base/virtual-list.js";

const ROW_PX = 76;

/** Return what an agent does in a session, or else how the last run ended. */
const stateOf = ({ id, status }) => {
  const states = live.activeRuns.filter((run) => run.session_id === id).map((run) => run.state);
  return ["waiting", "running", "queued"].find((state) => states.includes(state)) ?? status;
};

/** A session in a list. */
export const SessionRow = ({ session }) => html`
  <div class="item ${stateOf(session)}">
    <a class="main" href=${`#/session/${session.id}`}>
      <span class="title">${visible(titleOf(session))}</span>
      <span class="meta"><${Agent} name=${session.backend} />
        <span title=${session.working_dir}>${visible(shortPath(session.working_dir))}</span>
        ${session.tags.map((tag) => html`<span class="tag">${visible(tag)}</span>`)}
        <${Facts} of=${[plural(session.turn_count, "turn"), tokens(session.token_usage), cost(session.cost_usd)]} /></span>
    </a>
    <span class="side">
      ${stateOf(session) !== "completed" && html`<${State} state=${stateOf(session)} />`}<${Time} at=${session.last_used} />
    </span>
  </div>`;

export function Sessions() {
  const [query, setQuery] = useState("");
  const { activeRuns } = useLive();
  const states = activeRuns.map((run) => run.id + run.state).join();
  const { items, total, error, more } = usePages("sessions", { q: query.trim() }, states);
  return html`
    <header class="screen-head"><h1 tabindex="-1">Sessions</h1>
      <${TextField} type="search" label="Search sessions" placeholder="Search title or first prompt"
        value=${query} onChange=${setQuery} />
      <a class="button primary" href="#/new">New session</a></header>
    <p class="quiet" role="status">${total === null ? "Loading…" : plural(total, "session")}</p>
    <${Problem} error=${error} />
    ${total === 0 && html`<${Empty}>${query ? "No session matches." : "No sessions yet."}<//>`}
    <div class="list"><${VirtualList} label="Sessions" items=${items} keyOf=${(session) => session.id} estimate=${ROW_PX}
      onEnd=${more} render=${(session) => html`<${SessionRow} session=${session} />`} /></div>`;
}
