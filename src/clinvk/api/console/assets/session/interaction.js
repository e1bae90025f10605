// What an agent asks: a card with the command, diff or question, and the buttons that answer.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get, post } from "../base/api.js";
import { duration, firstLine, pathOf, shortPath } from "../base/format.js";
import { live } from "../base/live.js";
import { ToolCard, ToolInput, ToolOutput } from "./tool.js";
import { Agent, Form, Problem, Time, announce, stored, useAction, useFocus, useTick, visible } from "../base/ui.js";

const RESULTS = {
  allow: "Allowed", allow_session: "Allowed for the session", deny: "Denied", deny_and_stop: "Denied, run stopped",
  answer: "Answered",
};
const DECLINES = [["deny", "Decline"], ["deny_and_stop", "Decline and stop"]];
const SOON_MS = 60_000;
const KEYS = { a: ["allow", "Allow"], d: ["deny", "Deny"] };
const TYPING_MS = 500;

/** Return how an interaction that is not pending ended. */
export function resultOf({ status, choice, answered_by: by, reason, edited_input: edited }) {
  if (status === "expired") return "Expired, denied";
  if (status === "withdrawn") return "Withdrawn: the run has ended";
  return `${edited ? "Allowed with changes" : RESULTS[choice] ?? "Answered"}${by ? ` by ${by}` : ""}${reason ? `: ${reason}` : ""}`;
}

/**
 * Call `onKey` with a single key while a card has the focus by keyboard, and not while somebody types: a key counts if no
 * other printable key is pressed within half a second before or after, and not right after the card appears. Return
 * whether keys count.
 */
function useKeys(card, isOn, onKey) {
  const [isReady, setReady] = useState(false);
  const current = useRef();
  current.current = { isReady, onKey };
  useEffect(() => {
    if (!isOn || !stored("shortcuts", true)) return undefined;
    let [timer, typedAt] = [0, performance.now()]; // a card that appears was not read yet
    function onKeyDown(event) {
      clearTimeout(timer);
      if (event.key.length > 1) return;
      const isTyping = event.timeStamp - typedAt < TYPING_MS;
      typedAt = event.timeStamp;
      if (isTyping || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !current.current.isReady) return;
      timer = setTimeout(() => event.defaultPrevented || current.current.onKey(event.key), TYPING_MS);
    }
    const enter = () => setReady(card.current.matches(":focus-visible"));
    const leave = () => { clearTimeout(timer); setReady(false); };
    const ended = new AbortController();
    const options = { capture: true, signal: ended.signal };
    window.addEventListener("keydown", onKeyDown, options);
    window.addEventListener("pointerdown", leave, options);
    card.current.addEventListener("focus", enter, { signal: ended.signal });
    card.current.addEventListener("blur", leave, { signal: ended.signal });
    enter(); // the card may have got the focus before this effect ran
    return () => { leave(); ended.abort(); };
  }, [isOn]);
  return isReady;
}

/** The answers to a question, beside the questions. */
const Answers = ({ fields, answers }) => html`<dl class="given">${fields.filter(({ id }) => answers[id]).map(({ id, label }) => html`
  <dt>${visible(label)}</dt><dd>${visible([answers[id]].flat().join(", "))}</dd>`)}</dl>`;

/** A tool call that the user is or was asked about: one card, which stays as it is until this page is left. */
export function AskedCall({ block, interaction, run, isActive }) {
  const isPending = interaction.status === "pending";
  block.wasAsked ||= isPending;
  return block.wasAsked || interaction.kind === "question"
    ? html`<${InteractionCard} interaction=${interaction} isInSession=${true} outcome=${interaction.kind !== "question" && html`
        <${ToolOutput} block=${block} run=${run} />`} />`
    : html`<${ToolCard} block=${block} input=${interaction.edited_input ?? block.input} run=${run} isActive=${isActive}
        result=${resultOf(interaction)} />`;
}

/**
 * A card for an interaction, also once it is resolved. In the transcript of its session it does not link there, and
 * `outcome` is what came of the action. `onAnswered` is called after the answer of this user.
 */
export function InteractionCard({ interaction, isInSession, outcome, onAnswered }) {
  const [mode, setMode] = useState("");
  const card = useRef();
  const isPending = interaction.status === "pending";
  const mayAnswer = isPending && (live.me.may_answer || interaction.key === live.me.key);
  const height = useRef(0); // while it was pending: the answer must not move what is below
  useEffect(() => { if (isPending) height.current = card.current.getBoundingClientRect().height; });
  useTick(isPending);

  /** Send an answer. If somebody else was first, or it is too late, show how the interaction ended. */
  const [answer, isBusy, error] = useAction(async (body) => {
    const path = `interactions/${interaction.id}`;
    try {
      live.addInteraction(await post(`${path}/answer`, body));
      announce(RESULTS[body.choice]);
      onAnswered?.(interaction);
    } catch (failure) {
      if (failure.status === 409 || failure.status === 410) live.addInteraction(await get(path));
      throw failure;
    } finally {
      card.current?.focus({ preventScroll: true }); // the buttons are gone
    }
  });

  const keys = Object.entries(KEYS).filter(([, [choice]]) => interaction.choices.includes(choice));
  const areKeysOn = useKeys(card, mayAnswer && interaction.kind !== "question", (pressed) => {
    const [, [choice] = []] = keys.find(([key]) => key === pressed) ?? [];
    if (isBusy || mode || !choice) return;
    if (choice === "deny" && interaction.accepts_reason) setMode("deny");
    else answer({ choice });
  });

  const run = live.runs.get(interaction.run_id);
  const workdir = interaction.workdir ?? run?.workdir;
  const edited = !isPending && interaction.edited_input;
  const left = Date.parse(interaction.expires_at) - Date.now();
  return html`
    <section class="card interaction ${interaction.status}" tabindex="0" ref=${card}
      style=${{ minHeight: isPending ? "" : `${height.current}px` }}
      aria-label=${`${interaction.backend} asks: ${interaction.title}`}>
      <header>
        <${Agent} name=${interaction.backend} />
        ${!isInSession && html`<a class="session" href=${pathOf({ ...interaction, id: interaction.run_id })}>${
          visible(firstLine(run?.prompt) || "Session")}</a>`}
        <span class="quiet place" title=${workdir}>${visible(shortPath(workdir))}</span>
        <span class="quiet spacer"><${Time} at=${interaction.created_at} /></span>
      </header>
      <h2>${visible(interaction.title || interaction.tool || "The agent asks")}</h2>
      ${interaction.note && html`<div class="reasons">${interaction.note.split("\n").filter((line) => line !== interaction.title).map((line) => html`
        <p class=${line.startsWith("clinvk: ") ? "fact" : "quiet"}>${visible(line)}</p>`)}</div>`}
      ${interaction.kind === "approval" && (isPending || !isInSession || height.current || edited) && html`
        <${ToolInput} input=${interaction.input} diff=${interaction.diff} command=${interaction.command}
          known=${[interaction.title, ...interaction.note.split("\n")]} />`}
      ${!isPending && html`<p class="result">${visible(resultOf(interaction))}</p>`}
      ${interaction.choice === "answer" && html`<${Answers} ...${interaction} />`}
      ${edited && html`<${ToolInput} input=${edited} />`}
      ${!isPending && outcome}
      ${isPending && !mayAnswer && html`<p class="quiet">This API key may not answer the agents of other keys.</p>`}
      ${mayAnswer && (interaction.kind === "question"
        ? html`<${QuestionForm} interaction=${interaction} isBusy=${isBusy} onAnswer=${answer} />`
        : html`<${ApprovalButtons} interaction=${interaction} isBusy=${isBusy} mode=${mode} setMode=${setMode}
            onAnswer=${answer} />`)}
      <${Problem} error=${error} />
      ${isPending && left > 0 && html`
        <p class="expiry ${left < SOON_MS ? "soon" : ""}">Denied in ${duration(left)} unless answered${
          areKeysOn && keys.map(([key, [, label]]) => html` · <kbd>${key}</kbd> ${label}`)}</p>`}
    </section>`;
}

function ApprovalButtons({ interaction, isBusy, mode, setMode, onAnswer }) {
  const { choices, editable, input, command } = interaction;
  const isBudget = interaction.kind === "budget";
  const back = () => setMode("");
  if (mode === "deny") return html`<${DenyForm} choices=${choices} isBusy=${isBusy} onAnswer=${onAnswer} onBack=${back} />`;
  if (mode === "edit") {
    return html`<${EditForm} command=${command} isBusy=${isBusy} onBack=${back}
      onSave=${(text) => onAnswer({ choice: "allow", input: { ...input, command: text } })} />`;
  }
  const button = (choice, label, kind, onClick = () => onAnswer({ choice })) => choices.includes(choice) && html`
    <button type="button" class=${kind} disabled=${isBusy} onClick=${onClick}>${label}</button>`;
  return html`
    <div class="buttons">
      ${button("allow", isBudget ? "Continue" : "Allow", "primary")}
      ${button("allow_session", "Allow for the session")}
      ${editable && typeof input.command === "string" && button("allow", "Edit…", "", () => setMode("edit"))}
      <span class="gap"></span>
      ${interaction.accepts_reason
        ? button("deny", "Deny…", "", () => setMode("deny"))
        : button("deny", isBudget ? "End the run" : "Deny")}
      ${!(interaction.accepts_reason && choices.includes("deny")) && button("deny_and_stop", "Deny and stop", "danger")}
    </div>`;
}

function DenyForm({ choices, isBusy, onAnswer, onBack }) {
  const [reason, setReason] = useState("");
  const field = useFocus();
  const deny = (choice) => onAnswer({ choice, ...(reason.trim() && { reason: reason.trim() }) });
  return html`
    <${Form} class="answer" onSubmit=${() => deny("deny")}>
      <label>Reason, which the agent reads <span class="quiet">(optional)</span>
        <input value=${reason} ref=${field} autocomplete="off" onInput=${(event) => setReason(event.target.value)} /></label>
      <div class="buttons">
        <button class="danger" disabled=${isBusy}>Deny</button>
        ${choices.includes("deny_and_stop") && html`
          <button type="button" class="danger" disabled=${isBusy} onClick=${() => deny("deny_and_stop")}>Deny and stop</button>`}
        <span class="gap"></span>
        <button type="button" onClick=${onBack}>Back</button>
      </div>
    <//>`;
}

function EditForm({ command, isBusy, onSave, onBack }) {
  const [text, setText] = useState(command);
  const field = useFocus();
  return html`
    <${Form} class="answer" onSubmit=${() => onSave(text)}>
      <label>Command<textarea class="mono" rows="3" spellcheck="false" value=${text} ref=${field}
        onInput=${(event) => setText(event.target.value)}></textarea></label>
      <div class="buttons"><button class="primary" disabled=${isBusy || !text.trim()}>Allow this command</button>
        <span class="gap"></span><button type="button" onClick=${onBack}>Back</button></div>
    <//>`;
}

function QuestionForm({ interaction, isBusy, onAnswer }) {
  const fields = interaction.fields ?? [];
  const [answers, setAnswers] = useState({});
  const isComplete = fields.every(({ id }) => answers[id]?.length);
  function read({ currentTarget }) {
    const data = new FormData(currentTarget);
    setAnswers(Object.fromEntries(fields.map(({ id, multiple }) => {
      const chosen = data.getAll(`answer ${id}`).map((value) => value || data.get(`other ${id}`)).filter(Boolean);
      return [id, multiple ? chosen : chosen[0]];
    })));
  }
  return html`
    <${Form} class="answer" onInput=${read} onSubmit=${() => onAnswer({ choice: "answer", answers })}>
      ${fields.map((field) => html`<${Field} key=${field.id} ...${field} />`)}
      <div class="buttons">
        <button class="primary" disabled=${isBusy || !isComplete}>Answer</button>
        <span class="gap"></span>
        ${DECLINES.filter(([choice]) => interaction.choices.includes(choice)).map(([choice, label]) => html`
          <button type="button" class="danger" disabled=${isBusy} onClick=${() => onAnswer({ choice })}>${label}</button>`)}
      </div>
    <//>`;
}

/** The field of a question. The choice without a value is another answer, which is written beside it. */
function Field({ id, label, options, multiple, other }) {
  const box = useRef();
  if (!options?.length) return html`<label>${visible(label)}<textarea name=${`answer ${id}`} rows="2"></textarea></label>`;
  const choice = (value, content, attributes) => html`
    <label class="option"><input type=${multiple ? "checkbox" : "radio"} name=${`answer ${id}`} value=${value} ...${attributes} />${content}</label>`;
  const write = ({ target }) => { box.current.querySelector("[name]").checked = Boolean(target.value); };
  const focus = ({ target }) => target.checked && box.current.lastElementChild.focus();
  return html`
    <fieldset><legend>${visible(label)}</legend>
      ${options.map((option) => choice(option.value, html`
        <span>${visible(option.label || option.value)} <span class="quiet">${visible(option.description)}</span></span>`))}
      ${other && html`<div class="other" ref=${box}>${choice("", "Other", { onChange: focus })}
        <input aria-label="Other answer" name=${`other ${id}`} onInput=${write} /></div>`}
    </fieldset>`;
}
