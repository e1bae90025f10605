// The box for a prompt: text, images, project, agent and permissions; while the agent works, queue or steer.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { cancel, filled, get, start } from "../base/api.js";
import { draftPrompt, readDraft, useDraft, writeDraft } from "../base/drafts.js";
import { Action, Checkbox, Form, Problem, Select, TextField, announce, useAction, useLoaded, useStored } from "../base/ui.js";
import { useCompletion } from "./completion.js";
import { AddImages, Images, useImages } from "./images.js";
import { Permissions, Presets, keptBy, modesIn, warningsOf, withApproval } from "./permissions.js";
import { Project, useDirectory, useRemembered } from "./project.js";
import { Queue } from "./queue.js";

const SHEET = "prompt-options";

/** Return the installed agents, or null until they are known. */
export function useBackends() {
  const { value, error } = useLoaded(() => get("backends"));
  return error ? [] : value?.backends.filter((backend) => backend.available) ?? null;
}

/** Return a handler of the arrow keys, which brings earlier prompts into an empty box. */
function useHistory(prompts, text, write) {
  const index = useRef(null);
  return (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const isShown = index.current !== null && text === prompts[index.current];
    if (!step || (text && !isShown) || (!isShown && step > 0)) return false;
    const next = (isShown ? index.current : prompts.length) + step;
    if (next < 0) return false;
    index.current = next < prompts.length ? next : null;
    write(prompts[next] ?? "");
    event.preventDefault();
    return true;
  };
}

/**
 * `session` and `activeRun` are null for a new session, `queued` are the turns that wait, `prompts` the earlier prompts, and
 * `commands` the agent's slash commands. `directory` is the project that the address names. `onStarted` gets the `run_id`
 * and `session_id`.
 */
export function Composer({ session, activeRun, queued = [], lastRequest, prompts = [], commands = [], directory, onStarted }) {
  const name = session?.id ?? "new";
  const backends = useBackends();
  const [stored, setStored] = useStored("prompt", {});
  const [, remember] = useRemembered();
  const [draft, setDraft] = useDraft(name, {});
  const [images, addImages, setImages] = useImages(name);
  const area = useRef();
  const { text: prompt = "" } = draft;
  const chosen = { ...(!session && { ...stored, approval_mode: stored.approval_mode || undefined }), ...draft.options };
  const agent = session?.backend ?? chosen.backend ?? backends?.[0]?.name;
  const backend = backends?.find((each) => each.name === agent);
  const options = withApproval({ ...(session && keptBy(lastRequest ?? {})), ...chosen }, [backend]);
  const project = useDirectory(options.workdir ?? "", !session);
  const keep = (changed) => {
    const next = { ...readDraft(name), ...changed };
    setDraft(next.text || next.options ? next : null);
  };
  const write = (text) => keep({ text });
  const change = (changed) => keep({ options: { ...readDraft(name)?.options, ...changed } });
  const [refusal, setRefusal] = useState(null);
  const add = (files) => addImages(files).then(() => setRefusal(null), setRefusal);
  const completion = useCompletion(area, session?.working_dir ?? project?.path, commands, write);
  const onHistory = useHistory(prompts, prompt, write);
  useEffect(() => { if (!session) area.current.focus(); }, []);
  useEffect(() => { if (directory) change({ workdir: directory, is_isolated: false }); }, [directory]);

  /** Send the prompt. While the agent works, `onBusy` says what happens. */
  const [submit, isBusy, error] = useAction(async (onBusy = "queue") => {
    const { is_isolated: isIsolated, ...fields } = options;
    const started = await start("prompt", {
      prompt,
      ...filled(fields),
      ...(session ? { session_id: session.id } : { backend: agent }),
      ...(isIsolated && project?.branch && { isolation: "worktree" }),
      ...(images.length && { images: images.map((image) => image.url) }),
      ...(activeRun && { on_busy: onBusy }),
    });
    if (readDraft(name)?.text === prompt) writeDraft(name, null); // not what was typed meanwhile
    setImages((now) => now.filter((image) => !images.includes(image)));
    if (!session) {
      setStored({ ...chosen, backend: agent });
      remember(options.workdir);
    }
    announce("Prompt sent");
    onStarted(started);
  });

  const canSend = prompt.trim() && !isBusy && agent && (!session || lastRequest); // whose modes the session keeps
  function onKeyDown(event) {
    if (completion.onKeyDown(event) || onHistory(event)) return;
    const isPhone = matchMedia("(pointer: coarse)").matches; // where there is a button but no easy new line
    const isSteering = event.ctrlKey || event.metaKey;
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || (isPhone && !isSteering)) return;
    event.preventDefault();
    if (canSend) submit(isSteering ? "steer" : "queue");
  }
  const onInput = (event) => { write(event.target.value); completion.update(); };
  const isWarning = warningsOf(options).length > 0;
  const model = html`
    <${TextField} class="model" label="Model" placeholder="Model: default" list="models" value=${options.model ?? ""}
      onChange=${(next) => change({ model: next })} />
    <datalist id="models">${(backend?.models ?? []).map((each) => html`<option value=${each} />`)}</datalist>`;
  const presets = html`<${Presets} backend=${backend} value=${options} onChange=${change} />`;

  return html`
    <${Queue} session=${session} turns=${queued} onStarted=${onStarted} onLost=${(texts) => draftPrompt(name, ...texts)} />
    <${Form} class="composer" aria-label="Prompt" onSubmit=${() => canSend && submit()}
      onPaste=${(event) => add(event.clipboardData.files)} onDragOver=${(event) => event.preventDefault()}
      onDrop=${(event) => { event.preventDefault(); add(event.dataTransfer.files); }}>
      ${backends?.length === 0 && html`<p class="problem">No agent is installed. <a href="#/agents">Agents</a></p>`}
      <${Problem} error=${error ?? refusal} />
      ${!session && html`<div class="options">
        <${Project} value=${options.workdir ?? ""} onChange=${(workdir) => change({ workdir, is_isolated: false })} />
        ${project?.branch && html`
          <${Checkbox} checked=${options.is_isolated} onChange=${() => change({ is_isolated: !options.is_isolated })}>
            In its own worktree<//>`}</div>`}
      ${completion.list}
      <textarea aria-label="Prompt" rows=${session ? 2 : 5} value=${prompt} ref=${area} onInput=${onInput} onKeyDown=${onKeyDown}
        placeholder=${activeRun ? "Enter queues the prompt, Ctrl-Enter steers the agent"
          : session ? "Continue the conversation" : "What should the agent do? @ names a file"} ...${completion.attributes}></textarea>
      <${Images} images=${images} onChange=${setImages} />
      ${!session && presets}
      <div class="options">
        ${!session && html`<${Select} label="Agent" value=${agent} options=${(backends ?? []).map((each) => [each.name, each.name])}
          onChange=${(next) => change({ backend: next, model: "", approval_mode: null, sandbox_mode: "" })} />`}
        <button type="button" popovertarget=${SHEET} class=${isWarning ? "warning" : ""} title="Model and permissions">
          ${session || isWarning ? modesIn(options) : "More options"}</button>
        <${AddImages} onAdd=${add} />
        <span class="gap"></span>
        ${activeRun && prompt.trim() && html`
          <button type="button" data-keys="Ctrl ↵" disabled=${!canSend} title="Interrupt the agent with this prompt"
            onClick=${() => submit("steer")}>Steer</button>`}
        ${(!activeRun || prompt.trim()) && html`
          <button class="primary" data-keys=${activeRun ? "↵" : undefined} disabled=${!canSend}>${activeRun ? "Queue" : session ? "Send" : "Start"}</button>`}
        ${activeRun && html`
          <${Action} class="danger stop" aria-label="Stop" title="Stop the agent" run=${() => cancel(activeRun.id)}>
            <span aria-hidden="true"></span><//>`}
      </div>
      <div popover="auto" id=${SHEET} class="sheet" role="group" aria-label="Options">
        ${session && presets}
        <div class="options">${model} <${Permissions} backend=${backend} value=${options} onChange=${change} /></div>
        ${warningsOf(options).map(([label, about]) => html`<p class="warning">${label}: ${about}</p>`)}
        <div class="buttons"><button type="button" popovertarget=${SHEET} popovertargetaction="hide">Close</button></div>
      </div>
    <//>`;
}
