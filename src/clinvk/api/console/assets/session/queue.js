// The prompts that wait for the agent of a session: each can be edited, moved and withdrawn.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { cancel, filled, get, start } from "../base/api.js";
import { keptBy } from "./permissions.js";
import { Action, Clipped } from "../base/ui.js";

const SHOWN_CHARS = 500;

/**
 * Withdraw queued runs, and queue their prompts again in another order, as `prompts` of `{run, text}`: the server starts
 * prompts in the order of arrival. `onBegin` is called if this is possible, `onLost` with texts that are not queued again.
 */
async function queueAgain(session, prompts, onStarted, onLost, onBegin) {
  const requests = await Promise.all(prompts.map(({ run }) => get(`runs/${run.id}`)));
  if (requests.some(({ request }) => request.images)) {
    throw new Error("A prompt with images keeps its place: withdraw the prompt and send it again.");
  }
  if (requests.some(({ state }) => state !== "queued")) throw new Error("The agent has started on this prompt.");
  onBegin?.();
  const lost = prompts.map(({ text }) => text);
  try {
    await Promise.all(prompts.map(({ run }) => cancel(run.id)));
    for (const { run, text } of prompts) {
      const { request } = requests.find((each) => each.id === run.id);
      onStarted(await start("prompt", { ...filled(keptBy(request)), prompt: text, session_id: session.id, on_busy: "queue" }));
      lost.shift();
    }
  } catch (error) {
    onLost(lost);
    throw error;
  }
}

/** `turns` wait in this order. */
export function Queue({ session, turns, onStarted, onLost }) {
  if (!turns.length) return null;
  const prompts = turns.map(({ run, prompt }) => ({ run, text: prompt }));
  const change = (index, changed, onBegin) => queueAgain(session, changed.slice(index), onStarted, onLost, onBegin);
  const moveUp = (index) => change(index - 1, [
    ...prompts.slice(0, index - 1), prompts[index], prompts[index - 1], ...prompts.slice(index + 1),
  ]);
  const edit = (index, text, onBegin) => change(index, prompts.with(index, { ...prompts[index], text }), onBegin);
  return html`
    <section class="queue" aria-label="Queued prompts"><ol>${prompts.map(({ run, text }, index) => html`
      <${Queued} key=${run.id} run=${run} text=${text} onLost=${onLost} onEdit=${(...next) => edit(index, ...next)}
        onUp=${index > 0 && (() => moveUp(index))}
        onDown=${index + 1 < prompts.length && (() => moveUp(index + 1))} />`)}</ol></section>`;
}

/** If the agent starts on the prompt while it is edited, `onLost` gets the edited text. */
function Queued({ run, text, onEdit, onLost, onUp, onDown }) {
  const [edited, setEdited] = useState(null);
  const unsaved = useRef(null);
  const [area, button] = [useRef(), useRef()];
  useEffect(() => area.current?.focus(), [edited === null]);
  useEffect(() => () => unsaved.current && unsaved.current !== text && onLost([unsaved.current]), []);
  function write(next) {
    unsaved.current = next;
    setEdited(next);
  }
  function toggle() {
    button.current.focus(); // which stays
    write(edited === null ? text : null);
  }
  const symbol = (label, icon, action) => action && html`
    <${Action} class="small icon" aria-label=${`${label}: ${text.slice(0, 40)}`} title=${label} run=${action}>${icon}<//>`;
  return html`<li>
    ${edited === null
      ? html`<span class="text"><${Clipped} text=${text} limit=${SHOWN_CHARS} /></span>
        ${symbol("Move up", "↑", onUp)} ${symbol("Move down", "↓", onDown)}`
      : html`<textarea aria-label="Queued prompt" value=${edited} ref=${area} onInput=${(event) => write(event.target.value)}
          onKeyDown=${(event) => event.key === "Escape" && toggle()}></textarea>
        <${Action} class="small primary" disabled=${!edited.trim()} run=${() => onEdit(edited, () => { unsaved.current = null; })}>Save<//>`}
    <button key="edit" type="button" class="small" ref=${button} onClick=${toggle}>${edited === null ? "Edit" : "Cancel"}</button>
    ${edited === null && html`<${Action} class="small" run=${() => cancel(run.id)}>Withdraw<//>`}</li>`;
}
