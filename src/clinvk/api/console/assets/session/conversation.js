// The turns of a session, or a single run without one: loaded page by page, and the events of those in view.

import { get, storedEvents } from "../base/api.js";
import { ENDED, isOlder } from "../base/format.js";
import { stream } from "../base/stream.js";
import { grouped } from "./groups.js";
import { RunBlocks } from "./transcript.js";

const PAGE = 50;
const MAX_LOADED = 30;
const NOTIFY_MS = 50;

/**
 * A prompt and its run. `blocks` is null until the events are loaded; until then the answer is `output`. A turn that
 * `isInherited` belongs to the session that this one was forked from.
 */
class Turn {
  constructor(run, prompt, output = "", isInherited = false) {
    Object.assign(this, { run, prompt, output, isInherited, blocks: null, isRequested: false, isLoading: false, isFailed: false, stop: () => {} });
  }

  get isActive() {
    return !ENDED.has(this.run.state) && !this.blocks?.isEnded;
  }

  get isQueued() {
    return this.run.state === "queued";
  }

  get isWithdrawn() {
    const { state, started_at: startedAt, error } = this.run;
    return state === "cancelled" && !startedAt && /^the (run|request) was cancelled/.test(error ?? "");
  }
}

/** When a turn began, for sorting. Turns that have not begun are last: the next is that of a steering prompt. */
function beganAt({ run }) {
  const next = run.request?.on_busy === "steer" ? Number.MAX_VALUE : Infinity;
  return Date.parse(run.started_at ?? run.ended_at) || next;
}

const inOrder = (turns) => turns.sort((one, other) => Math.sign(beganAt(one) - beganAt(other)) || 0);

/** `onChange` is called after changes, several at a time. */
export class Conversation {
  constructor({ sessionId = null, runId = null }, onChange) {
    this.sessionId = sessionId;
    this.runId = runId;
    this.session = null;
    this.parent = null; // the session that this one was forked from
    this.turns = [];
    this.total = Infinity;
    this.error = null;
    this._onChange = onChange;
    this._closed = new AbortController();
    this._loaded = [];
    this._rows = null;
    this._fork = null; // whose parent the next page is of
    this._offset = 0;
  }

  close() {
    this._closed.abort();
    clearTimeout(this._timer);
    this.turns.forEach((turn) => turn.stop());
  }

  /** The turn at which the agent works, or else the first that is queued. */
  get activeTurn() {
    const turns = this.ownTurns.filter((turn) => turn.isActive);
    return turns.find((turn) => !turn.isQueued) ?? turns[0];
  }

  get ownTurns() {
    return this.turns.filter((turn) => !turn.isInherited);
  }

  /** The turns that wait for the active turn. */
  get queued() {
    const { activeTurn } = this;
    return this.ownTurns.filter((turn) => turn.isQueued && turn !== activeTurn);
  }

  async load() {
    try {
      if (this.runId) this._addRun(await get(`runs/${this.runId}`));
      else {
        const failure = this._loadOwn(0).catch((error) => error);
        this.session = await get(`sessions/${this.sessionId}`);
        this.sessionId = this.session.id;
        this._fork ??= this.session.parent_id ? this.session : null;
        if (await failure) throw await failure;
        if (this.ownTurns.length >= this.total) await this._loadInherited();
      }
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this._changed();
  }

  async loadEarlier() {
    const { length } = this.ownTurns;
    if (this._isLoadingPage || !this.session || (length >= this.total && !this._fork)) return;
    this._isLoadingPage = true;
    await (length < this.total ? this._loadOwn(length) : this._loadInherited()).catch((error) => { this.error = error; });
    this._isLoadingPage = false;
    this._changed();
  }

  async _loadOwn(offset) {
    this.total = await this._loadPage(this.sessionId, offset);
  }

  /** Load a page of the conversation before a fork. The parent may be gone, and may be a fork itself. */
  async _loadInherited() {
    const fork = this._fork;
    if (!fork) return;
    const parent = await get(`sessions/${fork.parent_id}`).catch(() => null);
    this.parent ??= parent;
    const total = parent && await this._loadPage(parent.id, this._offset, fork.created_at);
    this._offset += PAGE;
    if (this._offset < total) return;
    this._offset = 0;
    this._fork = parent?.parent_id ? parent : null;
  }

  /** Load turns of a session, of a parent those `before` the fork. Return the number of all turns. */
  async _loadPage(session, offset, before = "") {
    const [{ messages, total }, { runs }] = await Promise.all([
      get(`sessions/${session}/messages`, { limit: PAGE, offset }),
      get("runs", { session_id: session, limit: PAGE, offset }),
    ]);
    const texts = (run, role) =>
      messages.filter((message) => message.run_id === run.id && message.role === role).map((message) => message.text);
    const known = new Set(this.turns.map((turn) => turn.run.id));
    const isShown = (run) => !known.has(run.id) && (!before || (ENDED.has(run.state) && run.created_at < before));
    const turns = runs.reverse().filter(isShown).map((run) =>
      new Turn(run, texts(run, "user")[0] ?? run.prompt, texts(run, "assistant").join("\n\n"), Boolean(before)));
    this.turns = inOrder([...turns, ...this.turns]);
    turns.forEach((turn) => this._follow(turn));
    return total;
  }

  /** Take over news about a run, which may be a new one of this session. */
  update(run) {
    const turn = this.turns.find((each) => each.run.id === run.id);
    if (turn && turn.run !== run && !isOlder(run, turn.run)) {
      turn.run = { ...turn.run, ...run };
      inOrder(this.turns);
      this._follow(turn);
      this._changed();
    } else if (!turn && this.session && run.session_id === this.sessionId) {
      if (this.turns.every((each) => each.run.created_at <= run.created_at)) this._addRun(run);
    }
  }

  _addRun(run) {
    const turn = new Turn(run, run.prompt, run.output);
    this.turns = inOrder([...this.turns, turn]);
    this.total += 1;
    this._follow(turn);
    this._changed();
  }

  /** Follow the events of an active turn; a turn that is queued has none yet. */
  _follow(turn) {
    if (this._closed.signal.aborted || !turn.isActive || turn.isQueued || turn.blocks) return;
    turn.blocks = new RunBlocks(turn.run.id);
    this.loadRequest(turn);
    turn.stop = stream.followRun(turn.run.id, (event) => {
      turn.blocks.add(event);
      if (turn.blocks.isEnded) this._end(turn);
      this._changed();
    });
  }

  async _end(turn) {
    turn.stop();
    this._bound(turn);
    if (this.session) this.session = await get(`sessions/${this.sessionId}`).catch(() => this.session);
    this.update(await get(`runs/${turn.run.id}`).catch(() => turn.run));
  }

  /** Forget the events of the turn that was loaded first if too many are. They load again when the turn is in view. */
  _bound(loaded) {
    this._loaded.push(loaded);
    if (this._loaded.length > MAX_LOADED) this._loaded.shift().blocks = null;
  }

  /** The plan of the agent, if it has one in the last turn, or has not completed it. */
  get plan() {
    const planned = this.ownTurns.findLast((turn) => turn.blocks?.plan?.length);
    const steps = planned?.blocks.plan;
    return planned === this.ownTurns.at(-1) || steps?.some(({ status }) => status !== "completed") ? steps : null;
  }

  /** The slash commands of the agent, as far as known. */
  get commands() {
    return this.ownTurns.findLast((turn) => turn.blocks?.commands)?.blocks.commands;
  }

  /** Open or close a group of tool calls. */
  toggle(group) {
    group.first.isGroupOpen = !group.first.isGroupOpen;
    this._changed();
  }

  /** Load the request of a turn: its images are shown, and the session keeps the modes of the last one. */
  async loadRequest(turn) {
    if (turn.run.request || turn.isRequested) return;
    turn.isRequested = true;
    const { request } = await get(`runs/${turn.run.id}`).catch(() => ({ request: {} }));
    turn.run = { ...turn.run, request };
    this._changed();
  }

  /** Load the events of a turn that is in view. */
  async show(turn) {
    this.loadRequest(turn);
    if (turn.blocks || turn.isLoading || turn.isFailed) return;
    turn.isLoading = true;
    const blocks = new RunBlocks(turn.run.id);
    try {
      for await (const event of storedEvents(turn.run.id, this._closed.signal)) blocks.add(event);
      if (blocks.blocks.length) turn.blocks = blocks;
      this._bound(turn);
    } catch {
      turn.isFailed = true; // the answer stays; an ephemeral run has no events
    }
    turn.isLoading = false;
    this._changed();
  }

  /** What to show, in order: `{id, kind, turn}` for a prompt, an answer or the end, and the blocks of runs. */
  get rows() {
    const fork = this.turns.findLast((turn) => turn.isInherited);
    const shown = this.turns.filter((turn) => !turn.isWithdrawn && !this.queued.includes(turn));
    this._rows ??= shown.flatMap((turn) => [
      { id: `${turn.run.id}:prompt`, kind: "prompt", turn },
      ...(turn.blocks
        ? grouped(turn.blocks.blocks, turn.isActive).map((row) => ({
          ...row, turn, isCurrent: turn.isActive && turn.blocks.current === row.block,
        }))
        : turn.isActive ? [] : [{ id: `${turn.run.id}:answer`, kind: "answer", turn }]),
      ...(turn.isActive ? [{ id: `${turn.run.id}:active`, kind: "active", turn }] : []),
      ...(turn === fork ? [{ id: "fork", kind: "fork", turn }] : []),
    ]);
    return this._rows;
  }

  _changed() {
    this._rows = null;
    this._timer ||= setTimeout(() => {
      this._timer = 0;
      if (!this._closed.signal.aborted) this._onChange();
    }, NOTIFY_MS);
  }
}
