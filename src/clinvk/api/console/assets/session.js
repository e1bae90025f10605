// A conversation with an agent: the transcript, which follows the agent's work, and the box for the next prompt.

import { html, Component, useEffect, useRef, useState } from "./vendor/preact.js";
import { get, patch, post, remove } from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { cost, dateTime, duration, elapsed, plural, shortPath, titleOf, tokens } from "./format.js";
import { InteractionCard } from "./interaction.js";
import { useLive } from "./live.js";
import { Answer } from "./markdown.js";
import { navigate } from "./router.js";
import { ToolCard } from "./tool.js";
import { Agent, Clipped, Empty, Problem, State, Time, useTick, visible } from "./ui.js";
import { VirtualList } from "./virtual-list.js";

const ROW_PX = 60; // a low estimate, so that enough rows are rendered at once

export const NewSession = () => html`
  <h1 tabindex="-1">New session</h1>
  <${Composer} onStarted=${({ run_id: run, session_id: session }) => navigate(session ? `session/${session}` : `run/${run}`)} />`;

/** A session, or with `runId` a run that has no session. */
export function Session({ sessionId, runId }) {
  const live = useLive();
  const [, setVersion] = useState(0);
  const [isAtEnd, setAtEnd] = useState(true);
  const [lastRequest, setLastRequest] = useState(null);
  const list = useRef();
  const conversation = useRef();
  useEffect(() => {
    const opened = new Conversation({ sessionId, runId }, () => setVersion((version) => version + 1));
    conversation.current = opened;
    opened.load().then(() => {
      const last = opened.turns.at(-1);
      if (last && sessionId) get(`runs/${last.run.id}`).then((run) => setLastRequest(run.request), () => {});
    });
    return () => opened.close();
  }, [sessionId, runId]);
  useEffect(() => {
    live.runs.forEach((run) => conversation.current.update(run));
  }, [live.version]);

  const { session, rows = [], error, activeTurn, turns = [] } = conversation.current ?? {};
  const run = turns.at(-1)?.run;
  if (!run && !session) return error ? html`<${Problem} error=${error} />` : html`<p class="quiet loading">Loading…</p>`;
  return html`
    <${Head} key=${session?.id} session=${session} run=${run} onChange=${() => conversation.current.load()} />
    <${Problem} error=${error} />
    ${!rows.length && html`<${Empty}>No turns yet.<//>`}
    <div class="transcript"><${VirtualList} ref=${list} items=${rows} keyOf=${(row) => row.id} estimate=${ROW_PX} sticksToEnd label="Transcript"
      onStart=${() => conversation.current.loadEarlier()} onStick=${setAtEnd}
      render=${(row) => html`<${Row} row=${row} version=${row.version} turn=${row.turn} run=${row.turn.run} conversation=${conversation.current}
        interaction=${row.kind === "interaction" ? live.interactions.get(row.block.interaction.id) ?? row.block.interaction : null} />`} /></div>
    <div class="dock">
      ${!isAtEnd && html`<button type="button" class="latest" onClick=${() => list.current.scrollToEnd()}>↓ Latest</button>`}
      ${session && html`<${Composer} key=${session.id} session=${session} activeRun=${activeTurn?.run} lastRequest=${lastRequest}
        onStarted=${({ run_id: id }) => { list.current?.scrollToEnd(); get(`runs/${id}`).then((started) => conversation.current.update(started), () => {}); }} />`}
    </div>`;
}

function Head({ session, run, onChange }) {
  const [isNaming, setNaming] = useState(false);
  async function rename(event) {
    event.preventDefault();
    await patch(`sessions/${session.id}`, { title: new FormData(event.target).get("title").trim() });
    setNaming(false);
    onChange();
  }
  async function fork() {
    navigate(`session/${(await post(`sessions/${session.id}/fork`)).id}`);
  }
  async function drop() {
    if (!window.confirm("Delete this session with its runs?")) return;
    await remove(`sessions/${session.id}`);
    navigate("sessions");
  }
  const [error, setError] = useState(null);
  const attempt = (action) => () => action().catch(setError);
  return html`
    <header class="session-head">
      ${isNaming
        ? html`<form class="naming" onSubmit=${(event) => rename(event).catch(setError)}><input name="title" aria-label="Title" maxlength="500" value=${session.title || titleOf(session)} />
          <button class="primary">Save</button><button type="button" onClick=${() => setNaming(false)}>Cancel</button></form>`
        : html`<h1 tabindex="-1">${visible(session ? titleOf(session) : "Run without session")}</h1>`}
      <p class="meta"><${Agent} name=${(session ?? run).backend} />${(run?.model || session?.model) && html`<span>${visible(run?.model || session.model)}</span>`}
        <span title=${(session?.working_dir) ?? run.workdir}>${visible(shortPath(session?.working_dir ?? run.workdir, 3))}</span>
        ${session && html`<span>${tokens(session.token_usage)}</span><span>${cost(session.cost_usd)}</span>`}
        ${session && html`<span class="links"><button type="button" class="link" onClick=${() => setNaming(true)}>Rename</button>
          <button type="button" class="link" onClick=${attempt(fork)}>Fork</button>
          <button type="button" class="link" onClick=${attempt(drop)}>Delete</button></span>`}</p>
      <${Problem} error=${error} />
    </header>`;
}

/** A row of the transcript, rendered again only if it has changed. */
class Row extends Component {
  shouldComponentUpdate(next) {
    const names = ["version", "interaction", "run"];
    return next.row.kind === "answer" || names.some((name) => next[name] !== this.props[name]);
  }

  render({ row: { kind, turn, block }, interaction, conversation }) {
    switch (kind) {
      case "prompt": return html`<div class="prompt"><${Clipped} text=${turn.prompt || "(not stored)"} /><span class="when"><${Time} at=${turn.run.created_at} /></span></div>`;
      case "answer": return html`<${Stored} turn=${turn} conversation=${conversation} />`;
      case "active": return html`<${Active} turn=${turn} />`;
      case "text": return html`<${Answer} text=${block.text} />`;
      case "thinking": return html`<${Thinking} block=${block} />`;
      case "tool": return html`<${ToolCard} block=${block} isActive=${turn.isActive} />`;
      case "note": return html`<p class="note"><strong>${visible(block.stage)}</strong> <${Clipped} text=${block.text} limit=${2_000} /></p>`;
      case "interaction": return html`<${InteractionCard} interaction=${interaction} isInSession=${true} />`;
      case "error": return html`<p class="problem"><${Clipped} text=${block.message} limit=${4_000} /> <code>${block.code}</code></p>`;
      default: return html`<${End} block=${block} turn=${turn} />`;
    }
  }
}

/** The stored answer of a turn, until its events are loaded. */
function Stored({ turn, conversation }) {
  useEffect(() => { conversation.show(turn); }, [turn]);
  return html`<${Answer} text=${turn.output} />${turn.isFailed && turn.run.error && html`<p class="problem">${visible(turn.run.error)}</p>`}`;
}

const Thinking = ({ block }) => html`
  <details class="thinking" open=${block.isOpen} onToggle=${(event) => { block.isOpen = event.currentTarget.open; }}>
    <summary>Thinking</summary><${Answer} text=${block.text} />
  </details>`;

function Active({ turn: { run, blocks } }) {
  useTick();
  const { current } = blocks ?? {};
  const doing = run.state === "queued" ? "Queued" : run.state === "waiting" ? "Waits for you" : current?.kind === "tool" && current.output === null ? current.name : current?.kind === "thinking" ? "Thinking" : "Working";
  return html`<p class="working"><span class="pulse" aria-hidden="true"></span>${visible(doing)} <span class="quiet">${elapsed(run)}</span></p>`;
}

function End({ block, turn }) {
  const reason = block.stop_reason === "end_turn" ? "" : block.stop_reason?.replaceAll("_", " ");
  const facts = [reason, duration(block.duration * 1000), tokens(block.token_usage), cost(block.cost_usd)];
  return html`<p class="end" title=${turn.run.ended_at ? dateTime(turn.run.ended_at) : ""}>${facts.filter(Boolean).join(" · ")}</p>`;
}
