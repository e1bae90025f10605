// The events of a run as blocks for people: texts, thinking, tool calls with their results, and how the run ended.

import { storedEvents } from "../base/api.js";
import { planAfter } from "./plan.js";

const CHUNK_CHARS = 8_000;
const CODE_CHUNK_CHARS = 16_000; // copied as one piece
const SPLIT_WITHIN_CHARS = 4_000;
const FENCE = /^([ \t]*)(`{3,}|~{3,}).*$/gm;
const LINE = /\n(?=[^\s|])/g; // in Markdown, other lines need those before them
const MAX_OUTPUT_CHARS = 50_000;
const MAX_BLOCKS = 50_000;
const DROPPED_BLOCKS = 5_000;

/**
 * The blocks of one run, oldest first. A block has `id`, `kind`, and `version`, which counts its changes:
 * `text`, `thinking` (`text`), `tool` (`name`, `input`, `output`, `isError`, `isStopped`, and the `interaction` that asked about the
 * call), `note` (`stage`, `text`), `prompt` (`text`, `at`), `interaction` (`interaction`), `end` (the content of the
 * event), `error` (`message`, `code`). `plan` has the steps of the agent's plan, null without one, and `commands` the
 * names of the agent's slash commands, if known.
 */
export class RunBlocks {
  constructor(runId) {
    this.runId = runId;
    this.blocks = [];
    this.isEnded = false;
    this.plan = null;
    this._count = 0;
    this._tools = new Map();
    this._interactions = new Map();
  }

  add({ type, content, timestamp }) {
    switch (type) {
      case "init": this.commands = content.commands; break;
      case "message": this._addText("text", content.text); break;
      case "thinking": this._addText("thinking", content.text); break;
      case "tool_use": this._addTool(content); break;
      case "tool_result": this._addResult(content); break;
      case "progress": this._addProgress(content); break;
      case "user_message": this._push("prompt", { text: content.text, at: timestamp }); break;
      case "interaction_requested": case "interaction_resolved": this._addInteraction(content); break;
      case "error": this._end("error", content); break;
      case "done": this._end("end", content); break;
      default: // later versions may send other types
    }
  }

  get current() {
    return this.blocks.at(-1);
  }

  _push(kind, fields) {
    const block = { id: `${this.runId}:${this._count++}`, kind, version: 0, ...fields };
    this.blocks.push(block);
    const gap = { id: `${this.runId}:gap`, kind: "note", version: 0, stage: "…", text: "Earlier events are not shown." };
    if (this.blocks.length > MAX_BLOCKS) this.blocks.splice(0, DROPPED_BLOCKS, gap);
    return block;
  }

  _addText(kind, text) {
    let block = this.current;
    if (block?.kind !== kind) block = this._push(kind, { text: "", unsplit: CHUNK_CHARS });
    block.text += text;
    block.version += 1;
    if (kind === "text" && block.text.length > block.unsplit) this._split(block);
  }

  /** Move the last paragraph, line or word of a long text to a block of its own. Both parts of a code block are code. */
  _split(block) {
    const { text } = block;
    block.unsplit = text.length + SPLIT_WITHIN_CHARS / 2;
    const fences = [...text.matchAll(FENCE)];
    const start = Math.max(0, text.length - SPLIT_WITHIN_CHARS);
    const last = (pattern) => [...text.slice(start).matchAll(pattern)].at(-1)?.index;
    const at = fences.length % 2 ? last(/\n/g)
      : last(/\n\n(?=[^\s|])/g) ?? last(LINE) ?? (text.includes("\n", start) ? undefined : last(/ /g));
    if (at === undefined) return;
    const split = start + at;
    const opened = fences.filter(({ index }) => index < split);
    const [fence, indent, mark] = opened.length % 2 ? opened.at(-1) : [];
    if (fence && text.length < CODE_CHUNK_CHARS) return;
    this._push(block.kind, { text: (fence ?? "") + text.slice(split), unsplit: CHUNK_CHARS });
    block.text = text.slice(0, split) + (fence ? `\n${indent}${mark}` : "");
  }

  _addProgress({ stage, message, steps }) {
    if (steps) this.plan = steps;
    else if (stage !== "output") this._push("note", { stage, text: message });
    else if (this.current?.kind === "tool") Object.assign(this.current, { lastLine: message, version: this.current.version + 1 });
  }

  _addTool({ tool_id: id, tool_name: name, input }) {
    this.plan = planAfter(this.plan, { name, input });
    this._tools.set(id, this._push("tool", { toolId: id, name, input, output: null }));
  }

  _addResult({ tool_id: id, tool_name: name, output, is_error: isError }) {
    const block = this._tools.get(id) ?? this._push("tool", { toolId: id, name, input: {} });
    this._tools.delete(id);
    const rest = output.length - MAX_OUTPUT_CHARS;
    const [head, tail] = [output.slice(0, MAX_OUTPUT_CHARS / 2), output.slice(-MAX_OUTPUT_CHARS / 2)];
    block.output = rest > 0 ? head + tail : output;
    block.isCut = rest > 0 && { chars: rest, lines: output.slice(head.length, -tail.length).split("\n").length - 1 };
    block.isError = isError;
    block.version += 1;
  }

  _addInteraction(interaction) {
    const known = this._interactions.get(interaction.id) ?? this._callOf(interaction);
    if (known) Object.assign(known, { interaction, version: known.version + 1 });
    this._interactions.set(interaction.id, known ?? this._push("interaction", { interaction }));
  }

  /** Return the block of the call that an interaction asks about: the open call of the tool, by its input among several. */
  _callOf({ kind, tool, input }) {
    const isAsked = (block) => (kind === "question" ? Array.isArray(block.input.questions) : block.name === tool);
    const open = [...this._tools.values()].filter((block) => !block.interaction && isAsked(block));
    return open.find((block) => JSON.stringify(block.input) === JSON.stringify(input)) ?? (open.length === 1 ? open[0] : undefined);
  }

  _end(kind, content) {
    if (content.code === "cancelled") { // what the agent was doing: the calls after its last words
      const last = this.blocks.findLastIndex((block) => ["text", "thinking"].includes(block.kind));
      this.blocks.slice(last + 1).forEach((block) => { block.isStopped = block.isError || block.output === null; block.version += 1; });
    }
    this._push(kind, content);
    this.isEnded = true;
  }
}

const SUMMARY_FIELDS = ["file_path", "path", "command", "cmd", "pattern", "query", "url", "prompt", "description"];

/** Return the whole output of a tool call, of which a block may have the ends only. */
export async function wholeOutput(runId, toolId) {
  const found = new AbortController();
  try {
    for await (const { type, content } of storedEvents(runId, found.signal)) {
      if (type === "tool_result" && content.tool_id === toolId) return content.output;
    }
  } finally {
    found.abort();
  }
  throw new Error("The output is not stored.");
}

/** Return what a tool call is about, in one line. Paths inside of `workdir` are relative to it. */
export function toolSummary(input, workdir) {
  const paths = Array.isArray(input.changes) ? input.changes.map((change) => change.path) : [];
  const isText = (value) => typeof value === "string" || Array.isArray(value);
  const named = SUMMARY_FIELDS.map((name) => input[name]).find(isText);
  const within = (path) => (workdir && String(path).startsWith(`${workdir}/`) ? path.slice(workdir.length + 1) : path);
  const text = paths.length ? paths.map(within).join(", ") : Array.isArray(named) ? named.join(" ") : within(named);
  return (text ?? "").split("\n", 1)[0].slice(0, 300);
}
