// Sessions and runs as rows of lists, and the groups of these lists.

import { html } from "../vendor/preact.js";
import { cancel } from "../base/api.js";
import { ENDED, cost, elapsed, firstLine, nameOf, pathOf, plural, titleOf, tokens } from "../base/format.js";
import { Icon } from "../base/icons.js";
import { live } from "../base/live.js";
import { Action, Agent, Facts, List, STATES, Time, visible } from "../base/ui.js";

const ACTIVE = ["waiting", "running", "queued"];
const GROUPS = ["Waiting", "Working", "Today", "Earlier"];

/** Return the directory that the user chose for a session. */
export const projectOf = (session) => session.project ?? session.working_dir;

let working = { version: -1, states: new Map() };

/** Return the states of the sessions with runs in progress, computed again after each change. */
function workingStates() {
  if (working.version === live.version) return working.states;
  const states = new Map();
  for (const state of [...ACTIVE].reverse()) {
    for (const run of live.runs.values()) if (run.state === state) states.set(run.session_id, state);
  }
  working = { version: live.version, states };
  return states;
}

/** Return what an agent does in a session, or else how the last run ended. */
export const stateOf = ({ id, status }) => workingStates().get(id) ?? status;

const isToday = (time) => new Date(time).toDateString() === new Date().toDateString();

/** Return the index of the group of an item with a state and a time. */
function groupOf(state, time) {
  if (state === "waiting") return 0;
  if (state === "active" || ACTIVE.includes(state)) return 1;
  return isToday(time) ? 2 : 3;
}
const groupOfItem = (item) => ("status" in item
  ? groupOf(stateOf(item), item.last_used) : groupOf(item.state, item.ended_at ?? item.created_at));

/** Return sessions or runs as pairs of the name of a group and its items. Groups without items are left out. */
export const grouped = (items) => GROUPS.map((name, index) => [name, items.filter((item) => groupOfItem(item) === index)])
  .filter(([, own]) => own.length > 0);

export const StateIcon = ({ state }) => html`
  <span class="state ${state}" title=${STATES[state] ?? state}><${Icon} name=${state} />
    <span class="sr">${STATES[state] ?? state}</span></span>`;

/** A row: the state at left, a link with the title and `facts`, the time, and `children` such as buttons. */
const Row = ({ state, href, title, hint, facts, time, more, children }) => html`
  <div class="item ${state}">
    <${StateIcon} state=${state} />
    <a class="main" href=${href} title=${hint.filter(Boolean).join(" · ")}>
      <span class="title">${visible(title)}</span><span class="meta">${facts}</span>${more}
    </a>
    <${Time} at=${time} />${children}
  </div>`;

const Place = ({ path }) => html`<span class="place" title=${path}>${visible(nameOf(path))}</span>`;

/** Return a text with the words of a search marked. */
function marked(text, search) {
  const words = search.split(/\s+/).filter(Boolean).map((word) => word.replace(/[^\p{L}\p{N}]/gu, "\\$&"));
  if (!words.length) return visible(text);
  return text.split(new RegExp(`(${words.join("|")})`, "giu")).map((part, index) =>
    (index % 2 ? html`<mark>${visible(part)}</mark>` : visible(part)));
}

/** A session in a list. `search` is the text for which the list was searched. */
export const SessionRow = ({ session, search = "", children }) => html`
  <${Row} state=${stateOf(session)} href=${`#/session/${session.id}`} title=${titleOf(session)} time=${session.last_used}
    hint=${[plural(session.turn_count, "turn"), tokens(session.token_usage), cost(session.cost_usd)]}
    facts=${html`<${Place} path=${projectOf(session)} /><${Agent} name=${session.backend} />
      ${session.worktree && html`<${Icon} name="worktrees" /><span class="sr">in its own worktree</span>`}
      ${session.tags.map((tag) => html`<span class="tag">${visible(tag)}</span>`)}`}
    more=${session.match && html`<span class="match">${marked(session.match.text, search)}</span>`}>${children}<//>`;

/** A run in a list. */
export const RunRow = ({ run }) => html`
  <${Row} state=${run.state} href=${pathOf(run)} title=${firstLine(run.prompt) || "Prompt not stored"}
    time=${run.ended_at || run.created_at} hint=${[run.model, tokens(run.token_usage), cost(run.cost_usd)]}
    facts=${html`<${Place} path=${run.workdir} /><${Agent} name=${run.backend || run.kind} /><${Facts} of=${[elapsed(run)]} />
      ${run.error && run.state !== "cancelled" && html`<span class="error">${visible(firstLine(run.error))}</span>`}`}>
    ${!ENDED.has(run.state) && html`<${Action} class="small" run=${() => cancel(run.id)}>Stop<//>`}<//>`;

export const RunList = ({ runs }) => html`<${List} items=${runs} row=${(run) => html`<${RunRow} key=${run.id} run=${run} />`} />`;
