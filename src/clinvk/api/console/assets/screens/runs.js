// The runs: those that are under way, with their progress, and the newest that have ended.

import { html } from "../vendor/preact.js";
import { cancel } from "../base/api.js";
import { ENDED, cost, elapsed, firstLine, newestFirst, pathOf, shortPath, tokens } from "../base/format.js";
import { useLive } from "../base/live.js";
import { Action, Agent, Empty, Facts, List, Problem, State, Time, usePages, useTick, visible } from "../base/ui.js";
import { VirtualList } from "../base/virtual-list.js";

const ROW_PX = 76;

/** A run in a list. */
export function RunRow({ run }) {
  const isActive = !ENDED.has(run.state);
  return html`
    <div class="item ${run.state}">
      <a class="main" href=${pathOf(run)}>
        <span class="title">${visible(firstLine(run.prompt) || "Prompt not stored")}</span>
        <span class="meta"><${Agent} name=${run.backend || run.kind} />
          ${run.model && html`<span class="model">${visible(run.model)}</span>`}
          <span title=${run.workdir}>${visible(shortPath(run.workdir))}</span>
          <${Facts} of=${[elapsed(run), tokens(run.token_usage), cost(run.cost_usd)]} />
          ${run.error && run.state !== "cancelled" && html`<span class="error">${visible(firstLine(run.error))}</span>`}</span>
      </a>
      <span class="side"><${State} state=${run.state} /><${Time} at=${run.ended_at || run.created_at} /></span>
      ${isActive && html`<${Action} class="small" run=${() => cancel(run.id)}>Stop<//>`}
    </div>`;
}

export const RunList = ({ runs }) => html`<${List} items=${runs} row=${(run) => html`<${RunRow} key=${run.id} run=${run} />`} />`;

export function Runs() {
  const live = useLive();
  const active = live.activeRuns;
  const { items, error, more } = usePages("runs", {});
  useTick(active.length > 0);
  const known = new Map([...items, ...live.runs.values()].map((run) => [run.id, run]));
  const ended = [...known.values()].filter((run) => ENDED.has(run.state)).sort(newestFirst);
  return html`
    <h1 tabindex="-1">Runs</h1>
    <section aria-label="Under way">
      <h2>Under way <span class="quiet">${active.length || ""}</span></h2>
      ${active.length ? html`<${RunList} runs=${active} />`
        : html`<${Empty}>No agent is working. <a href="#/new">Start one</a>.<//>`}
    </section>
    <section aria-label="Ended">
      <h2>Ended</h2>
      <${Problem} error=${error} />
      ${!ended.length && html`<${Empty}>No run has ended yet.<//>`}
      <div class="list"><${VirtualList} label="Ended runs" items=${ended} keyOf=${(run) => run.id} estimate=${ROW_PX}
        onEnd=${more} render=${(run) => html`<${RunRow} run=${run} />`} /></div>
    </section>`;
}
