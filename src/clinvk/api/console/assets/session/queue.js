// The prompts that wait for the agent of a session: each can be edited, moved and withdrawn.

import { html, useState } from "../vendor/preact.js";
import { cancel, get, start } from "../base/api.js";
import { keptBy } from "./permissions.js";
import { Action, Clipped, TextArea } from "../base/ui.js";

const SHOWN_CHARS = 500;

/**
 * Withdraw queued runs, and queue their prompts again in another order, as `prompts` of `{run, text}`: the server starts
 * prompts in the order of arrival. `onLost` gets the texts that could not be queued again.
 */
async function queueAgain(session, prompts, onStarted, onLost) {
  const requests = await Promise.all(prompts.map(({ run }) => get(`runs/${run.id}`)));
  if (requests.some(({ request }) => request.images)) {
    throw new Error("A prompt with images keeps its place: withdraw the prompt and send it again.");
  }
  const waiting = prompts.filter((_, index) => requests[index].state === "queued");
  await Promise.all(waiting.map(({ run }) => cancel(run.id)));
  for (const [index, { run, text }] of waiting.entries()) {
    const { request } = requests.find((each) => each.id === run.id);
    const { approval_mode: approval, sandbox_mode: sandbox, model } = keptBy(request);
    const modes = Object.entries({ approval_mode: approval, sandbox_mode: sandbox, model }).filter(([, value]) => value);
    try {
      onStarted(await start("prompt", { ...Object.fromEntries(modes), prompt: text, session_id: session.id, on_busy: "queue" }));
    } catch (error) {
      onLost(waiting.slice(index).map((each) => each.text));
      throw error;
    }
  }
}

/** `turns` wait in this order. */
export function Queue({ session, turns, onStarted, onLost }) {
  if (!turns.length) return null;
  const prompts = turns.map(({ run, prompt }) => ({ run, text: prompt }));
  const change = (index, changed) => queueAgain(session, changed.slice(index), onStarted, onLost);
  const moveUp = (index) => change(index - 1, [
    ...prompts.slice(0, index - 1), prompts[index], prompts[index - 1], ...prompts.slice(index + 1),
  ]);
  const edit = (index, text) => change(index, prompts.map((each, at) => (at === index ? { ...each, text } : each)));
  return html`
    <section class="queue" aria-label="Queued prompts"><ol>${prompts.map(({ run, text }, index) => html`
      <${Queued} key=${run.id} run=${run} text=${text} onEdit=${(next) => edit(index, next)}
        onUp=${index > 0 && (() => moveUp(index))}
        onDown=${index + 1 < prompts.length && (() => moveUp(index + 1))} />`)}</ol></section>`;
}

function Queued({ run, text, onEdit, onUp, onDown }) {
  const [edited, setEdited] = useState(null);
  const symbol = (label, icon, action) => action && html`
    <${Action} class="small icon" aria-label=${`${label}: ${text.slice(0, 40)}`} title=${label} run=${action}>${icon}<//>`;
  if (edited !== null) {
    return html`<li>
      <${TextArea} label="Queued prompt" rows="2" value=${edited} onChange=${setEdited} />
      <${Action} class="small primary" disabled=${!edited.trim()} run=${() => onEdit(edited)}>Save<//>
      <button type="button" class="small" onClick=${() => setEdited(null)}>Cancel</button></li>`;
  }
  return html`<li>
    <span class="text"><${Clipped} text=${text} limit=${SHOWN_CHARS} /></span>
    ${symbol("Move up", "↑", onUp)} ${symbol("Move down", "↓", onDown)}
    <button type="button" class="small" onClick=${() => setEdited(text)}>Edit</button>
    <${Action} class="small" run=${() => cancel(run.id)}>Withdraw<//></li>`;
}
