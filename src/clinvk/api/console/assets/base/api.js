// Requests to the REST API of this server.

export const ROOT = new URL("../../api/v1/", import.meta.url);
const DEADLINE_MS = 30_000;
const SLOW_BYTES_PER_MS = 20; // an upload that is slower fails
const TOO_LATE = "The server did not answer in time. The request may still take effect. Too many open tabs of this console " +
  "can be the cause: a browser has only six connections to a server.";

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

/** Called after each change of sessions by this page: a new title, the archive, a deletion. */
export const onSessionsChanged = { handle: () => {} };

const failure = (error) => (error.name === "AbortError"
  ? error : new ApiError(0, { title: error.name === "TimeoutError" ? TOO_LATE : "The server cannot be reached." }));

/**
 * Send a request and return the response. Throw an ApiError if the status is an error, or if the whole answer does not come
 * before the deadline. A stream has a `signal` in place of the deadline.
 */
export async function send(method, path, { query = {}, body, headers = {}, signal } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const json = body === undefined ? {} : { "content-type": "application/json" };
  const content = body && JSON.stringify(body);
  signal ??= AbortSignal.timeout(DEADLINE_MS + (content?.length ?? 0) / SLOW_BYTES_PER_MS);
  let response;
  try {
    response = await fetch(url, { method, signal, headers: { ...json, ...headers }, body: content, cache: "no-store" });
  } catch (error) {
    throw failure(error);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== "login") onUnauthorized.handle();
  throw new ApiError(response.status, problem);
}

async function json(...request) {
  const response = await send(...request);
  if (request[0] !== "GET" && request[1].startsWith("sessions/")) onSessionsChanged.handle();
  return response.status === 204 ? null : response.json().catch((error) => { throw failure(error); });
}

export const get = (path, query) => json("GET", path, { query });
export const post = (path, body = {}) => json("POST", path, { body });
export const cancel = (run) => post(`runs/${run}/cancel`).catch((error) => {
  if (!/ has ended already/.test(error.message)) throw error;
});
export const patch = (path, body) => json("PATCH", path, { body });
export const remove = (path) => json("DELETE", path);
export const url = (path) => new URL(path, ROOT).href;

/** Return the fields that have a value. */
export const filled = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value));

/** Start a run that does not depend on this page. Return its `run_id` and `session_id`. */
export const start = (path, body) =>
  json("POST", path, { body: { ...body, detach: true }, headers: { prefer: "respond-async" } });

/** Yield the lines of a body. `onBytes` is called with each piece. */
export async function* linesOf(body, onBytes = () => {}) {
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
