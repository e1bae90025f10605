// What an agent has said and done before it asked.

import { html } from "../vendor/preact.js";
import { storedEvents } from "../base/api.js";
import { useLoaded, visible } from "../base/ui.js";
import { RunBlocks, toolSummary } from "./transcript.js";

const SAID_CHARS = 600;
const TOOLS = 3;

/** Return the last sentences of the agent, and its last tool calls, before an interaction. */
async function contextOf({ id, run_id: run }) {
  const left = new AbortController();
  const events = new RunBlocks(run);
  for await (const event of storedEvents(run, left.signal)) {
    if (event.type === "interaction_requested" && event.content.id === id) break;
    events.add(event);
  }
  left.abort(); // the run goes on
  const said = events.blocks.findLast(({ kind }) => kind === "text")?.text.trim() ?? "";
  const tools = events.blocks.filter(({ kind, output }) => kind === "tool" && output !== null).slice(-TOOLS);
  return { said: said.length > SAID_CHARS ? `…${said.slice(-SAID_CHARS).replace(/^\S*\s/, " ")}` : said, tools };
}

export function Context({ interaction, workdir }) {
  const { value, error } = useLoaded(() => contextOf(interaction)); // a run without stored events has none
  const { said, tools = [] } = value ?? {};
  if (!value && !error) return html`<div class="context"></div>`; // room for it
  return (said || tools.length > 0) && html`
    <section class="context" aria-label="Before the request">
      ${said && html`<p>${visible(said)}</p>`}
      ${tools.length > 0 && html`<ul>${tools.map(({ name, input, isError }) => html`
        <li><strong>${visible(name)}</strong> <code>${visible(toolSummary(input, workdir))}</code>${isError && " failed"}</li>`)}</ul>`}
    </section>`;
}
