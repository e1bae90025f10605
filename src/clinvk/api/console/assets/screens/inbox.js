// The first screen: what waits for an answer, as a list beside the request that is chosen, then the newest sessions and runs.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { ENDED, firstLine, newestFirst, shortPath } from "../base/format.js";
import { Context } from "../session/context.js";
import { InteractionCard, resultOf } from "../session/interaction.js";
import { live, useLive } from "../base/live.js";
import { RunList, SessionRow } from "./rows.js";
import { Agent, Empty, List, Loading, Problem, Time, useLoaded, useTick, visible } from "../base/ui.js";

const NEWEST = 6;
const MAX_ACTIVE = 20;
const RELEASE_MS = 100;

export function Inbox() {
  const { interactions, pending, activeRuns, newestRuns, isLoaded, sessionsVersion } = useLive();
  const { value: newest, error } = useLoaded(() => get("sessions", { limit: NEWEST }), [sessionsVersion]);
  // Requests keep their place also when they are resolved, so that nothing moves under the pointer.
  const shown = [...interactions.values()].sort(newestFirst).reverse();
  const resolved = shown.length - pending.length;
  const ended = newestRuns.filter((run) => ENDED.has(run.state)).slice(0, NEWEST);
  useEffect(() => () => live.clearResolved(), []);
  useTick(activeRuns.length > 0);
  return html`
    <header class="screen-head"><h1 tabindex="-1">Inbox</h1>
      ${resolved > 0 && html`
        <button class="small" type="button" onClick=${() => live.clearResolved()}>Clear ${resolved} answered</button>`}
      <a class="button primary" href="#/new">New session</a></header>
    ${!isLoaded || !(newest || error) ? html`<${Loading} />` : html`
      ${shown.length ? html`<${Requests} shown=${shown} />` : html`<${Empty}>Nothing waits for you.<//>`}
      ${activeRuns.length > 0 && html`
        <section aria-label="Under way"><h2>Under way</h2>
          <${RunList} runs=${activeRuns.slice(0, MAX_ACTIVE)} /></section>`}
      <div class="columns">
        <section aria-label="Newest sessions"><h2><a href="#/sessions">Sessions</a></h2>
          <${Problem} error=${error} />
          ${newest?.sessions.length
            ? html`<${List} items=${newest.sessions} row=${(session) => html`<${SessionRow} key=${session.id} session=${session} />`} />`
            : html`<${Empty}>No sessions yet.<//>`}</section>
        <section aria-label="Newest runs"><h2><a href="#/runs">Runs</a></h2>
          ${ended.length ? html`<${RunList} runs=${ended} />` : html`<${Empty}>No run has ended yet.<//>`}</section>
      </div>`}`;
}

/** The list of requests, and the one that is chosen. A phone shows one of the two. */
function Requests({ shown }) {
  const [chosen, setChosen] = useState(null);
  const [isOpen, setOpen] = useState(false); // on a phone
  const [isFocused, setFocused] = useState(false);
  const pane = useRef();
  const waiting = shown.filter(({ status }) => status === "pending");
  const current = shown.find(({ id }) => id === chosen) ?? waiting[0] ?? shown[0];
  const known = useRef([]); // what waited beside the chosen request
  if (current.status === "pending") known.current = waiting.map(({ id }) => id);
  const isOver = waiting.length > 0 && !waiting.some(({ id }) => known.current.includes(id));
  useEffect(() => { setChosen(current.id); }, [current.id]); // it stays when it is resolved
  useTick(isOver, RELEASE_MS);
  useEffect(() => { // a new request follows, but nothing moves under a pressed pointer
    if (!isOver || pane.current.matches(":active")) return;
    setChosen(waiting[0].id);
    setFocused(pane.current.contains(document.activeElement));
  });
  useEffect(() => {
    if (isFocused) pane.current.querySelector(".interaction").focus({ preventScroll: true });
    setFocused(false);
  }, [isFocused, current.id]);

  function choose({ id }) {
    setChosen(id);
    setOpen(true);
    setFocused(true);
  }
  function onAnswered({ id }) {
    const at = waiting.findIndex((each) => each.id === id);
    const next = waiting[at + 1] ?? waiting.find((each) => each.id !== id);
    if (next) choose(next);
  }
  const workdirOf = (each) => each.workdir ?? live.runs.get(each.run_id)?.workdir;
  return html`
    <div class=${isOpen ? "requests is-open" : "requests"}>
      <ul class="asks" aria-label="Waits for you">${shown.map((each) => html`
        <li key=${each.id}><button type="button" class="ask ${each.status}" aria-current=${each.id === current.id ? "true" : undefined}
          onClick=${() => choose(each)}>
          <span class="title">${visible(each.title || each.tool || "A question")}</span>
          <span class="meta"><${Agent} name=${each.backend} /> <span>${visible(shortPath(workdirOf(each), 1))}</span>
            ${each.status === "pending" ? html`<${Time} at=${each.created_at} />` : html`<span>${visible(firstLine(resultOf(each)))}</span>`}
          </span></button></li>`)}</ul>
      <div class="chosen" ref=${pane}>
        <button type="button" class="small to-list" onClick=${() => setOpen(false)}>All requests</button>
        <${InteractionCard} key=${current.id} interaction=${current} onAnswered=${onAnswered} />
        <${Context} key=${`${current.id} context`} interaction=${current} workdir=${workdirOf(current)} />
      </div>
    </div>`;
}
