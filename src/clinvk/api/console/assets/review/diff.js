// Unified diffs: parsing, and a view of them with optional comments on lines.

import { html, useState } from "../vendor/preact.js";
import { Clipped, useFocus, visible } from "../base/ui.js";

const MAX_LINES = 300;
const MAX_LINE_CHARS = 1_000;
const FOLDED_FROM_LINES = 1_500;
const HUNK = /^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)$/;
const KINDS = { "+": "added", "-": "removed", "\\": "note" };
const NOTES = [
  [/^new file/, "new file"], [/^deleted file/, "deleted"], [/^rename from (.*)/, "renamed from "],
  [/^(?:Binary files|GIT binary patch)/, "binary"],
];

/**
 * Parse a unified diff into files: `{path, notes, added, removed, lines}`.
 * A line is `{kind, before, after, text}`: its kind is `hunk`, `same`, `added` or `removed`, then the two line numbers.
 */
export function parseDiff(text) {
  const files = [];
  let file = null;
  let [before, after, beforeEnd, afterEnd] = [0, 0, 0, 0];
  const begin = (path) => files.push((file = { path, notes: [], added: 0, removed: 0, lines: [] }));

  for (const line of text.split("\n")) {
    if (before < beforeEnd || after < afterEnd) {
      const kind = KINDS[line[0]] ?? "same";
      if (kind === "note") continue;
      if (kind !== "same") file[kind] += 1;
      file.lines.push({
        kind, before: kind === "added" ? null : before++, after: kind === "removed" ? null : after++, text: line.slice(1),
      });
      continue;
    }
    const hunk = HUNK.exec(line);
    const note = file && NOTES.find(([pattern]) => pattern.test(line));
    if (line.startsWith("diff --git ")) begin(/ b\/(.*)$/.exec(line)?.[1] ?? line.slice(11));
    else if (line.startsWith("--- ") && !(file && !file.lines.length)) {
      begin("");
      if (line === "--- /dev/null") file.notes.push("new file");
    }
    else if (line.startsWith("+++ ") && file) file.path ||= line.slice(4).replace(/^b\//, "").split("\t")[0];
    else if (note) file.notes.push(note[1] + (note[0].exec(line)[1] ?? ""));
    else if (hunk) {
      if (!file) begin("");
      [before, after] = [Number(hunk[1]), Number(hunk[3])];
      [beforeEnd, afterEnd] = [before + Number(hunk[2] ?? 1), after + Number(hunk[4] ?? 1)];
      file.lines.push({ kind: "hunk", text: hunk[5] });
    }
  }
  return files;
}

/** Return a diff that replaces one text with another, without context. */
export function replacement(path, before, after) {
  const [removed, added] = [before, after].map((text) => (text ? text.replace(/\n$/, "").split("\n") : []));
  const common = removed.findIndex((line, index) => line !== added[index]);
  const start = common < 0 ? Math.min(removed.length, added.length) : common;
  let end = 0;
  while (end < Math.min(removed.length, added.length) - start && removed.at(-1 - end) === added.at(-1 - end)) end += 1;
  const lines = [
    ...removed.slice(0, start).slice(-3).map((line) => ` ${line}`),
    ...removed.slice(start, removed.length - end).map((line) => `-${line}`),
    ...added.slice(start, added.length - end).map((line) => `+${line}`),
    ...removed.slice(removed.length - end).slice(0, 3).map((line) => ` ${line}`),
  ];
  const first = Math.max(0, start - 3) + 1;
  const length = (mark) => lines.filter((line) => line[0] !== mark).length;
  return `--- ${path}\n+++ ${path}\n@@ -${first},${length("+")} +${first},${length("-")} @@\n${lines.join("\n")}`;
}

export const Counts = ({ added, removed }) => html`
  <span class="counts"><span class="added">+${added}</span> <span class="removed">−${removed}</span></span>`;

/**
 * Show a diff, without line numbers unless it `isPlaced` in its file. With `comments` (a Map from `path:line` to texts) and `onComment(path, key, text, line)`, lines take
 * comments.
 */
export function Diff({ text, isPlaced = true, comments, onComment }) {
  const files = parseDiff(text);
  const isLong = files.reduce((sum, file) => sum + file.lines.length, 0) > FOLDED_FROM_LINES;
  if (!files.length) return html`<pre class="code"><${Clipped} text=${text} limit=${4_000} /></pre>`;
  return html`<div class="diff">${files.map((file) => html`
    <details key=${file.path} open=${!isLong}>
      <summary><span class="path">${visible(file.path || "Changes")}</span>
        ${file.notes.map((note) => html`<span class="quiet">${visible(note)}</span>`)}
        <${Counts} ...${file} /></summary>
      <${Lines} file=${file} isPlaced=${isPlaced} comments=${comments} onComment=${onComment} />
    </details>`)}</div>`;
}

const MARKS = { added: "+", removed: "−", same: " " };

function Lines({ file, isPlaced, comments, onComment }) {
  const [limit, setLimit] = useState(MAX_LINES);
  const [open, setOpen] = useState("");
  const more = file.lines.length - limit;
  return html`
    <table class="lines"><colgroup><col class="number" /><col class="mark" /><col /></colgroup>
    <tbody>${file.lines.slice(0, limit).map((line, index) => {
      if (line.kind === "hunk") return (index || line.text) && html`<tr class="hunk"><td colspan="3">⋯ ${visible(line.text)}</td></tr>`;
      const number = line.after ?? line.before;
      const key = `${line.kind === "removed" ? "-" : ""}${number}`;
      const written = comments?.get(`${file.path}:${key}`);
      const toggle = () => setOpen(open === key ? "" : key);
      return html`
        <tr class=${line.kind}>
          <td class="number">${onComment
            ? html`<button type="button" aria-label=${`Comment on line ${number}`} onClick=${toggle}>${number}</button>`
            : isPlaced && number}</td>
          <td class="mark">${MARKS[line.kind]}</td>
          <td class="text"><${Clipped} text=${line.text} limit=${MAX_LINE_CHARS} /></td>
        </tr>
        ${(open === key || written) && html`<${Comment} number=${number} text=${written?.text ?? ""}
          onInput=${(text) => onComment(file.path, key, text, line)} />`}`;
    })}</tbody></table>
    ${more > 0 && html`<button class="small more" type="button" onClick=${() => setLimit(limit * 4)}>
      Show more (${more.toLocaleString("en")} lines)</button>`}`;
}

function Comment({ number, text, onInput }) {
  const field = useFocus();
  return html`<tr class="comment"><td colspan="3"><textarea rows="2" aria-label=${`Comment on line ${number}`}
    placeholder="Comment for the agent" value=${text} ref=${field} onInput=${(event) => onInput(event.target.value)} /></td></tr>`;
}
