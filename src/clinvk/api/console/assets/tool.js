// A tool call of an agent: what it does, its input as command or diff, and its output.

import { html } from "./vendor/preact.js";
import { Diff, replacement } from "./diff.js";
import { toolSummary } from "./transcript.js";
import { Code, visible } from "./ui.js";

const OPEN_DIFF_LINES = 30;

/** Return the change of a file that the input of a tool describes as a unified diff, or an empty text. */
export function diffOf(input) {
  const path = input.file_path ?? input.path ?? "";
  const edits = Array.isArray(input.edits) ? input.edits : [input];
  if (edits.every((edit) => typeof edit?.old_string === "string" && typeof edit?.new_string === "string")) {
    return edits.map((edit) => replacement(path, edit.old_string, edit.new_string)).join("\n");
  }
  if (typeof input.content === "string" && path) return replacement(path, "", input.content);
  return typeof input.diff === "string" ? input.diff : "";
}

/** The input of a tool: a command, a diff, or its fields. */
export function ToolInput({ input, diff = diffOf(input) }) {
  const command = Array.isArray(input.command) ? input.command.join(" ") : input.command;
  if (diff) return html`<${Diff} text=${diff} />`;
  if (typeof command === "string") return html`<${Code} text=${command} label="Command" />`;
  return Object.keys(input).length ? html`<${Code} text=${JSON.stringify(input, null, 2)} label="Input" />` : null;
}

/** A card of a `tool` block, folded unless it shows a short diff. Whether it is open is remembered in the block. */
export function ToolCard({ block, isActive }) {
  const diff = diffOf(block.input);
  block.isOpen ??= Boolean(diff) && diff.split("\n", OPEN_DIFF_LINES).length < OPEN_DIFF_LINES;
  const state = block.output !== null ? (block.isError ? "failed" : "done") : isActive ? "running" : "unknown";
  const remember = (event) => { block.isOpen = event.currentTarget.open; };
  return html`
    <details class="tool ${state}" open=${block.isOpen} onToggle=${remember}>
      <summary><span class="name">${visible(block.name)}</span>
        <span class="about">${visible(toolSummary(block.input))}</span>
        <span class="outcome">${{ failed: "failed", running: "running" }[state] ?? ""}</span></summary>
      <${ToolInput} input=${block.input} diff=${diff} />
      ${block.output && html`<${Code} text=${block.output} label="Output" />`}
    </details>`;
}
