// The live events of the server, by one connection for all tabs: a browser has only six for a server.
//
// The tab that was shown last leads, by a Web Lock. It names the runs that the tabs follow, and sends each event to all
// tabs. Without Web Locks, which need HTTPS or localhost, each tab leads itself.

import { ROOT, linesOf, send } from "./api.js";

const NAME = `clinvk ${ROOT.href}`;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;
const MAX_RUNS = 100; // the limit of the server
const LONGEST_MS = 2 ** 31 - 1;
const SETTLE_MS = 20; // time for all tabs to say what they want
const SILENCE_MS = 45_000; // the server sends something at least every 10 s

/** Yield server-sent events as `{id, type, data}`. */
async function* serverSentEvents(response, onBytes) {
  let event = {};
  for await (const line of linesOf(response.body, onBytes)) {
    const [, field, value] = /^(id|event|data): ?(.*?)\r?$/.exec(line) || [];
    if (field) event[field] = value;
    if (line.trim() || event.data === undefined) continue;
    yield { id: Number(event.id), type: event.event, data: JSON.parse(event.data) };
    event = {};
  }
}

/** Leads: holds the connection, and passes on its events. `positions` are the last events of the runs to follow. */
class Connection {
  constructor(signal, lastId, publish) {
    this._lastId = lastId;
    this._state = "connecting";
    this._signal = signal;
    this._publish = publish;
    this._wanted = new Map();
    this._positions = new Map();
    this._retryMs = FIRST_RETRY_MS;
  }

  /** Follow the runs that a tab wants, each from a position. Connect again if the present stream lacks some. */
  want(tab, runs) {
    this._wanted.set(tab, runs);
    const all = new Set([...this._wanted.values()].flatMap((each) => [...each.keys()]));
    const missing = [...runs].filter(([run, position]) => !(this._positions.get(run) <= position));
    const unwanted = [...this._positions.keys()].filter((run) => !all.has(run));
    missing.forEach(([run, position]) => this._positions.set(run, position));
    unwanted.forEach((run) => this._positions.delete(run));
    if (missing.length || unwanted.length) this._restart?.abort();
    this._report(this._state);
  }

  async hold() {
    while (!this._signal.aborted) {
      await pause(SETTLE_MS, this._signal);
      this._restart = new AbortController();
      const signal = AbortSignal.any([this._signal, this._restart.signal]);
      const state = await this._connect(signal);
      if (signal.aborted) continue;
      this._report(state);
      await pause(state === "ended" ? LONGEST_MS : this._retryMs * (0.75 + Math.random() / 2), signal);
      this._retryMs = Math.min(2 * this._retryMs, LAST_RETRY_MS);
    }
  }

  /** Return `lost`, or `ended` if the server has refused for good. */
  async _connect(signal) {
    const silence = new AbortController();
    let timer;
    const onBytes = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    onBytes();
    try {
      const query = [...this._positions].slice(-MAX_RUNS).map(([run, position]) => `run=${run}:${position}`).join("&");
      const headers = { accept: "text/event-stream", ...(this._lastId && { "last-event-id": this._lastId }) };
      const response = await send("GET", `events?${query}`, { headers, signal: AbortSignal.any([signal, silence.signal]) });
      this._retryMs = FIRST_RETRY_MS;
      this._report("open");
      for await (const event of serverSentEvents(response, onBytes)) {
        if (signal.aborted) break;
        this._pass(event);
      }
      return "lost";
    } catch (error) {
      return error.status >= 400 && error.status < 500 && error.status !== 429 ? "ended" : "lost";
    } finally {
      clearTimeout(timer);
    }
  }

  _pass({ id, type, data }) {
    if (type === "run_event") {
      const { run, event } = data;
      const after = this._positions.get(run);
      this._positions.set(run, event.sequence);
      if (["done", "error"].includes(event.type)) this._positions.delete(run);
      this._publish({ kind: type, run, after, event });
    } else if (type === "run_error") {
      this._positions.delete(data.run);
    } else {
      this._lastId = id;
      this._publish({ kind: "change", id, type, data });
    }
  }

  _report(state) {
    this._state = state;
    this._publish({ kind: "state", state, id: this._lastId });
  }
}

/** The events for this tab, whichever tab leads. */
class Stream {
  _tab = String(Math.random());
  _followed = new Set();
  _stopped = null;

  /** Call `onChange` with the data and type of each change, and `onState` with `open`, `lost` and `ended` (refused). */
  start(onChange, onState) {
    Object.assign(this, { _onChange: onChange, _onState: onState, _lastId: 0, connection: null }); // of the tab that leads
    this._stopped = new AbortController();
    const { signal } = this._stopped;
    // A browser may keep a page that was left, with its connection.
    window.addEventListener("pagehide", () => this.stop(), { signal });
    document.addEventListener("visibilitychange", () => this._onVisibility(), { signal });
    this._channel = navigator.locks && new BroadcastChannel(NAME);
    if (!this._channel) this._lead(signal);
    else {
      this._channel.onmessage = ({ data }) => this._take(data);
      this._compete(!document.hidden);
      this._want();
    }
  }

  stop() {
    if (!this._stopped) return;
    this._publish({ kind: "want", tab: this._tab, runs: new Map() });
    this._stopped.abort();
    this._stopped = null;
    this._channel?.close();
  }

  /** Call a function with each event of a run, past events first. Return the function that ends this. */
  followRun(run, onEvent) {
    const followed = { run, onEvent, position: 0 };
    this._followed.add(followed);
    this._want();
    return () => this._followed.delete(followed) && this._want();
  }

  _onVisibility() {
    if (this._channel && !document.hidden && !this.connection) this._compete(true);
    this._want();
  }

  /** Lead as soon as no other tab does, or `isNow`: a browser may freeze a hidden tab that leads. */
  async _compete(isNow) {
    this._turn?.abort();
    this._turn = new AbortController();
    const signal = AbortSignal.any([this._stopped.signal, this._turn.signal]);
    try {
      await navigator.locks.request(NAME, isNow ? { steal: true } : { signal }, () => this._lead(signal));
    } catch (error) {
      if (error.name === "AbortError") {
        if (!signal.aborted) this._compete(false); // another tab leads now
        return;
      }
      this._channel.close(); // the browser denies locks to this page
      this._channel = null;
      this._lead(signal);
    }
  }

  async _lead(signal) {
    const connection = new Connection(signal, this._lastId, (message) => this._publish(message));
    this.connection = connection;
    this._publish({ kind: "lead" });
    await connection.hold();
    if (this.connection === connection) this.connection = null;
  }

  /** Send a message to all tabs, this one included. */
  _publish(message) {
    this._channel?.postMessage(message);
    this._take(message);
  }

  /** Tell the leading tab which runs this tab follows, and from which positions: none while it is hidden. */
  _want() {
    if (!this._stopped) return;
    const shown = document.hidden ? [] : [...this._followed].sort((one, other) => other.position - one.position);
    this._publish({ kind: "want", tab: this._tab, runs: new Map(shown.map(({ run, position }) => [run, position])) });
  }

  _take({ kind, ...message }) {
    if (!this._stopped) return;
    if (kind === "lead") this._want();
    else if (kind === "want") this.connection?.want(message.tab, message.runs);
    else if (kind === "change") this._change(message);
    else if (kind === "run_event") this._passOn(message);
    else this._setState(message);
  }

  /** Take over the state of the connection. A tab that has missed changes has to load again. */
  _setState({ state, id }) {
    this._onState(state);
    if (state === "open" && id && id !== this._lastId) this._change({ id, type: "reset", data: {} });
  }

  _change({ id, type, data }) {
    if (type !== "reset" && id <= this._lastId) return;
    this._lastId = id;
    this._onChange(data, type);
  }

  /** Pass on an event of a run, which came right `after` another one, if it is the next one. */
  _passOn({ run, after, event }) {
    for (const followed of this._followed) {
      if (followed.run !== run || followed.position < after || followed.position >= event.sequence) continue;
      followed.position = event.sequence;
      followed.onEvent(event);
    }
  }
}

export const stream = new Stream();

/** Wait, but no longer than until the network returns, the page is shown or hidden, or `signal` is aborted. */
function pause(ms, signal) {
  const end = AbortSignal.any([signal, AbortSignal.timeout(ms)]);
  return new Promise((resolve) => {
    end.addEventListener("abort", resolve);
    window.addEventListener("online", resolve, { signal: end });
    document.addEventListener("visibilitychange", resolve, { signal: end });
  });
}
