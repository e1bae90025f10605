// What may follow the last turn: an action that was denied is allowed, a prompt is sent again or edited, or the agent continues.

import { html } from "../vendor/preact.js";
import { filled, start } from "../base/api.js";
import { draftPrompt } from "../base/drafts.js";
import { live } from "../base/live.js";
import { Action, visible } from "../base/ui.js";
import { keptBy } from "./permissions.js";

const ALLOW = "Go on. The user is asked for each action from here on, so try again what was denied.";
const CONTINUE = "Continue where you left off.";
const BROKEN = { failed: "The run failed.", interrupted: "The run was interrupted.", cancelled: "The run was stopped." };

/** Return the block of an action that was denied because nobody was asked, or nobody answered. */
function deniedIn(turn, { approval_mode: approval }) {
  const isDenied = ({ stage, interaction }) => (approval === "ask" ? interaction?.status === "expired" : stage === "denied");
  return live.me.may_ask && turn.blocks?.blocks.findLast(isDenied);
}

/** `turn` is the last turn, which has ended, and `request` its request. */
export function NextStep({ session, turn, request, onStarted }) {
  const denied = deniedIn(turn, request);
  const broken = BROKEN[turn.run.state];
  if (!denied && !broken) return null;
  const send = (prompt, options) => async () =>
    onStarted(await start("prompt", { ...filled({ ...keptBy(request), ...options }), prompt, session_id: session.id }));
  const isSandboxed = ["read-only", "workspace"].includes(request.sandbox_mode);
  return html`<div class="next-step">
    <span>${denied ? visible(denied.text ?? "An action was denied, since nobody answered") : broken}</span>
    <span class="buttons">${denied ? html`
      <${Action} class="small" run=${send(ALLOW, { approval_mode: "ask", ...(isSandboxed && { sandbox_mode: "full" }) })}
        title="The agent continues ${isSandboxed ? "without its sandbox, " : ""}and asks you for each action">
        Allow and continue<//>` : html`
      ${turn.prompt && !request.images?.length && html`
        <${Action} class="small" run=${send(turn.prompt)} title="Send the same prompt again">Retry<//>`}
      <${Action} class="small" run=${send(CONTINUE)} title="Ask the agent to continue">Continue<//>
      ${turn.prompt && html`<button type="button" class="small" onClick=${() => draftPrompt(session.id, turn.prompt)}>Edit prompt</button>`}`}
    </span></div>`;
}
