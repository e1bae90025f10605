// Tokens and cost by day, agent and key, and how much of the vendors' limits is used.

import { html, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { cost, count, dateTime, shortPath, tokensOf } from "../base/format.js";
import { Agent, Empty, Loaded, Select, useStored, visible } from "../base/ui.js";

const PERIODS = [7, 30, 90];
const MAX_SESSIONS = 500;
const GROUPS = { backend: "Agent", key: "Key", model: "Model" };
const COLUMNS = {
  Runs: (item) => item.runs,
  Input: (item) => item.token_usage.input_tokens,
  Output: (item) => item.token_usage.output_tokens,
};
const DAY_MS = 86_400_000;
const MAX_GROUPS = 6;
const AGENTS = new Set(["claude", "codex", "gemini"]); // with colours of their own

const day = (time) => new Date(time).toISOString().slice(0, 10);
const seriesOf = (name, index) => (AGENTS.has(name) ? name : `series-${index + 1}`);

export function Usage() {
  const [days, setDays] = useStored("usage-days", 30);
  const [group, setGroup] = useStored("usage-group", "backend");
  const since = day(Date.now() - (days - 1) * DAY_MS);
  const load = () => get("usage", { since, group_by: `day,${group}` });
  return html`
    <header class="screen-head"><h1 tabindex="-1">Usage</h1>
      <${Select} label="Period" value=${days} onChange=${(value) => setDays(Number(value))}
        options=${PERIODS.map((period) => [period, `${period} days`])} />
      <${Select} label="Group by" value=${group} onChange=${setGroup}
        options=${Object.entries(GROUPS).map(([name, title]) => [name, `by ${title.toLowerCase()}`])} />
    </header>
    <${Loaded} load=${() => get("limits")}>
      ${({ limits }) => limits.length > 0 && html`<${Limits} limits=${limits} />`}<//>
    <${Loaded} key=${`${days} ${group}`} load=${load}>${({ usage, total }) => (usage.length
      ? html`<${Report} usage=${usage} total=${total} group=${group} since=${since} days=${days} />`
      : html`<${Empty}>No runs in this period.<//>`)}<//>
    <${Loaded} deps=${[days]} load=${() => loadProjects(since)}>${(projects) => projects.length > 0
      && html`<${Projects} projects=${projects} />`}<//>`;
}

/** Return the sums of the sessions that were used since a day, by project; the most expensive is the first. */
async function loadProjects(since) {
  const sums = new Map();
  const { sessions } = await get("sessions", { limit: MAX_SESSIONS });
  for (const { project, working_dir: directory, updated_at: at, cost_usd: usd, token_usage: used } of sessions) {
    if (at < since) continue;
    const name = project || directory;
    const sum = sums.get(name) ?? { name, sessions: 0, tokens: 0, usd: 0 };
    sums.set(name, { ...sum, sessions: sum.sessions + 1, tokens: sum.tokens + tokensOf(used), usd: sum.usd + (usd ?? 0) });
  }
  return [...sums.values()].sort((one, other) => other.usd - one.usd || other.tokens - one.tokens);
}

const Projects = ({ projects }) => html`
  <div class="scroll" tabindex="0"><table class="figures-table"><caption>Projects, by the sessions used in the period</caption>
    <thead><tr>${["Project", "Sessions", "Tokens", "Cost"].map((title) => html`<th>${title}</th>`)}</tr></thead>
    <tbody>${projects.map(({ name, sessions, tokens, usd }) => html`<tr><td title=${name}>${visible(shortPath(name))}</td>
      <td>${sessions}</td><td>${count(tokens)}</td><td>${cost(usd || null) || "–"}</td></tr>`)}</tbody></table></div>`;

function Limits({ limits }) {
  return html`
    <section class="card limits" aria-label="Limits"><h2>Limits</h2>${limits.map((limit) => html`
      <div class="limit"><${Agent} name=${limit.backend} /><span>${visible(limit.window.replaceAll("_", " "))}</span>
        <meter min="0" max="100" low="70" high="90" optimum="0" value=${limit.used_percent ?? 0}
          aria-label=${`${limit.backend}, ${limit.window}`}></meter>
        <span>${limit.used_percent === null ? limit.status : `${Math.round(limit.used_percent)} %`}</span>
        <span class="quiet">resets ${dateTime(limit.resets_at)}</span></div>`)}
    </section>`;
}

/** Return the names of the groups with the most tokens; the rest is one group. */
function groupsOf(usage, group) {
  const sums = new Map();
  for (const item of usage) sums.set(item[group], (sums.get(item[group]) ?? 0) + tokensOf(item.token_usage));
  const names = [...sums.keys()].sort((one, other) => sums.get(other) - sums.get(one));
  return names.length > MAX_GROUPS ? [...names.slice(0, MAX_GROUPS - 1), null] : names;
}

function Report({ usage, total, group, since, days }) {
  const used = total.token_usage;
  const names = groupsOf(usage, group);
  const dayNames = Array.from({ length: days }, (_, index) => day(Date.parse(since) + index * DAY_MS));
  const sum = (value, has) => usage.filter(has).reduce((all, item) => all + value(item), 0);
  const isIn = (name) => (item) => (name === null ? !names.includes(item[group]) : item[group] === name);
  const onDay = (date, name) => (item) => item.day === date && isIn(name)(item);
  const series = (value) => names.map((name) => dayNames.map((date) => sum(value, onDay(date, name))));
  const labels = names.map((name) => (name === "" ? (group === "key" ? "no key" : "unknown") : name ?? "others"));
  const costOf = (item) => item.cost_usd ?? 0;
  const dollars = (usd) => (usd < 10 ? `$${usd.toFixed(2)}` : `$${count(usd)}`);
  /** Plot the groups that have a value. */
  const plot = (title, value, format) => {
    const shown = series(value).map((values, index) => ({ name: labels[index], look: seriesOf(labels[index], index), values }));
    return html`<${Plot} title=${title} days=${dayNames} format=${format}
      series=${shown.filter(({ values }) => values.some(Boolean))} />`;
  };
  const isToday = (item) => item.day === dayNames.at(-1);
  const today = { tokens: sum((item) => tokensOf(item.token_usage), isToday), usd: sum(costOf, isToday) };
  const share = Math.round((100 * today.tokens) / (tokensOf(used) || 1));
  return html`
    <dl class="figures">
      <div><dt>Runs</dt><dd>${total.runs.toLocaleString("en")}</dd></div>
      <div><dt>Input</dt><dd>${count(used.input_tokens)}</dd></div>
      <div><dt>Cached input</dt><dd>${count(used.cached_tokens)}</dd></div>
      <div><dt>Output</dt><dd>${count(used.output_tokens)}</dd></div>
      <div><dt>Reported cost</dt><dd>${cost(total.cost_usd) || "none"}</dd></div>
      <div><dt>Today</dt><dd>${count(today.tokens)} tokens${today.usd > 0 && `, ${cost(today.usd)}`} (${share} % of the period)</dd></div>
    </dl>
    ${plot("Tokens by day", (item) => tokensOf(item.token_usage), count)}
    ${total.cost_usd !== null && plot("Cost by day", costOf, dollars)}
    <div class="scroll" tabindex="0"><table class="figures-table"><caption>Sums of the period</caption>
      <thead><tr>${[GROUPS[group], ...Object.keys(COLUMNS), "Cost"].map((title) => html`<th>${title}</th>`)}</tr></thead>
      <tbody>${names.map((name, index) => html`<tr><td>${visible(labels[index])}</td>
        ${Object.values(COLUMNS).map((value) => html`<td>${count(sum(value, isIn(name)))}</td>`)}
        <td>${cost(sum(costOf, isIn(name)) || null) || "–"}</td></tr>`)}</tbody></table></div>`;
}

/** Stacked bars, one for each day. The pointer, or the arrow keys, choose a day, whose values are shown. */
function Plot({ title, days, series, format }) {
  const [chosen, setChosen] = useState(null);
  const most = Math.max(...days.map((_, at) => series.reduce((sum, { values }) => sum + values[at], 0))) || 1;
  const colour = ({ look }) => ({ "--series": `var(--${look})` });
  function move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    setChosen(Math.min(days.length - 1, Math.max(0, (chosen ?? days.length) + step)));
  }
  const values = chosen !== null && [days[chosen], ...series.map((each) => `${each.name} ${format(each.values[chosen])}`)];
  return html`
    <figure class="card plot"><figcaption><h2>${title}</h2>
      <ul class="legend">${series.map((each) => html`
        <li style=${colour(each)}>${visible(each.name)} ${values && html`<strong>${format(each.values[chosen])}</strong>`}</li>`)}</ul>
      <span>${values && values[0]}</span></figcaption>
      <div class="values" aria-hidden="true">${[most, most / 2, 0].map((value) => html`<span>${format(value)}</span>`)}</div>
      <div class="bars" role="slider" tabindex="0" aria-label=${`${title}: the values of a day`} aria-valuemin="0"
        aria-valuemax=${days.length - 1} aria-valuenow=${chosen ?? days.length - 1}
        aria-valuetext=${values ? values.join(", ") : "Choose a day with the arrow keys"} onKeyDown=${move}
        onPointerLeave=${() => setChosen(null)}>${days.map((_, at) => html`
        <div class=${at === chosen ? "chosen" : ""} onPointerEnter=${() => setChosen(at)}>${series.map((each) => html`
          <span style=${{ ...colour(each), height: `${(100 * each.values[at]) / most}%` }}></span>`)}</div>`)}</div>
      <div class="days" aria-hidden="true">${[0, days.length >> 1, days.length - 1].map((at) => html`
        <span>${days[at].slice(5)}</span>`)}</div>
    </figure>`;
}
