"use strict";
// Shows and sends each operation of /openapi.json. Talks to this server only.

const byId = (id) => document.getElementById(id);

/** Make an element: el("a", {href: "#x"}, "text", child). Text is never parsed as HTML. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Text with `code` in backticks. */
function prose(text) {
  return (text || "").split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

// --- schemas -------------------------------------------------------------------------------------------------

const nameOf = (ref) => ref.split("/").pop();
const link = (name) => el("a", { href: `#schema-${name}` }, name);

/** What a schema allows, in a few words and links. */
function shape(schema) {
  if (!schema || !Object.keys(schema).length) return ["anything"];
  if (schema.$ref) return [link(nameOf(schema.$ref))];
  if (schema.enum) return schema.enum.filter((word) => word !== "").flatMap((word, index) => [index ? ", " : "", el("code", {}, word)]);
  const options = schema.anyOf || schema.oneOf;
  if (options) {
    const shown = options.filter((option) => option.type !== "null" && option.const !== "").map(shape);
    return shown.flatMap((words, index) => (index ? [" or ", ...words] : words));
  }
  if (schema.const !== undefined) return [el("code", {}, String(schema.const))];
  const data = schema.properties?.data?.contentSchema;
  if (data) return ["events with ", ...shape(data), " as ", el("code", {}, "data")];
  if (schema.type === "array") return ["list of ", ...shape(schema.items)];
  return [{ string: "text", integer: "whole number", boolean: "true or false" }[schema.type] || schema.type || "anything"];
}

function bounds(schema) {
  const number = [schema, ...(schema.anyOf || [])].find((part) => part.maximum !== undefined) || {};
  const low = number.minimum ?? `above ${number.exclusiveMinimum}`;
  if (number.maximum === undefined) return "";
  return number.maximum === 2 ** 31 - 1 ? `, ${low} or more` : `, ${low} to ${number.maximum}`;
}

function fields(schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, field]) =>
    el("tr", {},
      el("td", {}, el("code", { class: required.has(name) ? "required" : "" }, name)),
      el("td", {}, ...shape(field), bounds(field)),
      el("td", {}, ...prose(field.description))));
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", {}, "field"), el("th", {}, "type"), el("th", {}, ""))),
    el("tbody", {}, ...rows)));
}

function schemaBox(name, schema) {
  const box = el("details", { class: "operation", id: `schema-${name}` },
    el("summary", {}, el("span", { class: "path" }, name), el("span", {}, ...prose((schema.description || "").split("\n")[0]))),
    el("div", { class: "body" }, schema.properties ? fields(schema) : el("p", {}, ...shape(schema))));
  return box;
}

// --- trying an operation -------------------------------------------------------------------------------------

/** Read an answer as it comes; events of a stream are given one by one. */
async function follow(response, onText, onEvent) {
  if (!response.body) return;
  const type = response.headers.get("content-type") || "";
  const isSse = type.startsWith("text/event-stream");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    if (!isSse && !type.startsWith("application/x-ndjson")) { onText(value); continue; }
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((text) => isSse ? text.startsWith("data: ") : text.trim())) {
      const event = isSse ? line.slice("data: ".length) : line.trim();
      onText(`${event}\n`);
      onEvent(JSON.parse(event));
    }
  }
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(method, path, headers, body) {
  const words = ["curl -N", ...(method === "GET" ? [] : [`-X ${method}`]), shellQuoted(location.origin + path)];
  for (const [name, value] of Object.entries(headers)) words.push(`-H ${shellQuoted(`${name}: ${value}`)}`);
  if (body !== undefined) words.push(`-d ${shellQuoted(body)}`);
  return words.join(" ");
}

/** An input for each parameter, and what is in them. */
function parameterBox(parameters) {
  const inputs = parameters.map((parameter) => {
    const words = [parameter.schema, ...(parameter.schema.anyOf || [])].find((part) => part.enum)?.enum;
    const attributes = { "aria-label": parameter.name, spellcheck: "false", autocomplete: "off", "data-parameter": parameter.name };
    const input = words
      ? el("select", attributes, el("option", { value: "" }, ""), ...words.filter((word) => word !== null).map((word) => el("option", {}, word)))
      : el("input", { ...attributes, placeholder: String(parameter.schema.default ?? "") });
    return [parameter, input];
  });
  const given = (place) => inputs.filter(([parameter, input]) => parameter.in === place && input.value).map(([parameter, input]) => [parameter.name, input.value]);
  const rows = inputs.map(([parameter, input]) => el("tr", {},
    el("td", {}, el("code", { class: parameter.required ? "required" : "" }, parameter.name)),
    el("td", {}, input), el("td", {}, ...prose(parameter.description))));
  return {
    element: rows.length ? el("div", { class: "scroll" }, el("table", { class: "parameters" }, el("tbody", {}, ...rows))) : null,
    headers: () => Object.fromEntries(given("header")),
    address: (path) => {
      const filled = inputs.filter(([parameter]) => parameter.in === "path").reduce((text, [parameter, input]) => text.replace(`{${parameter.name}}`, encodeURIComponent(input.value)), path);
      const query = new URLSearchParams(given("query")).toString();
      return query ? `${filled}?${query}` : filled;
    },
  };
}

function tryBox(method, path, operation) {
  const content = operation.requestBody?.content["application/json"];
  const examples = Object.entries(content?.examples || {});
  const input = el("textarea", { spellcheck: "false", "aria-label": "Body", rows: "7" });
  const choice = el("select", { "aria-label": "Example" }, ...examples.map(([name, example]) => el("option", { value: name }, example.summary)));
  const send = el("button", { class: "send primary", type: "button" }, "Send");
  const stop = el("button", { type: "button", disabled: "" }, "Stop");
  const copy = el("button", { type: "button" }, "Copy as curl");
  const status = el("span", { class: "status", role: "status" });
  const answer = el("div", { class: "answer", "aria-live": "polite" });
  const raw = el("pre", { hidden: "" });
  const parameters = parameterBox(operation.parameters || []);
  let going = null;

  const fill = () => { input.value = JSON.stringify(content.examples[choice.value].value, null, 2); };
  if (content) { fill(); choice.addEventListener("change", fill); }

  const asked = () => ({ ...parameters.headers(), ...(content ? { "content-type": "application/json" } : {}) });

  async function run() {
    going = new AbortController();
    send.disabled = true; stop.disabled = false;
    status.className = "status"; status.textContent = "waiting…";
    answer.textContent = ""; raw.textContent = ""; raw.hidden = false;
    const began = performance.now();
    const headers = asked();
    if (byId("key").value) headers.authorization = `Bearer ${byId("key").value}`;
    try {
      const response = await fetch(parameters.address(path), { method, headers, body: content ? input.value : undefined, signal: going.signal });
      const head = `${response.status} ${response.statusText}`;
      status.className = response.ok ? "status" : "status bad";
      status.textContent = head;
      let all = "";
      await follow(response,
        (text) => { all += text; raw.textContent = all; raw.scrollTop = raw.scrollHeight; },
        (event) => {
          if (event.type === "message") answer.textContent += event.content.text;
          if (event.type === "error") { status.className = "status bad"; answer.textContent += `\n${event.content.message}`; }
        });
      raw.textContent = pretty(all);
      status.textContent = `${head} in ${Math.round(performance.now() - began)} ms`;
    } catch (error) {
      status.className = "status bad";
      status.textContent = error.name === "AbortError" ? "stopped" : String(error);
    } finally {
      send.disabled = false; stop.disabled = true;
    }
  }

  send.addEventListener("click", run);
  stop.addEventListener("click", () => going?.abort());
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(curl(method, parameters.address(path), asked(), content ? input.value : undefined));
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy as curl"; }, 1500);
  });
  return el("div", { class: "try" }, el("h3", {}, "Try it"),
    parameters.element,
    content && examples.length > 1 ? el("div", { class: "row" }, choice) : null,
    content ? input : null,
    el("div", { class: "row" }, send, stop, copy, status), answer, raw);
}

// --- the page ------------------------------------------------------------------------------------------------

function operationBox(method, path, operation, components) {
  const bodySchema = operation.requestBody?.content["application/json"]?.schema;
  const responses = Object.entries(operation.responses).map(([code, response]) =>
    el("tr", {}, el("td", {}, el("code", {}, code)),
      el("td", {}, ...prose(response.description)),
      el("td", {}, ...Object.entries(response.content || {}).flatMap(([type, content]) => [el("div", {}, el("code", {}, type), " ", ...shape(content.schema))]))));
  return el("details", { class: "operation", id: operation.operationId },
    el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("span", { class: "path" }, path), el("span", {}, operation.summary)),
    el("div", { class: "body" },
      el("p", {}, ...prose(operation.description)),
      tryBox(method.toUpperCase(), path, operation),
      bodySchema ? el("h3", {}, "Body") : null,
      bodySchema ? fields(components[nameOf(bodySchema.$ref)]) : null,
      el("h3", {}, "Answers"),
      el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, ...responses)))));
}

function show(spec) {
  byId("version").textContent = spec.info.version;
  byId("title").textContent = `${spec.info.title} API`;
  byId("description").textContent = spec.info.description;
  const components = spec.components.schemas;
  for (const tag of spec.tags) {
    const boxes = [], links = [];
    for (const [path, methods] of Object.entries(spec.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (!operation.tags.includes(tag.name)) continue;
        boxes.push(operationBox(method, path, operation, components));
        links.push(el("li", {}, el("a", { href: `#${operation.operationId}` }, operation.summary)));
      }
    }
    byId("operations").append(el("section", {}, el("h2", {}, tag.name), el("p", { class: "note" }, tag.description), ...boxes));
    byId("contents").append(el("h2", {}, tag.name), el("ul", {}, ...links));
  }
  const problems = spec["x-problems"].flatMap((problem) => [
    el("dt", { id: problem.code }, el("code", {}, problem.code), ` ${problem.status} ${problem.title}`),
    el("dd", {}, ...prose(problem.description))]);
  byId("problems").append(el("h2", {}, "Problems"),
    el("p", { class: "note" }, "The answer to a request that cannot run (RFC 9457)."), el("dl", { class: "problems" }, ...problems));
  byId("schemas").append(el("h2", {}, "Schemas"), ...Object.entries(components).map(([name, schema]) => schemaBox(name, schema)));
  byId("contents").append(el("h2", {}, "Reference"), el("ul", {},
    el("li", {}, el("a", { href: "#problems" }, "Problems")), el("li", {}, el("a", { href: "#schemas" }, "Schemas"))));
  document.querySelector("details.operation").open = true;
}

/** Open what the address names, and bring it into view. */
function reveal() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}

async function load() {
  try {
    const response = await fetch("/openapi.json");
    show(await response.json());
    reveal();
  } catch (error) {
    byId("description").textContent = `cannot read openapi.json: ${error}`;
  }
}

window.addEventListener("hashchange", reveal);
load();
