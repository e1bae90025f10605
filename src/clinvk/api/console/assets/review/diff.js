// Unified diffs: parsing, and a plain view of them.

import { html, useMemo } from "../vendor/preact.js";
import { Lines } from "./lines.js";
import { commonEnds } from "./words.js";
import { Clipped, visible } from "../base/ui.js";

const FOLDED_FROM_LINES = 1_500;
const HUNK = /^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)$/;
const KINDS = { "+": "added", "-": "removed", "\\": "note" };
const NOTES = [
  [/^new file/, "new file"], [/^deleted file/, "deleted"], [/^rename from (.*)/, "renamed from "],
  [/^(?:Binary files|GIT binary patch)/, "binary"],
];

/**
 * Parse a unified diff into files: `{path, notes, added, removed, hunks}`. A hunk is `{title, lines}`.
 * A line is `{kind, before, after, text}`: its kind is `same`, `added` or `removed`, then the two line numbers.
 */
export function parseDiff(text) {
  const files = [];
  let file = null;
  let [before, after, beforeEnd, afterEnd] = [0, 0, 0, 0];
  const begin = (path) => files.push((file = { path, notes: [], added: 0, removed: 0, hunks: [] }));

  for (const line of text.split("\n")) {
    const isMore = file?.hunks.length && /^(?!--- )[-+ ]/.test(line); // lines than the hunk declares
    if (before < beforeEnd || after < afterEnd || isMore) {
      const kind = KINDS[line[0]] ?? "same";
      if (kind === "note") continue;
      if (kind !== "same") file[kind] += 1;
      file.hunks.at(-1).lines.push({
        kind, before: kind === "added" ? null : before++, after: kind === "removed" ? null : after++, text: line.slice(1),
      });
      continue;
    }
    const hunk = HUNK.exec(line);
    const note = file && NOTES.find(([pattern]) => pattern.test(line));
    if (line.startsWith("diff --git ")) begin(/ b\/(.*)$/.exec(line)?.[1] ?? line.slice(11));
    else if (line.startsWith("--- ") && !(file && !file.hunks.length)) {
      begin("");
      if (line === "--- /dev/null") file.notes.push("new file");
    }
    else if (line.startsWith("+++ ") && file) file.path ||= line.slice(4).replace(/^b\//, "").split("\t")[0];
    else if (note) file.notes.push(note[1] + (note[0].exec(line)[1] ?? ""));
    else if (hunk) {
      if (!file) begin("");
      [before, after] = [Number(hunk[1]), Number(hunk[3])];
      [beforeEnd, afterEnd] = [before + Number(hunk[2] ?? 1), after + Number(hunk[4] ?? 1)];
      file.hunks.push({ title: hunk[5], lines: [] });
    }
  }
  return files;
}

/** Return a diff that replaces one text with another, without context. */
export function replacement(path, before, after) {
  const [removed, added] = [before, after].map((text) => (text ? text.replace(/\n$/, "").split("\n") : []));
  const [start, end] = commonEnds(removed, added);
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

const sum = (files, name) => files.reduce((all, file) => all + (file[name] ?? 0), 0);

/** The added and removed lines of files. */
export const Counts = ({ files }) => html`
  <span class="counts"><span class="added">+${sum(files, "added")}</span> <span class="removed">−${sum(files, "removed")}</span></span>`;

export const lineCount = (file) => file.hunks.reduce((sum, { lines }) => sum + lines.length, 0);

/** Show a diff, without line numbers unless it `isPlaced` in its file. */
export function Diff({ text, isPlaced = true }) {
  const files = useMemo(() => parseDiff(text), [text]);
  const isLong = files.reduce((sum, file) => sum + lineCount(file), 0) > FOLDED_FROM_LINES;
  if (!files.length) return html`<pre class="code"><${Clipped} text=${text} limit=${4_000} /></pre>`;
  return html`<div class="diff">${files.map((file) => html`
    <details key=${file.path} open=${!isLong}>
      <summary><span class="path">${visible(file.path || "Changes")}</span>
        ${file.notes.map((note) => html`<span class="quiet">${visible(note)}</span>`)}
        <${Counts} files=${[file]} /></summary>
      <${Lines} file=${file} isPlaced=${isPlaced} />
    </details>`)}</div>`;
}
