// The lines of a changed file: rendered when they come into view, with highlighted syntax and changed words.

import { html, Component, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { languageOf, token, useTokens } from "../base/highlight.js";
import { Clipped, visible } from "../base/ui.js";
import { changedWords } from "./words.js";

const CHUNK_LINES = 60;
const MAX_LINE_CHARS = 1_000;
const MARGIN = "1000px";
const NONE = [];
const MARKS = { added: "+", removed: "−", same: " " };

/** With `comments` of `useComments`, the lines take comments. Line numbers are shown if the file `isPlaced`. */
export const Lines = ({ file, isPlaced = true, comments }) => html`
  <div class=${isPlaced ? "lines" : "lines unplaced"}>${file.hunks.map((hunk, index) => html`
    <${Hunk} key=${index} hunk=${hunk} index=${index} path=${file.path} comments=${comments} />`)}</div>`;

function Hunk({ hunk: { title, lines }, index, path, comments }) {
  const [isShown, setShown] = useState(false);
  const sideOf = (kind) => lines.filter((line) => line.kind !== kind).map((line) => line.text).join("\n");
  const [before, after] = useMemo(() => [sideOf("added"), sideOf("removed")], [lines]);
  const language = isShown ? languageOf(path) : undefined;
  const removed = useTokens(before, lines.some(({ kind }) => kind === "removed") ? language : undefined);
  const added = useTokens(after, language);
  const tokens = useMemo(() => tokensOfLines(lines, removed, added), [lines, removed, added]);
  const words = useMemo(() => (isShown ? changedWords(lines) : new Map()), [lines, isShown]);
  const chunks = useMemo(() => Array.from({ length: Math.ceil(lines.length / CHUNK_LINES) },
    (_, number) => lines.slice(number * CHUNK_LINES, (number + 1) * CHUNK_LINES)), [lines]);
  return html`
    <div class="hunk" tabindex="-1">
      ${(index > 0 || title) && html`<p class="hunk-title">⋯ ${visible(title)}</p>`}
      ${chunks.map((chunk, number) => html`<${Chunk} key=${number} size=${chunk.length} onShow=${() => setShown(true)}>
        ${() => chunk.map((line, at) => html`
          <${Line} line=${line} tokens=${tokens.get(line)} words=${words.get(line) ?? NONE} path=${path} comments=${comments}
            isFirst=${number + at === 0} />`)}<//>`)}
    </div>`;
}

/** Lines that are rendered when they come near the window, and stay. */
function Chunk({ size, onShow, children }) {
  const [isShown, setShown] = useState(false);
  const place = useRef();
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      setShown(true);
      onShow();
    }, { root: place.current.closest(".scroller"), rootMargin: MARGIN });
    observer.observe(place.current);
    return () => observer.disconnect();
  }, []);
  const height = isShown ? "" : `calc(${size} * var(--line-height))`;
  return html`<div class="chunk" ref=${place} style=${{ height }}>${isShown && children()}</div>`;
}

/** Divide the tokens of both sides of a hunk into those of its lines. */
function tokensOfLines(lines, removed, added) {
  const [before, after] = [split(removed), split(added)];
  const next = { added: () => after.next(), removed: () => before.next(), same: () => (before.next(), after.next()) };
  return new Map(lines.map((line) => [line, next[line.kind]().value ?? [["", line.text]]]));
}

function* split(tokens) {
  let line = [];
  for (const [kind, text] of tokens) {
    const [first, ...others] = text.split("\n");
    line.push([kind, first]);
    for (const other of others) {
      yield line;
      line = [[kind, other]];
    }
  }
  yield line;
}

/** Cut tokens at the ends of the changed range. Yield the kind, the text, and whether it is changed. */
function* pieces(tokens, [first, last]) {
  let start = 0;
  for (const [kind, text] of tokens) {
    const cuts = [first, last].map((cut) => cut - start).filter((cut) => cut > 0 && cut < text.length);
    for (const [index, cut] of [0, ...cuts].entries()) {
      yield [kind, text.slice(cut, cuts[index]), cut + start >= first && cut + start < last];
    }
    start += text.length;
  }
}

const piece = ([kind, text, isChanged]) => (isChanged ? html`<mark>${token([kind, text])}</mark>` : token([kind, text]));

/** A line, rendered again only if it or its comment has changed. */
class Line extends Component {
  shouldComponentUpdate(next) {
    const isChanged = ["line", "tokens", "words"].some((name) => next[name] !== this.props[name]);
    return isChanged || next.comments?.at({ path: next.path, line: next.line }) !== this.shown;
  }

  render({ line, tokens, words, path, comments, isFirst }) {
    const { kind, before, after, text } = line;
    const name = kind === "removed" ? `removed line ${before}` : `line ${after}`;
    const place = { path, line };
    this.shown = comments?.at(place);
    const number = (value, isTarget) => (comments && isTarget ? html`
      <button type="button" tabindex=${isFirst ? 0 : -1} aria-label=${`Comment on ${name}`}
        onClick=${() => comments.open(place)}>${value}</button>` : value);
    return html`
      <div class="line ${kind}">
        <span class="number before">${number(before, kind === "removed")}</span>
        <span class="number after">${number(after, kind !== "removed")}</span>
        <span class="mark">${MARKS[kind]}</span>
        <span class="text">${text.length > MAX_LINE_CHARS
          ? html`<${Clipped} text=${text} limit=${MAX_LINE_CHARS} />` : [...pieces(tokens, words)].map(piece)}</span>
      </div>
      ${this.shown && comments.view(place, name)}`;
  }
}
