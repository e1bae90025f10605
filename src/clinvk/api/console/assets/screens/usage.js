// Tokens and cost by day, agent and key, and how much of the vendors' limits is used.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { cost, count, dateTime, tokensOf } from "../base/format.js";
import { Agent, Empty, Loaded, Select, visible } from "../base/ui.js";

const PERIODS = [7, 30, 90];
const GROUPS = { backend: "Agent", key: "Key", model: "Model" };
const COLUMNS = {
  Runs: (item) => item.runs,
  Input: (item) => item.token_usage.input_tokens,
  Output: (item) => item.token_usage.output_tokens,
};
const PLOT_PX = 200;
const DAY_MS = 86_400_000;
const MAX_GROUPS = 6;
const AGENTS = new Set(["claude", "codex", "gemini"]); // with colours of their own

/** Load the library for plots, which only this screen needs. */
let library = null;
function loadPlots() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("../vendor/uplot.js", import.meta.url);
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => reject(new Error("The plots could not be loaded."));
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("../vendor/uplot.css", import.meta.url);
    document.head.append(sheet, script);
  });
  return library;
}

const day = (time) => new Date(time).toISOString().slice(0, 10);
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const seriesOf = (name, index) => (AGENTS.has(name) ? name : `series-${index + 1}`);

export function Usage() {
  const [days, setDays] = useState(30);
  const [group, setGroup] = useState("backend");
  const since = day(Date.now() - (days - 1) * DAY_MS);
  const load = () => Promise.all([get("usage", { since, group_by: `day,${group}` }), loadPlots()]);
  return html`
    <header class="screen-head"><h1 tabindex="-1">Usage</h1>
      <${Select} label="Period" value=${days} onChange=${(value) => setDays(Number(value))}
        options=${PERIODS.map((period) => [period, `${period} days`])} />
      <${Select} label="Group by" value=${group} onChange=${setGroup}
        options=${Object.entries(GROUPS).map(([name, title]) => [name, `by ${title.toLowerCase()}`])} />
    </header>
    <${Loaded} load=${() => get("limits")}>
      ${({ limits }) => limits.length > 0 && html`<${Limits} limits=${limits} />`}<//>
    <${Loaded} deps=${[days, group]} load=${load}>${([{ usage, total }, uPlot]) => (usage.length
      ? html`<${Report} usage=${usage} total=${total} group=${group} since=${since} days=${days} uPlot=${uPlot} />`
      : html`<${Empty}>No runs in this period.<//>`)}<//>`;
}

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

function Report({ usage, total, group, since, days, uPlot }) {
  const names = groupsOf(usage, group);
  const dayNames = Array.from({ length: days }, (_, index) => day(Date.parse(since) + index * DAY_MS));
  const sum = (value, has) => usage.filter(has).reduce((all, item) => all + value(item), 0);
  const isIn = (name) => (item) => (name === null ? !names.includes(item[group]) : item[group] === name);
  const onDay = (date, name) => (item) => item.day === date && isIn(name)(item);
  const series = (value) => names.map((name) => dayNames.map((date) => sum(value, onDay(date, name))));
  const labels = names.map((name) => (name === "" ? (group === "key" ? "no key" : "unknown") : name ?? "others"));
  const costOf = (item) => item.cost_usd ?? 0;
  const dollars = (usd) => (usd < 10 ? `$${usd.toFixed(2)}` : `$${count(usd)}`);
  const plot = (title, value, format) => html`<${Plot} title=${title} uPlot=${uPlot} days=${dayNames} names=${labels}
    series=${series(value)} format=${format} />`;
  const { token_usage: used } = total;
  return html`
    <dl class="figures">
      <div><dt>Runs</dt><dd>${total.runs.toLocaleString("en")}</dd></div>
      <div><dt>Input</dt><dd>${count(used.input_tokens)}</dd></div>
      <div><dt>Cached input</dt><dd>${count(used.cached_tokens)}</dd></div>
      <div><dt>Output</dt><dd>${count(used.output_tokens)}</dd></div>
      <div><dt>Reported cost</dt><dd>${cost(total.cost_usd) || "none"}</dd></div>
    </dl>
    ${plot("Tokens by day", (item) => tokensOf(item.token_usage), count)}
    ${total.cost_usd !== null && plot("Cost by day", costOf, dollars)}
    <div class="scroll" tabindex="0"><table class="figures-table"><caption>Sums of the period</caption>
      <thead><tr>${[GROUPS[group], ...Object.keys(COLUMNS), "Cost"].map((title) => html`<th>${title}</th>`)}</tr></thead>
      <tbody>${names.map((name, index) => html`<tr><td>${visible(labels[index])}</td>
        ${Object.values(COLUMNS).map((value) => html`<td>${count(sum(value, isIn(name)))}</td>`)}
        <td>${cost(sum(costOf, isIn(name)) || null) || "–"}</td></tr>`)}</tbody></table></div>`;
}

/** Stacked bars, one for each day. The table below has the same figures for screen readers. */
function Plot({ title, uPlot, days, names, series, format }) {
  const place = useRef();
  useEffect(() => {
    const sumFrom = (index, at) => series.slice(index).reduce((sum, values) => sum + values[at], 0);
    const stacked = series.map((_, index) => days.map((_, at) => sumFrom(index, at)));
    const grid = { stroke: variable("line"), width: 1 };
    const axis = { stroke: variable("soft"), grid, ticks: { show: false }, font: "12px system-ui" };
    const shortDays = (_, splits) => splits.map((at) => days[at]?.slice(5) ?? "");
    const bars = uPlot.paths.bars({ size: [0.7, 28] });
    const plot = new uPlot({
      width: place.current.clientWidth, height: PLOT_PX,
      legend: { show: false }, cursor: { show: false },
      scales: {
        x: { time: false, range: [-0.5, days.length - 0.5] },
        y: { range: (_, __, most) => [0, most ? most * 1.1 : 1] },
      },
      axes: [
        { ...axis, size: 30, grid: { show: false }, values: shortDays, incrs: [1, 2, 7, 14, 30] },
        { ...axis, values: (_, splits) => splits.map(format), size: 56 },
      ],
      series: [{}, ...names.map((name, index) => (
        { fill: variable(seriesOf(name, index)), width: 0, paths: bars, points: { show: false } }))],
    }, [days.map((_, index) => index), ...stacked], place.current);
    const fit = ([entry]) => plot.setSize({ width: entry.contentRect.width, height: PLOT_PX });
    const resized = new ResizeObserver(fit);
    resized.observe(place.current);
    return () => { resized.disconnect(); plot.destroy(); };
  }, [title, days.length, series]);
  return html`
    <figure class="card plot"><figcaption><h2>${title}</h2>
      <ul class="legend">${names.map((name, index) => html`
        <li class=${seriesOf(name, index)}>${visible(name)}</li>`)}</ul></figcaption>
      <div ref=${place} role="img" aria-label=${`${title}; the table below has the sums`}></div></figure>`;
}
