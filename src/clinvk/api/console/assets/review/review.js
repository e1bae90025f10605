// The review of a diff: the tree of its files, the files with their lines, and marks for those that were viewed.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { CommentBar, useComments } from "./comments.js";
import { Counts, lineCount, parseDiff } from "./diff.js";
import { plural } from "../base/format.js";
import { Lines } from "./lines.js";
import { FileTree } from "./tree.js";
import { Checkbox, Copy, Empty, Select, stored, useEvent, useStored, visible } from "../base/ui.js";

const MAX_VIEWED = 2_000;
const MAX_OPEN_LINES = 3_000; // of a file that is open at first
const TOP_PX = 100;
const KEYS = { j: [".file", 1], k: [".file", -1], n: [".hunk", 1], p: [".hunk", -1] };

document.head.append(Object.assign(document.createElement("link"), {
  rel: "stylesheet", href: new URL("./review.css", import.meta.url),
}));

/** Return a number for a text, as a short name for marks: FNV-1a. */
function hash(text) {
  let number = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) number = Math.imul(number ^ text.charCodeAt(index), 0x01000193);
  return number;
}

const hashOf = ({ path, notes, hunks }) => hash(JSON.stringify([path, notes, hunks.map((hunk) =>
  hunk.lines.map(({ kind, text }) => kind[0] + text))]));

/** Show a diff. Its lines take comments for the agent of a session; `isBusy` and `onInsert` are those of `CommentBar`. */
export function Review({ text, isCut, sessionId, isBusy, onInsert }) {
  const comments = useComments(sessionId);
  const files = useMemo(() => parseDiff(text).map((file) => ({ ...file, hash: hashOf(file) })), [text]);
  const [viewed, setViewed] = useStored("viewed", []);
  const root = useRef();
  useKeys(root);
  const isViewed = (file) => viewed.includes(file.hash);
  function mark(file, isMarked) {
    const others = stored("viewed", []).filter((each) => each !== file.hash);
    setViewed(isMarked ? [...others, file.hash].slice(-MAX_VIEWED) : others);
  }
  const choose = (file) => show([...root.current.querySelectorAll(".file")].find(({ dataset }) => dataset.path === file.path));
  const bar = sessionId && html`
    <${CommentBar} comments=${comments} sessionId=${sessionId} isBusy=${isBusy} onInsert=${onInsert} />`;
  if (!files.length) return html`<${Empty}>No changes.<//>${bar}`;
  return html`
    <div class="review" ref=${root}>
      <div class="review-bar"><span>${plural(files.length, "changed file")}</span>
        <${Counts} files=${files} />
        <span class="quiet">${files.filter(isViewed).length} of ${files.length} viewed</span>
        <${Select} label="Go to file" value="" onChange=${(path) => choose({ path })}
          options=${[["", "Go to file…"], ...files.map(({ path, hash: id }) =>
            [path, `${viewed.includes(id) ? "✓ " : ""}${path}`])]} /></div>
      <div class="review-panes">
        <section class="file-tree scroll" aria-label="Files"><${FileTree} files=${files} isViewed=${isViewed} onChoose=${choose} /></section>
        <div class="files">${files.map((file) => html`
          <${File} key=${file.path} file=${file} isViewed=${isViewed(file)} comments=${sessionId ? comments : undefined}
            onView=${(isMarked) => mark(file, isMarked)} />`)}
          ${isCut && html`<p class="quiet">The diff is too long and ends here.</p>`}</div>
      </div>
    </div>
    ${bar}`;
}

function File({ file, isViewed, comments, onView }) {
  const [isOpen, setOpen] = useState(true);
  useEffect(() => setOpen(!isViewed && lineCount(file) <= MAX_OPEN_LINES), [isViewed, file.hash]);
  return html`
    <section class="file" data-path=${file.path} aria-label=${file.path}>
      <header><h3><button type="button" class="link" aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}>
          ${visible(file.path || "Changes")}</button></h3>
        ${file.notes.map((note) => html`<span class="quiet">${visible(note)}</span>`)}
        <${Counts} files=${[file]} />
        <${Copy} text=${file.path} label="Copy path" />
        <${Checkbox} checked=${isViewed} onChange=${(event) => onView(event.target.checked)}>Viewed<//></header>
      ${isOpen && html`<${Lines} file=${file} comments=${comments} />`}
    </section>`;
}

/** Move the focus to a file or hunk, at the top of the window. */
function show(target) {
  target.scrollIntoView({ block: "start" });
  (target.querySelector("h3 button") ?? target.querySelector(".line:not(.same) button") ?? target).focus({ preventScroll: true });
}

/** Move by keys: `j` and `k` to the next or previous file, `n` and `p` to the change, `v` marks the file as viewed. */
function useKeys(root) {
  useEvent(window, "keydown", (event) => {
    const { key, target, ctrlKey, metaKey, altKey } = event;
    const isElsewhere = !root.current || (root.current.closest(".changes") && !root.current.contains(target));
    if (isElsewhere || ctrlKey || metaKey || altKey || target.closest("input, textarea, select, dialog")) return;
    const line = target.closest(".line");
    if (line && ["ArrowDown", "ArrowUp"].includes(key)) moveLine(root.current, target, key === "ArrowDown" ? 1 : -1);
    else if (!stored("shortcuts", true) || event.defaultPrevented) return;
    else if (KEYS[key]) step(root.current, ...KEYS[key]);
    else if (key === "v") target.closest(".file")?.querySelector("input[type=checkbox]").click();
    else return;
    event.preventDefault();
  });
}

function moveLine(root, button, by) {
  const buttons = [...root.querySelectorAll(".line button")];
  buttons[buttons.indexOf(button) + by]?.focus();
}

/** Show the next file or hunk after the one with the focus, else after the one at the top of the window. */
function step(root, selector, by) {
  const all = [...root.querySelectorAll(selector)];
  const focused = all.indexOf(document.activeElement.closest(selector));
  const isAbove = (each) => each.getBoundingClientRect().top < TOP_PX;
  const next = all[(focused < 0 ? all.findLastIndex(isAbove) : focused) + by];
  if (next) show(next);
}
