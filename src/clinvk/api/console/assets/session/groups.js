// Consecutive tool calls of an agent as one line: "Read 3 files, ran 2 commands".

import { plural } from "../base/format.js";
import { toolSummary } from "./transcript.js";

const KINDS = [
  [/todo|^task_?(create|update|list|get)$/i, "Planned", "step"],
  [/task|agent/i, "Asked", "sub-agent"],
  [/web|fetch|brows/i, "Looked up", "page"],
  [/bash|shell|exec|command|terminal/i, "Ran", "command"],
  [/edit|write|replace|patch|file_change|delete|move/i, "Edited", "file"],
  [/grep|glob|search|find|list|^ls$/i, "Searched", "time"],
  [/read|view/i, "Read", "file"],
  [/(?:)/, "Used", "tool"],
];
const MIN_TOOLS = 2;

const isFolded = (block, isActive) => block.kind === "tool" && !block.isError && !block.wasAsked
  && (block.output !== null || !isActive) && (!block.interaction || (block.interaction.status === "answered" && block.interaction.kind !== "question"));

/** Say what tool calls have done; a file that was read twice is one file. */
export function summaryOf(blocks) {
  const found = new Map();
  for (const block of blocks.filter(({ kind }) => kind === "tool")) {
    const [, verb, noun] = KINDS.find(([pattern]) => pattern.test(block.name));
    const subjects = found.get(verb) ?? { noun, ids: new Set() };
    subjects.ids.add((noun === "file" && toolSummary(block.input)) || block.id);
    found.set(verb, subjects);
  }
  const text = [...found].map(([verb, { noun, ids }]) => `${verb} ${plural(ids.size, noun)}`).join(", ");
  return text.charAt(0) + text.slice(1).toLowerCase();
}

const asRow = (block) => ({ id: block.id, kind: block.kind, version: block.version, block });

/**
 * Return the blocks as rows `{id, kind, version, block}`, with a row of the kind `group` in place of consecutive tool calls
 * that have ended well. The thinking between them is part of the group. An open group is followed by its blocks.
 */
export function grouped(blocks, isActive) {
  const items = [];
  let group = [];
  let tools = 0;
  function flush() {
    let rest = [];
    if (tools < MIN_TOOLS) [group, rest] = [[], group];
    while (group.at(-1)?.kind === "thinking") rest.unshift(group.pop());
    if (group.length) items.push(...asGroup(group));
    items.push(...rest.map(asRow));
    [group, tools] = [[], 0];
  }
  for (const block of blocks) {
    const isTool = isFolded(block, isActive);
    if (isTool || (block.kind === "thinking" && group.length)) {
      group.push(block);
      tools += Number(isTool);
    } else {
      flush();
      items.push(asRow(block));
    }
  }
  flush();
  return items;
}

/** Return the line of a group, which keeps the key of the first row for the list, and the blocks if the group is open. */
function asGroup(blocks) {
  const [first] = blocks;
  const line = { id: first.id, kind: "group", version: `${blocks.length} ${Boolean(first.isGroupOpen)}`, block: { blocks, first } };
  const [begin, ...rest] = blocks.map(asRow);
  return first.isGroupOpen ? [line, { ...begin, id: `${first.id}:first` }, ...rest] : [line];
}
