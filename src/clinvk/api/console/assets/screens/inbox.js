// The first screen: what waits for an answer, then the newest sessions and runs.

import { html, useEffect } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { ENDED, newestFirst } from "../base/format.js";
import { InteractionCard } from "../session/interaction.js";
import { live, useLive } from "../base/live.js";
import { RunList, SessionRow } from "./rows.js";
import { Empty, List, Loaded, useTick } from "../base/ui.js";

const NEWEST = 6;
const MAX_ACTIVE = 20;

export function Inbox() {
  const { interactions, pending, activeRuns, newestRuns, isLoaded } = useLive();
  // Resolved cards keep their place, so that no button moves under the pointer.
  const shown = [...interactions.values()].sort(newestFirst).reverse();
  const resolved = shown.length - pending.length;
  useEffect(() => () => live.clearResolved(), []);
  useTick(activeRuns.length > 0);
  return html`
    <header class="screen-head"><h1 tabindex="-1">Inbox</h1>
      ${resolved > 0 && html`
        <button class="small" type="button" onClick=${() => live.clearResolved()}>Clear ${resolved} answered</button>`}
      <a class="button primary" href="#/new">New session</a></header>
    <section aria-label="Waits for you">
      ${!shown.length && html`<${Empty}>${isLoaded ? "Nothing waits for you." : "Loading…"}<//>`}
      ${shown.map((each) => html`<${InteractionCard} key=${each.id} interaction=${each} />`)}
    </section>
    ${activeRuns.length > 0 && html`
      <section aria-label="Under way"><h2>Under way</h2>
        <${RunList} runs=${activeRuns.slice(0, MAX_ACTIVE)} /></section>`}
    <div class="columns">
      <section aria-label="Newest sessions"><h2><a href="#/sessions">Sessions</a></h2>
        <${Loaded} deps=${[activeRuns.length]} load=${() => get("sessions", { limit: NEWEST })}>${({ sessions }) => sessions.length
          ? html`<${List} items=${sessions} row=${(session) => html`<${SessionRow} key=${session.id} session=${session} />`} />`
          : html`<${Empty}>No sessions yet.<//>`}<//></section>
      <section aria-label="Newest runs"><h2><a href="#/runs">Runs</a></h2>
        <${RunList} runs=${newestRuns.filter((run) => ENDED.has(run.state)).slice(0, NEWEST)} /></section>
    </div>`;
}
