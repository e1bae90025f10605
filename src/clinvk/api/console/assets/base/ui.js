// Small components that several screens share.

import { html, Component, useEffect, useRef, useState } from "../vendor/preact.js";
import { get } from "./api.js";
import { ago, dateTime } from "./format.js";

const TICK_MS = 1000;
const AGE_MS = 10_000;
const SHOWN_CHARS = 20_000;
const PAGE = 200;
/** How long a text that is typed must stay until something is searched for it. */
export const SETTLE_MS = 100;
const COPIED_MS = 2_000;

// Control characters, direction overrides and invisible characters, which could make a text look like another one.
const CONTROLS = "\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f";
const INVISIBLE = "\\u00ad\\u034f\\u061c\\u115f\\u1160\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\u{e0000}-\\u{e007f}";
const HIDDEN = new RegExp(`[${CONTROLS}${INVISIBLE}]`, "gu");
const COLOURS = /\u001b\[[0-9;]*m/g;

/** Return a text with its hidden characters as visible marks. Colours and carriage returns of terminals are removed. */
export function visible(text) {
  const clean = String(text ?? "").replace(COLOURS, "").replaceAll("\r\n", "\n");
  if (clean.search(HIDDEN) < 0) return clean;
  const marks = [...clean.matchAll(HIDDEN)];
  const ends = marks.map((mark) => mark.index + mark[0].length);
  return [
    clean.slice(0, marks[0].index),
    ...marks.flatMap((mark, index) => [
      html`<span class="hidden-char">U+${mark[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}</span>`,
      clean.slice(ends[index], marks[index + 1]?.index),
    ]),
  ];
}

/** A text of any length, of which the beginning is shown first. `render` returns the content for a piece of text. */
export function Clipped({ text, limit = SHOWN_CHARS, render = visible }) {
  const [shown, setShown] = useState(limit);
  if (text.length <= shown) return render(text);
  return html`${render(text.slice(0, shown))}
    <button class="small more" onClick=${() => setShown(shown * 5)}>
      Show more (${(text.length - shown).toLocaleString("en")} characters)
    </button>`;
}

export const Code = ({ text, label, limit = 4_000 }) => html`
  <pre class="code" tabindex="0" aria-label=${label}><${Clipped} text=${text} limit=${limit} /></pre>`;

/** A button that copies a text, or what a function returns. Browsers have a clipboard over TLS and on loopback only. */
export function Copy({ text, label = "Copy" }) {
  const [isCopied, setCopied] = useState(false);
  async function copy() {
    await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
    setCopied(true);
    setTimeout(() => setCopied(false), COPIED_MS);
  }
  return navigator.clipboard && html`
    <button class="small copy" type="button" onClick=${copy}>${isCopied ? "Copied" : label}</button>`;
}

/** Render again each second, or after other intervals, while `isActive`. */
export function useTick(isActive = true, ms = TICK_MS) {
  const [, setCount] = useState(0);
  useEffect(() => {
    if (!isActive) return undefined;
    const timer = setInterval(() => document.hidden || setCount((count) => count + 1), ms);
    return () => clearInterval(timer);
  }, [isActive]);
}

export function Time({ at }) {
  useTick(true, AGE_MS);
  return html`<time datetime=${at} title=${dateTime(at)}>${ago(at)}</time>`;
}
export const Agent = ({ name }) => html`
  <span class="agent" style=${{ "--series": `var(--${name})` }}>${name || "several"}</span>`;

export const STATES = {
  queued: "queued", running: "running", waiting: "waits for you", finished: "done", failed: "failed",
  cancelled: "cancelled", interrupted: "interrupted", active: "running", completed: "done", error: "failed",
  paused: "cancelled",
};
export const State = ({ state }) => html`<span class="state ${state}">${STATES[state] || state}</span>`;

export const Problem = ({ error }) => error && html`<p class="problem" role="alert">${visible(error.message)}</p>`;
export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;
export const Loading = () => html`<p class="quiet loading">Loading…</p>`;

/** Facts in a row. Those that are empty are left out. */
export const Facts = ({ of }) => of.filter(Boolean).map((fact) => html`<span>${fact}</span>`);

/** A list of items as rows; `row(item)` renders one. */
export const List = ({ items, row }) => html`<div class="list">${items.map(row)}</div>`;

/** A choice among `options`, which are pairs of a value and its label. */
export const Select = ({ label, options, onChange, ...attributes }) => html`
  <select aria-label=${label} ...${attributes} onChange=${(event) => onChange(event.target.value)}>
    ${options.map(([key, text]) => html`<option key=${key} value=${key}>${text}</option>`)}
  </select>`;

/** A field for a name, a path or a command. */
export const TextField = ({ label, onChange, ...attributes }) => html`
  <input aria-label=${label} spellcheck="false" autocomplete="off" ...${attributes}
    onInput=${(event) => onChange(event.target.value)} />`;

export const Checkbox = ({ checked, onChange, children }) => html`
  <label class="option"><input type="checkbox" checked=${checked} onChange=${onChange} />${children}</label>`;

/** Return a function that runs an action that takes time, but not twice at once, whether it runs, and why it failed. */
export function useAction(action) {
  const [{ isBusy = false, error }, setState] = useState({});
  async function run(...args) {
    if (isBusy) return;
    setState({ isBusy: true });
    try {
      await action(...args);
      setState({});
    } catch (failure) {
      setState({ error: failure });
    }
  }
  return [run, isBusy, error];
}

/** A form that is sent by `onSubmit` instead of the browser. An error is at the end. */
export function Form({ onSubmit, children, ...attributes }) {
  const [submit, , error] = useAction(onSubmit);
  return html`
    <form ...${attributes} onSubmit=${(event) => { event.preventDefault(); submit(event); }}>
      ${children}<${Problem} error=${error} /></form>`;
}

/** A button for an action that takes time, with the error beside it. Meanwhile the button does nothing, but keeps the focus. */
export function Action({ run, children, confirm, ...attributes }) {
  const [act, isBusy, error] = useAction(run);
  const click = () => (isBusy || !confirm || window.confirm(confirm)) && act();
  return html`
    <button type="button" ...${attributes} aria-disabled=${isBusy} onClick=${click}>${children}</button>
    <${Problem} error=${error} />`;
}

/**
 * Load something, again when `deps` change and stay for `settleMs`. Return the last `value`, whether it `isCurrent`, which is
 * of the present `deps`, and the `error` if it could not be loaded again.
 */
export function useLoaded(load, deps = [], settleMs = 0) {
  const [{ value, error, of }, setState] = useState({});
  useEffect(() => {
    let isNewest = true;
    const begin = () => load().then((loaded) => isNewest && setState({ value: loaded, of: deps }),
      (failure) => isNewest && setState((old) => ({ ...old, error: failure })));
    const timer = settleMs ? setTimeout(begin, settleMs) : begin();
    return () => { isNewest = false; clearTimeout(timer); };
  }, deps);
  return { value, error, isCurrent: Boolean(of?.every((dep, index) => dep === deps[index])) };
}

/** Load something and show it with `children(value)`; meanwhile or after an error, show that. */
export function Loaded({ load, deps, children }) {
  const { value, error } = useLoaded(load, deps);
  return html`
    <${Problem} error=${error} />
    ${value === undefined ? !error && html`<${Loading} />` : children(value)}`;
}

/** Shows the error of a screen instead of an empty page. */
export class ErrorBoundary extends Component {
  componentDidCatch(error) {
    console.error(error);
    this.setState({ error });
  }

  render({ children }, { error }) {
    return error ? html`<${Problem} error=${error} />` : children;
  }
}

/** Say something to screen readers. */
export function announce(text) {
  const region = document.getElementById("announcements");
  if (region) region.textContent = text;
}

/** Call a function at each event of a target, such as a key. */
export function useEvent(target, name, handle, options) {
  useEffect(() => {
    target.addEventListener(name, handle, options);
    return () => target.removeEventListener(name, handle, options);
  });
}

/** Return a ref for a field that gets the focus when it appears. */
export function useFocus() {
  const field = useRef();
  useEffect(() => field.current.focus(), []);
  return field;
}

/** Return a value that is stored in this browser. */
export function stored(name, initial) {
  try { return JSON.parse(localStorage.getItem(`clinvk.${name}`)) ?? initial; } catch { return initial; }
}

/** Return a value that is stored in this browser, and the function that sets it. */
export function useStored(name, initial) {
  const [value, setValue] = useState(() => stored(name, initial));
  return [value, (next) => {
    localStorage.setItem(`clinvk.${name}`, JSON.stringify(next));
    setValue(next);
  }];
}

/** The newest lists of `usePages`, by what was asked. */
const lists = new Map();
const MAX_LISTS = 5;

/** Forget the lists of a login that has ended. */
export const forgetLists = () => lists.clear();

/**
 * Load a list (`sessions` or `runs`) page by page. Return its `items`, their `total` (null until known), an `error`,
 * the function `more`, which loads the next page if there is one, and the function `drop`, which takes items out. A change of
 * `version` loads the first page again. The newest lists are kept, for a return to them.
 */
export function usePages(list, query, version = "") {
  const asked = JSON.stringify({ list, ...query });
  const [found, setFound] = useState(() => lists.get(asked) ?? { items: [], total: null });
  const [error, setError] = useState(null);
  const request = useRef({ number: 0, isBusy: false, asked });

  function keep(changed) {
    setFound(changed);
    lists.delete(asked);
    lists.set(asked, changed);
    if (lists.size > MAX_LISTS) lists.delete(lists.keys().next().value);
  }

  /** Load the page after `items`. `others` are items of later pages, which stay. */
  async function load(items, others = []) {
    const { current } = request;
    if (items.length && (current.isBusy || items.length >= found.total)) return;
    const number = ++current.number;
    current.isBusy = true;
    try {
      const page = await get(list, { ...query, limit: PAGE, offset: items.length });
      if (number !== current.number) return;
      const next = others.findIndex((item) => item.id === page[list].at(-1)?.id) + 1; // those before it are in the page or gone
      const all = [...items, ...page[list], ...(page.total > PAGE ? others.slice(next) : [])]; // a new item moves the pages
      const seen = new Set();
      keep({ items: all.filter(({ id }) => !seen.has(id) && seen.add(id)), total: page.total });
      setError(null);
    } catch (failure) {
      setError(failure);
    }
    current.isBusy = false;
  }
  useEffect(() => {
    const others = request.current.asked === asked ? found.items : [];
    request.current.asked = asked;
    const timer = setTimeout(() => load([], others), found.total === null ? 0 : SETTLE_MS);
    return () => clearTimeout(timer);
  }, [asked, version]);
  const drop = (ids) => keep({ items: found.items.filter(({ id }) => !ids.includes(id)), total: found.total - ids.length });
  return { ...found, error, more: () => load(found.items), drop };
}
