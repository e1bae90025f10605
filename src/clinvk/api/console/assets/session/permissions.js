// What an agent may do: three presets, and all modes of approval and sandbox.

import { html } from "../vendor/preact.js";
import { live } from "../base/live.js";
import { Select } from "../base/ui.js";

const LABELS = {
  sandbox: { "": "Sandbox: default", "read-only": "Read-only", workspace: "Write in directory", full: "No sandbox" },
  approval: {
    "": "Approval: default", ask: "Ask me", auto: "Accept edits", none: "Accept everything", always: "Deny everything",
  },
};
const PRESETS = [
  { label: "Ask me", about: "The agent asks you before each action that needs approval.", modes: { approval_mode: "ask", sandbox_mode: "" } },
  { label: "Accept edits", about: "The agent edits files without asking. Other actions are denied.", modes: { approval_mode: "auto", sandbox_mode: "" } },
  { label: "Read-only", about: "The agent reads and answers. It writes nothing.", modes: { approval_mode: "", sandbox_mode: "read-only" } },
];
const WARNINGS = {
  "No sandbox": "The agent may write anywhere.",
  "Accept everything": "The agent acts without asking.",
};

/** Return whether the agents support a mode and the server allows it. `kind` is `approval` or `sandbox`. */
function isPossible(kind, mode, backends) {
  if (mode === "") return true;
  if (mode === "ask" && !live.me.may_ask) return false;
  return live.me[`${kind}_modes`].includes(mode) && backends.length > 0
    && backends.every((backend) => backend?.capabilities[`${kind}_modes`].includes(mode));
}

/** Return options with their approval mode: ask, if nothing was chosen, and if the agents and the server allow it. */
export const withApproval = (options, backends) =>
  ({ ...options, approval_mode: options.approval_mode ?? (isPossible("approval", "ask", backends) ? "ask" : "") });

const isChosen = ({ modes }, { approval_mode: approval, sandbox_mode: sandbox = "" }) =>
  modes.approval_mode === approval && modes.sandbox_mode === sandbox;

/** Return the warnings of modes: `[label, sentence]`. */
export const warningsOf = ({ approval_mode: approval, sandbox_mode: sandbox }) =>
  Object.entries(WARNINGS).filter(([label]) => [LABELS.approval[approval], LABELS.sandbox[sandbox]].includes(label));

/** Return the modes in words. */
export function modesIn(options) {
  const preset = PRESETS.find((each) => isChosen(each, options));
  const words = [LABELS.approval[options.approval_mode], options.sandbox_mode && LABELS.sandbox[options.sandbox_mode]];
  return preset?.label ?? words.filter(Boolean).join(", ");
}

/** The presets that an agent supports and the server allows. */
export function Presets({ backend, value, onChange }) {
  const possible = PRESETS.filter(({ modes }) =>
    ["approval", "sandbox"].every((kind) => isPossible(kind, modes[`${kind}_mode`], [backend])));
  return html`
    <fieldset class="presets"><legend class="sr">Permissions</legend>${possible.map((preset) => html`
      <label class="preset"><input type="radio" name="preset" checked=${isChosen(preset, value)}
        onChange=${() => onChange({ ...value, ...preset.modes })} />
        <span><strong>${preset.label}</strong> <span class="quiet">${preset.about}</span></span></label>`)}</fieldset>`;
}

/** Selects for the approval and sandbox modes that an agent supports. */
export function Permissions({ backend, value, onChange }) {
  const select = (kind, label) => {
    const modes = (backend?.capabilities[`${kind}_modes`] ?? []).filter((mode) => isPossible(kind, mode, [backend]));
    const chosen = value[`${kind}_mode`] ?? "";
    return html`<${Select} label=${label} value=${chosen} class=${warningsOf({ [`${kind}_mode`]: chosen }).length ? "warning" : ""}
      options=${["", ...modes.filter((mode) => mode !== "default")].map((mode) => [mode, LABELS[kind][mode] ?? mode])}
      onChange=${(mode) => onChange({ ...value, [`${kind}_mode`]: mode })} />`;
  };
  return html`${select("approval", "Approval")} ${select("sandbox", "Sandbox")}`;
}

/** Return the options that a session keeps from its last request. */
export const keptBy = ({ approval_mode: approval = "default", sandbox_mode: sandbox = "default", model }) =>
  ({ approval_mode: approval === "default" ? "" : approval, sandbox_mode: sandbox === "default" ? "" : sandbox, model });
