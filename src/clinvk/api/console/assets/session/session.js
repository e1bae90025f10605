// A conversation with an agent: the transcript, which follows the agent's work, and the box for the next prompt.

import { html, Component, useEffect, useRef, useState } from "../vendor/preact.js";
import { cancel, get } from "../base/api.js";
import { Changes } from "../review/changes.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { cost, duration, elapsed, tokens } from "../base/format.js";
import { summaryOf } from "./groups.js";
import { Head } from "./head.js";
import { AskedCall, InteractionCard } from "./interaction.js";
import { live, useLive } from "../base/live.js";
import { Answer } from "../base/markdown.js";
import { navigate, useQuery } from "../base/router.js";
import { NextStep } from "./next.js";
import { Plan } from "./plan.js";
import { ToolCard } from "./tool.js";
import { Action, Clipped, Copy, Empty, Loading, Problem, Time, useTick, visible } from "../base/ui.js";
import { VirtualList } from "../base/virtual-list.js";

const MAX_NOTE_CHARS = 2_000;
const LAST_CHARS = 400;
const ROW_PX = 60; // a low estimate, so that enough rows are rendered at once

export function NewSession() {
  const [{ directory }] = useQuery();
  return html`
    <h1 tabindex="-1">New session</h1>
    <${Composer} directory=${directory} onStarted=${(started) => navigate(`session/${started.session_id}`)} />`;
}

/** A session, or with `runId` a run that has no session. */
export function Session({ sessionId, runId }) {
  useLive();
  const [, setVersion] = useState(0);
  const [isAtEnd, setAtEnd] = useState(true);
  const list = useRef();
  const conversation = useRef();
  useEffect(() => {
    const opened = new Conversation({ sessionId, runId }, () => setVersion((version) => version + 1));
    conversation.current = opened;
    opened.load();
    return () => opened.close();
  }, [sessionId, runId]);
  // turns that were just loaded may be older than events
  useEffect(() => live.runs.forEach((run) => conversation.current.update(run)), [live.version, conversation.current?.turns.length]);

  const { session, parent, total, rows = [], error, activeTurn, turns = [], ownTurns = [], queued, plan, commands } =
    conversation.current ?? {};
  const run = turns.at(-1)?.run;
  const lastTurn = ownTurns.findLast((turn) => !turn.isWithdrawn);
  const lastRequest = run ? run.request : total < Infinity ? {} : null;
  useEffect(() => { if (run) conversation.current.loadRequest(turns.at(-1)); }, [run?.id]);
  if (!(sessionId ? session : run)) return error ? html`<${Problem} error=${error} />` : html`<${Loading} />`;
  const interactionOf = ({ block }) =>
    block?.interaction && (live.interactions.get(block.interaction.id) ?? block.interaction);
  async function onStarted(started) {
    list.current.scrollToEnd();
    conversation.current.update(await get(`runs/${started.run_id}`));
  }
  return html`
    <${Head} key=${session?.id} session=${session} run=${lastTurn?.run} activeRun=${activeTurn?.run} parent=${parent}
      onChange=${() => conversation.current.load()}>
      ${session && html`<${Changes} key=${session.id} session=${session} turns=${ownTurns} />`}<//>
    <${Problem} error=${error} />
    ${!rows.length && total < Infinity && html`<${Empty}>No turns yet.<//>`}
    <div class="transcript">
      <${VirtualList} ref=${list} label="Transcript" items=${rows} keyOf=${(row) => row.id} estimate=${ROW_PX} sticksToEnd
        onStart=${() => conversation.current.loadEarlier()} onStick=${setAtEnd}
        render=${(row) => html`<${Row} row=${row} version=${row.version} run=${row.turn.run} interaction=${interactionOf(row)}
          onShow=${(turn) => conversation.current.show(turn)} onToggle=${(group) => conversation.current.toggle(group)} />`} />
    </div>
    <div class="dock">
      ${!isAtEnd && html`
        <button type="button" class="latest" onClick=${() => list.current.scrollToEnd()}>↓ Latest</button>`}
      ${plan && html`<${Plan} steps=${plan} />`}
      ${session && lastTurn && lastRequest && !activeTurn && html`
        <${NextStep} session=${session} turn=${lastTurn} request=${lastRequest} onStarted=${onStarted} />`}
      ${session && html`<${Composer} key=${session.id} session=${session} activeRun=${activeTurn?.run}
        queued=${queued} prompts=${ownTurns.map((turn) => turn.prompt)} commands=${commands}
        lastRequest=${lastRequest} onStarted=${onStarted} />`}
    </div>`;
}

/** A row of the transcript, rendered again only if it has changed. */
class Row extends Component {
  shouldComponentUpdate(next) {
    const names = ["version", "interaction", "run"];
    return next.row.kind === "answer" || next.row.isCurrent !== this.props.row.isCurrent || names.some((name) => next[name] !== this.props[name]);
  }

  render({ row: { kind, turn, block, isCurrent }, interaction, onShow, onToggle }) {
    if (isCurrent) block.isWhole = true; // nothing that grows is clipped
    const { run, isActive } = turn;
    switch (kind) {
      case "prompt": return block
        ? html`<${Prompt} text=${block.text} at=${block.at} />`
        : html`<${Prompt} text=${turn.prompt} at=${run.created_at} images=${run.request?.images} />`;
      case "answer": return html`<${Stored} turn=${turn} onShow=${onShow} />`;
      case "active": return html`<${Active} turn=${turn} />`;
      case "text": return html`<${Answer} ...${block} />`;
      case "thinking": return html`<${Thinking} block=${block} isCurrent=${isCurrent} />`;
      case "group": return html`<${Group} group=${block} onToggle=${onToggle} />`;
      case "tool": return interaction
        ? html`<${AskedCall} block=${block} interaction=${interaction} run=${run} isActive=${isActive} />`
        : html`<${ToolCard} block=${block} run=${run} isActive=${isActive} />`;
      case "note": return html`<${Note} block=${block} />`;
      case "interaction": return html`<${InteractionCard} interaction=${interaction} isInSession=${true} />`;
      case "fork": return html`<p class="end fork">Forked here: the turns above are those of the parent session.</p>`;
      case "error": return block.code === "cancelled"
        ? html`<p class="end">${visible(stopOf(block.message, turn.run))}</p>`
        : html`<p class="problem"><${Clipped} text=${block.message} /> <code>${block.code}</code></p>`;
      default: return html`<${End} block=${block} turn=${turn} />`;
    }
  }
}

/** Return why a run was cancelled, without the ids of runs. */
function stopOf(message, run) {
  if (/ steered the conversation$/.test(message)) return "Stopped for the next prompt";
  return !/^the (run|request) was cancelled/.test(message) ? message : run.started_at ? "Stopped" : "Withdrawn";
}

const Prompt = ({ text, at, images = [] }) => html`
  <div class="prompt"><${Clipped} text=${text || "(not stored)"} />
    ${images.map(({ media_type: type, bytes }) => html`<span class="image">Image: ${visible(type.replace("image/", "").toUpperCase())}, ${
      Math.ceil(bytes / 1024).toLocaleString("en")} KB, not stored</span>`)}
    <span class="when"><${Time} at=${at} /></span></div>`;

const Group = ({ group, onToggle }) => html`
  <button type="button" class="calls" aria-expanded=${Boolean(group.first.isGroupOpen)} onClick=${() => onToggle(group)}>
    ${summaryOf(group.blocks)}</button>`;

/** The stored answer of a turn, until its events are loaded. */
function Stored({ turn, onShow }) {
  useEffect(() => { onShow(turn); }, [turn]);
  return html`<${Answer} text=${turn.output} />
    ${turn.isFailed && turn.run.error && html`<p class="problem">${visible(turn.run.error)}</p>`}`;
}

const Note = ({ block: { stage, text } }) => html`
  <p class="note"><strong>${visible(stage)}</strong>
    ${" "}<${Clipped} text=${stage === "denied" ? text.split(";")[0] : text} limit=${MAX_NOTE_CHARS} /></p>`;

const Thinking = ({ block, isCurrent }) => html`
  <details class="thinking" open=${block.isOpen} onToggle=${(event) => { block.isOpen = event.currentTarget.open; }}>
    <summary>Thinking${isCurrent && html`<span class="about">${visible(lastLine(block.text))}</span>`}</summary>
    <${Answer} ...${block} />
  </details>`;

const lastLine = (text) => text.slice(-LAST_CHARS).trim().split("\n").at(-1);

function Active({ turn: { run } }) {
  useTick();
  const doing = { queued: "Queued", waiting: "Waits for you" }[run.state] ?? "Working";
  return html`<p class="working"><span class="pulse" aria-hidden="true"></span>${doing}
    <span class="quiet">${elapsed(run)}</span>
    ${run.state === "queued" && html`
      <${Action} class="small" run=${() => cancel(run.id)}>Withdraw<//>`}</p>`;
}

const contextOf = ({ context }) => context && `${Math.round(100 * context.used / context.size)} % of the context used`;

function End({ block, turn }) {
  const answer = () => turn.blocks.blocks.filter(({ kind }) => kind === "text").map(({ text }) => text).join("");
  const reason = block.stop_reason === "end_turn" ? "" : block.stop_reason?.replaceAll("_", " ");
  const facts = [reason, duration(block.duration * 1000), tokens(block.token_usage), cost(block.cost_usd), contextOf(block)];
  return html`<div class="turn-end"><p class="end">${facts.filter(Boolean).join(" · ")}</p>
    <${Copy} text=${answer} label="Copy answer" /></div>`;
}
