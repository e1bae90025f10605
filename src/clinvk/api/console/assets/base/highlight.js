// Syntax highlighting: code becomes tokens, pairs of a kind and a text, and never HTML.

import { html, useEffect, useMemo, useState } from "../vendor/preact.js";
import { visible } from "./ui.js";

const DEADLINE_MS = 2_000;
const MAX_CHARS = 100_000;
const MAX_CACHED = 60;
const NAMES = {
  bash: "sh zsh shell console bashrc profile", c: "h", cpp: "cc cxx hpp hh c++", csharp: "cs", css: "scss less", diff: "patch",
  dockerfile: "docker containerfile", go: "golang", ini: "toml cfg conf properties", java: "", javascript: "js mjs cjs jsx",
  json: "jsonc json5 jsonl ndjson", kotlin: "kt kts", markdown: "md mdx", php: "", python: "py pyi py3", ruby: "rb gemfile rakefile",
  rust: "rs", sql: "", swift: "", typescript: "ts tsx mts cts", xml: "html svg vue svelte xhtml plist", yaml: "yml",
};
const LANGUAGES = new Map(Object.entries(NAMES).flatMap(([language, names]) =>
  `${language} ${names}`.trim().split(" ").map((name) => [name, language])));

/** Return the language of a file by its path, or by the name in a code block; undefined if there is no grammar. */
export const languageOf = (name) => LANGUAGES.get((name ?? "").split(/[/.]/).at(-1).toLowerCase());

const keyOf = (text, language) => `${language} ${text}`;
const cache = new Map(); // tokens by language and text; null if the text stays plain
const jobs = []; // the worker is at the first
let worker = null;
let timer = 0;

/** Let the worker highlight the next text. A text that takes too long stays plain, and ends the worker. */
function work() {
  if (timer || !jobs.length) return;
  if (!worker) {
    worker = new Worker(new URL("./highlight-worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => finish(data);
    worker.onerror = fail;
  }
  const { text, language } = jobs[0];
  timer = setTimeout(fail, DEADLINE_MS);
  worker.postMessage({ text, language });
}

function finish(tokens) {
  const { text, language, show } = jobs.shift();
  clearTimeout(timer);
  timer = 0;
  cache.set(keyOf(text, language), tokens);
  if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value);
  show({ text, language, tokens });
  work();
}

function fail() {
  worker.terminate();
  worker = null;
  finish(null);
}

/** Forget the jobs of a component, apart from the one that the worker is at. */
function drop(show) {
  const stale = jobs.findIndex((job, index) => index > 0 && job.show === show);
  if (stale > 0) jobs.splice(stale, 1);
}

/** Return the tokens of a text. While the worker is at it, what is known of its beginning stays, and the rest is plain. */
export function useTokens(text, language) {
  const [known, setKnown] = useState(null);
  const tokens = cache.get(keyOf(text, language));
  useEffect(() => {
    if (!language || text.length > MAX_CHARS || cache.has(keyOf(text, language))) return undefined;
    jobs.push({ text, language, show: setKnown });
    work();
    return () => drop(setKnown);
  }, [text, language]);
  return useMemo(() => {
    const isBeginning = known?.tokens && known.language === language && text.startsWith(known.text);
    return tokens ?? (isBeginning ? [...known.tokens, ["", text.slice(known.text.length)]] : [["", text]]);
  }, [tokens, known, text, language]);
}

export const token = ([kind, text]) => (kind ? html`<span class="syntax-${kind}">${visible(text)}</span>` : visible(text));

/** Code of a language, or of a file by its path. Unknown languages are plain. */
export const Highlighted = ({ text, language }) => useTokens(text, languageOf(language)).map(token);
