// What is live: the newest runs and the pending interactions, from one event stream of the server.

import { get, onSessionsChanged } from "./api.js";
import { stream } from "./stream.js";
import { useEffect, useState } from "../vendor/preact.js";
import { ENDED, isOlder, newestFirst } from "./format.js";

const MAX_RUNS = 300;
const MAX_RESOLVED = 50;
const NOTIFY_MS = 16;
const RELOAD_MS = 5_000;

/** Return all pending interactions; a list that would be very long ends early. */
async function allPending() {
  const found = [];
  for (let page = { truncated: true }; page.truncated; found.push(...page.interactions)) {
    page = await get("interactions", { status: "pending", offset: found.length });
  }
  return found;
}

class Live {
  me = { may_answer: true };
  connection = "connecting";
  isLoaded = false;
  runs = new Map();
  interactions = new Map();
  version = 0;
  /** A number that changes when sessions may have: lists of sessions then load again. */
  sessionsVersion = 0;
  onInteraction = () => {};
  onRunEnd = () => {};
  _listeners = new Set();
  _timer = 0;
  _isStarted = false;

  start() {
    this._isStarted = true;
    onSessionsChanged.handle = () => {
      this.sessionsVersion += 1;
      this._changed();
    };
    stream.start((...change) => this._receive(...change), (state) => {
      this.connection = state;
      this._changed();
    });
  }

  stop() {
    this._isStarted = false;
    stream.stop();
    this.connection = "connecting";
    this.isLoaded = false;
    this.runs.clear();
    this.interactions.clear();
  }

  /** Call a function after changes, soon and together. Return the function that ends this. */
  subscribe(listener) {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  get pending() {
    return [...this.interactions.values()].filter((each) => each.status === "pending");
  }

  get activeRuns() {
    return this.newestRuns.filter((run) => !ENDED.has(run.state));
  }

  get newestRuns() {
    return [...this.runs.values()].sort(newestFirst);
  }

  addRun(run) {
    const known = this.runs.get(run.id);
    if (known && isOlder(run, known)) return;
    if (known?.state !== run.state) this.sessionsVersion += 1;
    this.runs.set(run.id, { ...known, ...run });
    this._bound(this.runs, MAX_RUNS, (each) => ENDED.has(each.state));
    if (known && !ENDED.has(known.state) && ENDED.has(run.state)) this.onRunEnd(run);
    this._changed();
  }

  addInteraction(interaction) {
    const known = this.interactions.get(interaction.id);
    if (known && known.status !== "pending") return;
    this.interactions.set(interaction.id, interaction);
    this._bound(this.interactions, MAX_RESOLVED, (each) => each.status !== "pending");
    if (!known && interaction.status === "pending") this.onInteraction(interaction);
    this._changed();
  }

  /** Forget the interactions that need no answer. */
  clearResolved() {
    for (const [id, each] of this.interactions) if (each.status !== "pending") this.interactions.delete(id);
    this._changed();
  }

  _receive(data, type) {
    if (type === "run") this.addRun(data);
    else if (type === "interaction") this.addInteraction(data);
    else if (type === "reset") this._load();
  }

  /** Load the present state, as the stream begins with or after a gap. What changes meanwhile comes as events. */
  async _load() {
    const { pending, activeRuns } = this;
    try {
      const [interactions, ...lists] = await Promise.all([
        allPending(),
        get("runs", { limit: 50 }),
        ...["running", "waiting", "queued"].map((state) => get("runs", { state, limit: 200 })),
      ]);
      const runs = lists.flatMap((list) => list.runs);
      this._forget(this.interactions, pending, interactions);
      this._forget(this.runs, activeRuns, runs);
      runs.forEach((run) => this.addRun(run));
      interactions.forEach((each) => this.addInteraction(each));
      this.isLoaded = true;
      this.sessionsVersion += 1;
      this._changed();
    } catch {
      setTimeout(() => this._isStarted && this._load(), RELOAD_MS);
    }
  }

  /** Delete the entries that were there `before` a load, have not changed since and were not loaded. */
  _forget(entries, before, loaded) {
    const ids = new Set(loaded.map((each) => each.id));
    for (const each of before) if (entries.get(each.id) === each && !ids.has(each.id)) entries.delete(each.id);
  }

  /** Drop the oldest entries that may go, so that a page that stays open for days does not grow. */
  _bound(entries, limit, mayGo) {
    for (const [id, each] of entries) {
      if (entries.size <= limit) return;
      if (mayGo(each)) entries.delete(id);
    }
  }

  _changed() {
    this.version += 1;
    this._timer ||= setTimeout(() => {
      this._timer = 0;
      this._listeners.forEach((listener) => listener());
    }, NOTIFY_MS);
  }
}

export const live = new Live();

/** Return the live state, and render again after each change. */
export function useLive() {
  const [, setVersion] = useState(0);
  useEffect(() => live.subscribe(() => setVersion(live.version)), []);
  return live;
}
