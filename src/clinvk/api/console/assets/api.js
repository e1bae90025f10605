// Requests to the REST API of this server, and its event streams.

const ROOT = new URL("../api/v1/", import.meta.url);
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;
const SILENCE_MS = 45_000; // the server sends something at least every 15 s

/** An answer with an error status. `status` 0: the server could not be reached. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The server answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

/** Called with each 401, which ends the login. */
export const onUnauthorized = { handle: () => {} };

/** Send a request and return the response. Throw an ApiError if the status is an error. */
async function send(method, path, { query = {}, body, headers = {}, signal } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const json = body === undefined ? {} : { "content-type": "application/json" };
  let response;
  try {
    response = await fetch(url, {
      method, signal, headers: { ...json, ...headers }, body: body && JSON.stringify(body), cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { title: "The server cannot be reached." });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== "login") onUnauthorized.handle();
  throw new ApiError(response.status, problem);
}

async function json(...request) {
  const response = await send(...request);
  return response.status === 204 ? null : response.json();
}

export const get = (path, query, signal) => json("GET", path, { query, signal });
export const post = (path, body = {}) => json("POST", path, { body });
export const patch = (path, body) => json("PATCH", path, { body });
export const remove = (path) => json("DELETE", path);
export const url = (path) => new URL(path, ROOT).href;

/** Start a run that does not depend on this page. Return its `run_id` and `session_id`. */
export const start = (path, body) =>
  json("POST", path, { body: { ...body, detach: true }, headers: { prefer: "respond-async" } });

/** Yield the lines of a body. `onBytes` is called with each piece. */
async function* linesOf(body, onBytes = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onBytes();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

/** Yield the events of a run that has ended. */
export async function* storedEvents(runId, signal) {
  const response = await send("GET", `runs/${runId}/events`, { headers: { accept: "application/x-ndjson" }, signal });
  if (!response.body) return;
  for await (const line of linesOf(response.body)) {
    if (line.trim()) yield JSON.parse(line);
  }
}

/** Yield server-sent events as `{id, type, data}`. */
async function* serverSentEvents(response, onBytes) {
  let event = {};
  for await (const line of linesOf(response.body, onBytes)) {
    const [, field, value] = /^(id|event|data): ?(.*?)\r?$/.exec(line) || [];
    if (field) event[field] = value;
    if (line.trim() || event.data === undefined) continue;
    yield { id: event.id, type: event.event, data: JSON.parse(event.data) };
    event = {};
  }
}

/**
 * Follow a stream of server-sent events. Reconnect after a lost connection with the id of the last event.
 * `onState` is called with `open`, `lost` and `ended`: ended by the server (204), or refused for good.
 * Return a function that stops following.
 */
export function follow(path, onEvent, onState = () => {}) {
  const stopped = new AbortController();
  // A browser may keep a page that was left, with its connections, and has only six of them for a server.
  window.addEventListener("pagehide", () => stopped.abort(), { signal: stopped.signal });
  let lastId = "";
  let retryMs = FIRST_RETRY_MS;

  async function connect() {
    const silence = new AbortController();
    const signal = AbortSignal.any([stopped.signal, silence.signal]);
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    const onBytes = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      const headers = { accept: "text/event-stream", ...(lastId && { "last-event-id": lastId }) };
      const response = await send("GET", path, { headers, signal });
      if (response.status === 204) return "ended";
      retryMs = FIRST_RETRY_MS;
      onState("open");
      for await (const { id, type, data } of serverSentEvents(response, onBytes)) {
        lastId = id ?? lastId;
        onEvent(data, type);
      }
      return "lost";
    } catch (error) {
      const isFinal = error.status >= 400 && error.status < 500 && error.status !== 429;
      return isFinal ? "ended" : "lost";
    } finally {
      clearTimeout(timer);
    }
  }

  (async () => {
    while (!stopped.signal.aborted) {
      const state = await connect();
      if (stopped.signal.aborted) return;
      onState(state);
      if (state === "ended") return;
      await pause(retryMs * (0.75 + Math.random() / 2), stopped.signal);
      retryMs = Math.min(2 * retryMs, LAST_RETRY_MS);
    }
  })();
  return () => stopped.abort();
}

/** Wait, but no longer than until the network returns, the page is shown again, or `signal` is aborted. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const wake = new AbortController();
    const done = () => { wake.abort(); resolve(); };
    const options = { signal: wake.signal };
    const timer = setTimeout(done, ms);
    wake.signal.addEventListener("abort", () => clearTimeout(timer));
    window.addEventListener("online", done, options);
    document.addEventListener("visibilitychange", () => document.hidden || done(), options);
    signal.addEventListener("abort", done, options);
  });
}
