// The box for a prompt: agent, model, permissions, directory and images; while the agent works, queue or steer.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { cancel, get, start } from "../base/api.js";
import { live } from "../base/live.js";
import { Action, Form, Problem, Select, TextArea, TextField, announce, useStored, visible } from "../base/ui.js";

const IMAGE_TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const MAX_IMAGE_BYTES = 3.7 * 1024 * 1024; // 5 MiB as base64
const MAX_DIRECTORIES = 12;
const LABELS = {
  sandbox: { "": "Sandbox: default", "read-only": "Read-only", workspace: "Write in directory", full: "No sandbox" },
  approval: {
    "": "Approval: default", ask: "Ask me", auto: "Accept edits", none: "Accept everything", always: "Deny everything",
  },
};

/** Return the installed agents, or null until they are known. */
export function useBackends() {
  const [backends, setBackends] = useState(null);
  useEffect(() => {
    const isAvailable = (backend) => backend.available;
    get("backends").then((found) => setBackends(found.backends.filter(isAvailable)), () => setBackends([]));
  }, []);
  return backends;
}

/** Return options with their approval mode: ask, if nothing was chosen, and if the agents and the server allow it. */
export function withApproval(options, backends) {
  const canAsk = live.me.may_ask && backends.length > 0
    && backends.every((backend) => backend?.capabilities.approval_modes.includes("ask"));
  return { ...options, approval_mode: options.approval_mode ?? (canAsk ? "ask" : "") };
}

/** Selects for the sandbox and approval modes that an agent supports. */
export function Permissions({ backend, value, onChange }) {
  const { sandbox_modes: sandboxes = [], approval_modes: approvals = [] } = backend?.capabilities ?? {};
  const optionsOf = (modes, labels) =>
    ["", ...modes.filter((mode) => mode !== "default")].map((mode) => [mode, labels[mode] ?? mode]);
  return html`
    <${Select} label="Approval" value=${value.approval_mode} options=${optionsOf(approvals, LABELS.approval)}
      onChange=${(mode) => onChange({ ...value, approval_mode: mode })} />
    <${Select} label="Sandbox" value=${value.sandbox_mode ?? ""} options=${optionsOf(sandboxes, LABELS.sandbox)}
      onChange=${(mode) => onChange({ ...value, sandbox_mode: mode })} />`;
}

/** A field for the directory, which offers those that were used before. */
export const Directory = ({ value, known, onChange }) => html`
  <${TextField} class="directory" label="Directory" placeholder="Directory: the server's own" list="directories"
    value=${value} onChange=${onChange} />
  <datalist id="directories">${known.map((path) => html`<option value=${path} />`)}</datalist>`;

/** Remember a directory as the newest of those that are offered. */
export const remembered = (path, known) =>
  (path ? [path, ...known.filter((each) => each !== path)].slice(0, MAX_DIRECTORIES) : known);

/** Return the fields that have a value. */
export const filled = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value));

/** Read an image file as a data URL. */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Return the options that a session keeps from its last request. */
const keptBy = ({ approval_mode: approval = "default", sandbox_mode: sandbox = "default", model }) =>
  ({ approval_mode: approval === "default" ? "" : approval, sandbox_mode: sandbox === "default" ? "" : sandbox, model });

/** `session` and `activeRun` are null for a new session. `onStarted` gets the `run_id` and `session_id`. */
export function Composer({ session, activeRun, lastRequest, onStarted }) {
  const backends = useBackends();
  const [stored, setStored] = useStored("prompt", {});
  const [directories, setDirectories] = useStored("directories", []);
  const [chosen, setOptions] = useState(session ? {} : { ...stored, approval_mode: stored.approval_mode || undefined });
  const [prompt, setPrompt] = useState("");
  const [images, setImages] = useState([]);
  const [isOpen, setOpen] = useState(false); // on a phone; elsewhere all options are always shown
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const files = useRef();
  const name = session?.backend ?? chosen.backend ?? backends?.[0]?.name;
  const backend = backends?.find((each) => each.name === name);
  const options = withApproval({ ...(session && keptBy(lastRequest ?? {})), ...chosen }, [backend]);
  const canSend = prompt.trim() && !isBusy && name && (!session || lastRequest); // whose modes the session keeps
  const change = (changed) => setOptions((old) => ({ ...old, ...changed }));

  async function addImages(list) {
    const chosen = [...list].filter((file) => IMAGE_TYPES.includes(file.type));
    const tooLarge = chosen.find((file) => file.size > MAX_IMAGE_BYTES);
    if (tooLarge) return setError(new Error(`${tooLarge.name} has more than 3.7 MiB.`));
    const added = await Promise.all(chosen.map(async (file) => ({ name: file.name, url: await dataUrl(file) })));
    return setImages((old) => [...old, ...added]);
  }

  /** Send the prompt. While the agent works, `onBusy` says what happens. */
  async function submit(onBusy = "queue") {
    if (!canSend) return;
    setBusy(true);
    setError(null);
    try {
      onStarted(await start("prompt", {
        prompt,
        ...filled(options),
        ...(session ? { session_id: session.id } : { backend: name }),
        ...(images.length && { images: images.map((image) => image.url) }),
        ...(activeRun && { on_busy: onBusy }),
      }));
      if (!session) {
        setStored({ ...chosen, backend: name });
        setDirectories(remembered(options.workdir, directories));
      }
      setPrompt("");
      setImages([]);
      announce("Prompt sent");
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  }

  function onKeyDown(event) {
    const isPhone = matchMedia("(pointer: coarse)").matches; // where there is a button but no easy new line
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (isPhone && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    submit();
  }

  return html`
    <${Form} class=${isOpen ? "composer is-open" : "composer"} aria-label="Prompt" onSubmit=${() => submit()}
      onPaste=${(event) => addImages(event.clipboardData.files)} onDragOver=${(event) => event.preventDefault()}
      onDrop=${(event) => { event.preventDefault(); addImages(event.dataTransfer.files); }}>
      ${backends?.length === 0 && html`<p class="problem">No agent is installed. <a href="#/agents">Agents</a></p>`}
      <${Problem} error=${error} />
      <${TextArea} label="Prompt" rows=${session ? 2 : 5} value=${prompt} onChange=${setPrompt} onKeyDown=${onKeyDown}
        placeholder=${activeRun ? "Queue a prompt, or steer the agent" : session ? "Continue the conversation" : "What should the agent do?"} />
      ${images.length > 0 && html`<ul class="images">${images.map((image) => html`
        <li><img src=${image.url} alt="" />${visible(image.name)}
          <button type="button" class="small" aria-label=${`Remove ${image.name}`}
            onClick=${() => setImages(images.filter((each) => each !== image))}>×</button></li>`)}</ul>`}
      ${!session && html`<div class="options">
        <${Directory} value=${options.workdir ?? ""} known=${directories} onChange=${(workdir) => change({ workdir })} /></div>`}
      <div class="options">
        ${!session && html`<${Select} label="Agent" value=${name} options=${(backends ?? []).map((each) => [each.name, each.name])}
          onChange=${(chosen) => change({ backend: chosen, model: "", approval_mode: undefined, sandbox_mode: "" })} />`}
        <${TextField} class="model" label="Model" placeholder="Model: default" list="models" value=${options.model ?? ""}
          onChange=${(model) => change({ model })} />
        <datalist id="models">${(backend?.models ?? []).map((model) => html`<option value=${model} />`)}</datalist>
        <${Permissions} backend=${backend} value=${options} onChange=${change} />
        <input type="file" multiple hidden accept=${IMAGE_TYPES.join()} ref=${files}
          onChange=${(event) => { addImages(event.target.files); event.target.value = ""; }} />
        <button type="button" onClick=${() => files.current.click()} aria-label="Add images">Image</button>
        <button type="button" class="open-options" aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}>
          Options</button>
        <span class="gap"></span>
        ${activeRun && html`
          <${Action} class="danger" run=${() => cancel(activeRun.id)}>Stop<//>
          <button type="button" disabled=${!canSend} title="Interrupt the agent with this prompt"
            onClick=${() => submit("steer")}>Steer</button>`}
        <button class="primary" disabled=${!canSend}>${activeRun ? "Queue" : session ? "Send" : "Start"}</button>
      </div>
    <//>`;
}
