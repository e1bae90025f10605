// A tool call of an agent: what it does, its input as command or diff, and its output.

import { html } from "../vendor/preact.js";
import { Command, Output } from "./code.js";
import { Diff, parseDiff, replacement } from "../review/diff.js";
import { toolSummary, wholeOutput } from "./transcript.js";
import { Code, visible } from "../base/ui.js";

const OPEN_DIFF_LINES = 30;
const ACTION = /^(add|update|delete) /; // before a path, as Codex names a change

const isText = (value) => typeof value === "string";

/** Return the names of the fields that a diff of an input shows: those of a replaced text, a new content, or a list of edits. */
function wayOf(input) {
  const isReplaced = (before, after) => isText(input?.[after]) && isText(input[before] ?? "");
  if (isReplaced("old_string", "new_string")) return ["old_string", "new_string"];
  if (isText(input?.content) && (input.file_path ?? input.path)) return ["content"];
  if (isReplaced("oldString", "newString")) return ["oldString", "newString"];
  return Array.isArray(input?.edits) ? ["edits"] : [];
}

/** Return the change of a file that the input of a tool describes as a unified diff, or an empty text. */
export function diffOf(input) {
  const path = input.file_path ?? input.path ?? "";
  const [way] = wayOf(input);
  if (way === "content") return replacement(path, "", input.content);
  const edits = way === "edits" ? input.edits : [input];
  if (edits.some((edit) => wayOf(edit).length < 2)) return isText(input.diff) ? input.diff : "";
  return edits.map((edit) => replacement(path, ...wayOf(edit).map((name) => edit[name] ?? ""))).join("\n");
}

/** Return the fields of an input that neither the diff nor one of the `known` texts shows. */
function rest(input, diff, known) {
  const paths = new Set(parseDiff(diff).map((file) => file.path));
  const isKnown = (value) => Boolean(value) && (known.includes(value) || paths.has(String(value).replace(ACTION, "")));
  const isOff = (name, value) => ["replace_all", "replaceAll"].includes(name) && value === false;
  const isEdit = (edit) => Object.entries(edit ?? [edit]).every(([name, value]) =>
    isKnown(value) || isOff(name, value) || (wayOf(edit).length > 1 && wayOf(edit).includes(name)));
  const isInDiff = (name, value) => wayOf(input).includes(name) && (name !== "edits" || value.every(isEdit));
  const isShown = ([name, value]) => isKnown(value)
    || (diff && (isOff(name, value) || isInDiff(name, value) || (Array.isArray(value) && value.every(isKnown))));
  return Object.entries(input).filter((field) => !isShown(field));
}

/** The input of a tool: its diff, its command, and what else it has that is not `known`. */
export function ToolInput({ input, diff: given, command = input.command, known = [] }) {
  const diff = given ?? diffOf(input);
  const isPlaced = Boolean(given ?? input.content ?? input.diff); // else where the text is in the file is not known
  const text = Array.isArray(command) ? command.join(" ") : typeof command === "string" ? command : "";
  const others = rest(input, diff, [command, diff, ...known]);
  return html`
    ${diff && html`<${Diff} text=${diff} isPlaced=${isPlaced} />`}
    ${text && html`<${Command} text=${text} />`}
    ${others.length > 0 && html`
      ${(diff || text) && html`<p class="quiet">Also in its input:</p>`}
      <${Code} text=${JSON.stringify(Object.fromEntries(others), null, 2)} label="Input" />`}`;
}

/** The output of a `tool` block. */
export const ToolOutput = ({ block, run }) => block.output && html`
  <${Output} text=${block.output} isCut=${block.isCut} load=${() => wholeOutput(run.id, block.toolId)} />`;

/**
 * A card of a `tool` block, folded unless it shows a short diff. Whether it is open is remembered in the block. `result`
 * says how an interaction about the call has ended, and `input` is what was allowed.
 */
export function ToolCard({ block, input = block.input, run, isActive, result }) {
  const diff = diffOf(input);
  block.isOpen ??= Boolean(diff) && diff.split("\n", OPEN_DIFF_LINES).length < OPEN_DIFF_LINES;
  const state = block.isStopped ? "stopped" : block.output !== null ? (block.isError ? "failed" : "done") : isActive ? "running" : "unknown";
  const remember = (event) => { block.isOpen = event.currentTarget.open; };
  return html`
    <details class="tool ${state}" open=${block.isOpen} onToggle=${remember}>
      <summary><span class="name">${visible(block.name)}</span>
        <span class="about">${visible(toolSummary(input, run.workdir))}</span>
        <span class="outcome">${["stopped", "failed", "running"].includes(state) ? state : visible(result)}</span>
        ${state === "running" && block.lastLine && html`<span class="last-line">${visible(block.lastLine)}</span>`}</summary>
      <${ToolInput} input=${input} />
      ${result && html`<p class="result">${visible(result)}</p>`}
      <${ToolOutput} block=${block} run=${run} />
    </details>`;
}
