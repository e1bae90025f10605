// Numbers, times and texts for people.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60]];

export const ENDED = new Set(["finished", "failed", "cancelled", "interrupted"]);

/** Return whether news of a run are older than what is known: a list is, if an event has overtaken it. */
export const isOlder = (news, known) => !ENDED.has(news.state) && (ENDED.has(known.state) || // a new agent starts later
  Boolean(known.started_at && !news.started_at && !news.waits_until && news.backend === known.backend));

export const newestFirst = (one, other) => (one.created_at < other.created_at ? 1 : -1);

/** Format the age of a time: `3 min. ago`. */
export function ago(time) {
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  for (const [unit, length] of UNITS) {
    if (seconds >= length) return relative.format(-Math.floor(seconds / length), unit);
  }
  return "now";
}

export const dateTime = (time) => moment.format(new Date(time));
export const count = (number) => compact.format(number);

/** Format a duration: `4.2 s`, `41 s`, `3 min 5 s`, `2 h 4 min`. */
export function duration(ms) {
  const seconds = Math.max(0, ms / 1000);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return how long a run has worked; empty before its start. */
export function elapsed(run) {
  if (!run.started_at) return "";
  return duration((run.ended_at ? Date.parse(run.ended_at) : Date.now()) - Date.parse(run.started_at));
}

export function cost(usd) {
  if (usd === null || usd === undefined) return "";
  return usd > 0 && usd < 0.01 ? "< $0.01" : `$${usd.toFixed(2)}`;
}

export const tokensOf = (usage) => (usage ? usage.input_tokens + usage.output_tokens : 0);

export function tokens(usage) {
  const sum = tokensOf(usage);
  return sum ? `${count(sum)} tokens` : "";
}

/** Return the last folders of a path. */
export function shortPath(path, parts = 2) {
  const names = (path || "").split("/").filter(Boolean);
  return names.length <= parts ? path || "" : `…/${names.slice(-parts).join("/")}`;
}

/** Return the last folder of a path. */
export const nameOf = (path) => (path || "").split("/").filter(Boolean).at(-1) ?? path;

export const firstLine = (text) => (text || "").trim().split("\n", 1)[0].slice(0, 300);
export const titleOf = (session) => session.title || firstLine(session.initial_prompt) || "Untitled";
export const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Return where the details of a run are. */
export function pathOf(run) {
  if (run.kind === "compare") return `#/compare/${run.id}`;
  return run.session_id ? `#/session/${run.session_id}` : `#/run/${run.id}`;
}
