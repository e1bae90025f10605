// The lists of sessions and of runs: search, filters, and what to do with several sessions at once.

import { html, useEffect, useState } from "../vendor/preact.js";
import { get, patch, post } from "../base/api.js";
import { ENDED, newestFirst, plural } from "../base/format.js";
import { useLive } from "../base/live.js";
import { useQuery } from "../base/router.js";
import { RunRow, SessionRow, grouped } from "./rows.js";
import { Action, Checkbox, Empty, Problem, Select, TextField, useLoaded, usePages, useTick } from "../base/ui.js";
import { VirtualList } from "../base/virtual-list.js";

const ROW_PX = 48;
const TYPING_MS = 150;
const ANY = ["", "Any state"];
const SESSION_STATES = [ANY, ["active", "running"], ["completed", "done"], ["error", "failed"], ["paused", "cancelled"]];
const RUN_STATES = [ANY, ...["waiting", "running", "queued", "finished", "failed", "cancelled", "interrupted"].map((state) =>
  [state, state === "finished" ? "done" : state])];

/** The list of `sessions` or of `runs`. What it shows is in the address. */
export function Lists({ list }) {
  const [query, setQuery] = useQuery();
  return html`
    <header class="screen-head">
      ${[["sessions", "Sessions"], ["runs", "Runs"]].map(([name, title]) => (name === list
        ? html`<h1 tabindex="-1">${title}</h1>` : html`<a class="other-list" href=${`#/${name}`}>${title}</a>`))}
      ${list === "sessions" && html`<${Search} text=${query.search ?? ""} onChange=${(search) => setQuery({ search })} />`}</header>
    <${list === "sessions" ? Sessions : Runs} key=${list} query=${query} setQuery=${setQuery} />`;
}

/** A field that calls `onChange` when somebody pauses typing. */
function Search({ text, onChange }) {
  const [typed, setTyped] = useState(text);
  useEffect(() => setTyped(text), [text]);
  useEffect(() => {
    if (typed === text) return undefined;
    const timer = setTimeout(() => onChange(typed), TYPING_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  return html`<${TextField} type="search" label="Search sessions" placeholder="Search titles, prompts and answers"
    value=${typed} onChange=${setTyped} />`;
}

/** Load the values to filter by: the agents and the projects. */
const useChoices = () => ({
  backends: [], projects: [], ...useLoaded(() => get("backends")).value, ...useLoaded(() => get("projects")).value,
});

/** Selects for parameters of the address. `filters` are `[name, label, options]`. */
const Filters = ({ filters, query, setQuery, children }) => html`
  <div class="filters" role="group" aria-label="Filters">
    ${filters.map(([name, label, options]) => {
      const chosen = query[name] ?? "";
      const known = options.some(([value]) => value === chosen) ? options : [...options, [chosen, chosen]];
      return html`
        <${Select} key=${name} label=${label} value=${chosen} options=${known} onChange=${(value) => setQuery({ [name]: value })} />`;
    })}${children}</div>`;

const agentsOf = ({ backends }) => [["", "Any agent"], ...backends.map(({ name }) => [name, name])];

function Sessions({ query, setQuery }) {
  const live = useLive();
  const choices = useChoices();
  const [selected, setSelected] = useState(null);
  const { search = "", project, backend, status, tag, archived } = query;
  const asked = { search: search.trim(), project, backend, status, tag, archived };
  const { items, total, error, more, drop } = usePages("sessions", asked, live.sessionsVersion);
  const tags = [...new Set(items.flatMap((session) => session.tags))].sort();
  const filters = [
    ["project", "Project", [["", "Any project"], ...choices.projects.map(({ directory, name }) => [directory, name])]],
    ["backend", "Agent", agentsOf(choices)],
    ["status", "State", SESSION_STATES],
    ["tag", "Tag", [["", "Any tag"], ...tags.map((each) => [each, each])]],
  ];
  const isLoading = total === null || (!live.isLoaded && live.connection === "connecting"); // of what works is not known yet
  const isFiltered = Object.values(asked).some(Boolean);
  const toggle = (id) => setSelected((old) => new Set(old.has(id) ? [...old].filter((each) => each !== id) : [...old, id]));
  const row = (session) => html`<${SessionRow} session=${session} search=${asked.search}>
    ${selected && html`<input type="checkbox" aria-label="Select" checked=${selected.has(session.id)}
      onChange=${() => toggle(session.id)} />`}<//>`;
  return html`
    <${Filters} filters=${filters} query=${query} setQuery=${setQuery}>
      <${Checkbox} checked=${Boolean(archived)} onChange=${() => setQuery({ archived: archived ? "" : "true" })}>Archived<//>
      <span class="gap"></span>
      <button type="button" class="small" aria-pressed=${Boolean(selected)}
        onClick=${() => setSelected(selected ? null : new Set())}>Select</button><//>
    <${Grouped} label="Sessions" items=${isLoading ? [] : items} isFlat=${Boolean(asked.search)} row=${row} more=${more} error=${error}
      count=${isLoading ? "Loading…" : plural(total, "session")}
      empty=${total === 0 && (isFiltered ? "No session matches." : "No sessions yet.")} />
    ${selected && html`<${Selected} ids=${[...selected]} isArchived=${Boolean(archived)} onDrop=${drop}
      onDone=${() => setSelected(null)} />`}`;
}

/** What to do with the sessions that are selected. */
function Selected({ ids, isArchived, onDrop, onDone }) {
  async function archive() {
    for (const id of ids) await patch(`sessions/${id}`, { archived: !isArchived });
    onDrop(ids);
    onDone();
  }
  async function drop() {
    const { deleted, errors } = await post("sessions/delete", { ids });
    onDrop(deleted);
    if (errors.length) throw new Error(errors.map(({ detail }) => detail).join("\n"));
    onDone();
  }
  const isDisabled = ids.length === 0;
  return html`<div class="dock bar"><span role="status">${ids.length} selected</span><span class="gap"></span>
    <${Action} run=${archive} disabled=${isDisabled}>${isArchived ? "Unarchive" : "Archive"}<//>
    <${Action} class="danger" run=${drop} disabled=${isDisabled}
      confirm=${`Delete ${plural(ids.length, "session")} with all runs?`}>Delete<//></div>`;
}

function Runs({ query, setQuery }) {
  const live = useLive();
  const choices = useChoices();
  const { backend, state } = query;
  const { items, error, total, more } = usePages("runs", { backend, state });
  useTick(live.activeRuns.length > 0);
  const known = new Map([...items, ...live.runs.values()].map((run) => [run.id, run]));
  const shown = [...known.values()].filter((run) =>
    (!backend || run.backend === backend) && (!state || run.state === state)).sort(newestFirst);
  const isIdle = live.isLoaded && shown.every((run) => ENDED.has(run.state));
  return html`
    <${Filters} filters=${[["backend", "Agent", agentsOf(choices)], ["state", "State", RUN_STATES]]} query=${query} setQuery=${setQuery} />
    <${Grouped} label="Runs" items=${shown} row=${(run) => html`<${RunRow} run=${run} />`} more=${more} error=${error}
      count=${total === null ? "Loading…" : plural(Math.max(total, shown.length), "run")}
      empty=${isIdle && html`No agent is working. <a href="#/new">Start one</a>.`} />`;
}

/** A list in the groups Waiting, Working, Today and Earlier, or `isFlat` in the order of the server. */
function Grouped({ label, items, isFlat, row, more, error, count, empty }) {
  const rows = isFlat ? items : grouped(items).flatMap(([group, own]) => [{ id: group, group }, ...own]);
  return html`
    <p class="quiet" role="status">${count}</p>
    <${Problem} error=${error} />
    ${empty && html`<${Empty}>${empty}<//>`}
    <div class="list"><${VirtualList} label=${label} items=${rows} keyOf=${(item) => item.id} estimate=${ROW_PX} onEnd=${more}
      render=${(item) => (item.group ? html`<h2 class="section-name">${item.group}</h2>` : row(item))} /></div>`;
}
