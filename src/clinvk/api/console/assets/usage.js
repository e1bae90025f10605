// Tokens and cost by day, agent and key, and how much of the vendors' limits is used.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { get } from "./api.js";
import { cost, count, dateTime, plural, tokensOf } from "./format.js";
import { Agent, Empty, Loaded, visible } from "./ui.js";

const PERIODS = [7, 30, 90];
const PLOT_PX = 200;
const DAY_MS = 86_400_000;
const MAX_GROUPS = 6;
const AGENTS = new Set(["claude", "codex", "gemini"]); // with colours of their own

/** Load the library for plots, which only this screen needs. */
let library = null;
function loadPlots() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("vendor/uplot.js", import.meta.url);
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => reject(new Error("The plots could not be loaded."));
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("vendor/uplot.css", import.meta.url);
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
  return html`
    <header class="screen-head"><h1 tabindex="-1">Usage</h1>
      <select aria-label="Period" value=${days} onChange=${(event) => setDays(Number(event.target.value))}>
        ${PERIODS.map((period) => html`<option value=${period}>${period} days</option>`)}</select>
      <select aria-label="Group by" value=${group} onChange=${(event) => setGroup(event.target.value)}>
        <option value="backend">by agent</option><option value="key">by key</option><option value="model">by model</option></select>
    </header>
    <${Loaded} load=${() => get("limits").catch((error) => ({ limits: [], error }))}>${({ limits }) => limits.length > 0 && html`<${Limits} limits=${limits} />`}<//>
    <${Loaded} deps=${[days, group]} load=${() => Promise.all([get("usage", { since, group_by: `day,${group}` }), loadPlots()])}>
      ${([{ usage, total }, uPlot]) => usage.length
        ? html`<${Report} usage=${usage} total=${total} group=${group} since=${since} days=${days} uPlot=${uPlot} />`
        : html`<${Empty}>No runs in this period.<//>`}<//>`;
}

function Limits({ limits }) {
  return html`
    <section class="card limits" aria-label="Limits"><h2>Limits</h2>${limits.map((limit) => html`
      <div class="limit"><${Agent} name=${limit.backend} /><span>${visible(limit.window.replaceAll("_", " "))}</span>
        <meter min="0" max="100" low="70" high="90" optimum="0" value=${limit.used_percent ?? 0} aria-label=${`${limit.backend}, ${limit.window}`}></meter>
        <span>${limit.used_percent === null ? limit.status ?? "unknown" : `${Math.round(limit.used_percent)} %`}</span>
        <span class="quiet">${limit.resets_at ? `resets ${dateTime(limit.resets_at)}` : ""}</span></div>`)}
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
  const series = (value) => names.map((name) => dayNames.map((date) => sum(value, (item) => item.day === date && isIn(name)(item))));
  const label = (name) => name ?? "others";
  const named = (name) => (name === "" ? (group === "key" ? "no key" : "unknown") : label(name));
  const ofCost = (item) => item.cost_usd ?? 0;
  const { token_usage: used } = total;
  return html`
    <dl class="figures">
      <div><dt>Runs</dt><dd>${total.runs.toLocaleString("en")}</dd></div>
      <div><dt>Input</dt><dd>${count(used.input_tokens)}</dd></div>
      <div><dt>Cached input</dt><dd>${count(used.cached_tokens)}</dd></div>
      <div><dt>Output</dt><dd>${count(used.output_tokens)}</dd></div>
      <div><dt>Reported cost</dt><dd>${cost(total.cost_usd) || "none"}</dd></div>
    </dl>
    <${Plot} title="Tokens by day" uPlot=${uPlot} days=${dayNames} names=${names.map(named)} series=${series((item) => tokensOf(item.token_usage))} format=${count} />
    ${total.cost_usd !== null && html`<${Plot} title="Cost by day" uPlot=${uPlot} days=${dayNames} names=${names.map(named)} series=${series(ofCost)} format=${(usd) => (usd < 10 ? `$${usd.toFixed(2)}` : `$${count(usd)}`)} />`}
    <div class="scroll" tabindex="0"><table class="figures-table"><caption>Sums of the period</caption>
      <thead><tr><th>${{ backend: "Agent", key: "Key", model: "Model" }[group]}</th><th>Runs</th><th>Input</th><th>Output</th><th>Cost</th></tr></thead>
      <tbody>${names.map((name) => html`<tr><td>${visible(named(name))}</td>
        ${[(item) => item.runs, (item) => item.token_usage.input_tokens, (item) => item.token_usage.output_tokens].map((value) => html`<td>${count(sum(value, isIn(name)))}</td>`)}
        <td>${sum(ofCost, isIn(name)) ? cost(sum(ofCost, isIn(name))) : "–"}</td></tr>`)}</tbody></table></div>`;
}

/** Stacked bars, one for each day. The table below has the same figures for screen readers. */
function Plot({ title, uPlot, days, names, series, format }) {
  const place = useRef();
  useEffect(() => {
    const stacked = series.map((_, index) => days.map((_, at) => series.slice(index).reduce((sum, values) => sum + values[at], 0)));
    const colours = names.map((name, index) => variable(seriesOf(name, index)));
    const axis = { stroke: variable("soft"), grid: { stroke: variable("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const bars = uPlot.paths.bars({ size: [0.7, 28] });
    const plot = new uPlot({
      width: place.current.clientWidth, height: PLOT_PX,
      legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false, range: [-0.5, days.length - 0.5] }, y: { range: (_, __, most) => [0, most ? most * 1.1 : 1] } },
      axes: [
        { ...axis, size: 30, grid: { show: false }, values: (_, splits) => splits.map((at) => days[at]?.slice(5) ?? ""), incrs: [1, 2, 7, 14, 30] },
        { ...axis, values: (_, splits) => splits.map(format), size: 56 },
      ],
      series: [{}, ...names.map((name, index) => ({ label: name, fill: colours[index], width: 0, paths: bars, points: { show: false } }))],
    }, [days.map((_, index) => index), ...stacked], place.current);
    const resized = new ResizeObserver(([entry]) => plot.setSize({ width: entry.contentRect.width, height: PLOT_PX }));
    resized.observe(place.current);
    return () => { resized.disconnect(); plot.destroy(); };
  }, [title, days.length, series]);
  return html`
    <figure class="card plot"><figcaption><h2>${title}</h2>
      <ul class="legend">${names.map((name, index) => html`<li class=${seriesOf(name, index)}>${visible(name)}</li>`)}</ul></figcaption>
      <div ref=${place} role="img" aria-label=${`${title}; the table below has the sums`}></div></figure>`;
}
