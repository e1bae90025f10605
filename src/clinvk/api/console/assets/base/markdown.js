// Markdown of agents, which is untrusted: it becomes elements directly and never HTML text. Raw HTML is shown as text,
// images are links, and links name their host.

import { html, useMemo } from "../vendor/preact.js";
import { lexer } from "../vendor/marked.js";
import { Highlighted } from "./highlight.js";
import { Clipped, Copy, visible } from "./ui.js";

const MAX_DEPTH = 16;
const SCHEMES = new Set(["http:", "https:", "mailto:"]);
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** Show a text as Markdown. */
export const Markdown = ({ text }) => useMemo(() => {
  try {
    return html`<div class="markdown">${blocks(lexer(text), 0)}</div>`;
  } catch { // nested too deeply
    return html`<pre class="plain">${visible(text)}</pre>`;
  }
}, [text]);

/** A long answer: the beginning as Markdown, and a button for more; or all of it. */
export const Answer = ({ text, isWhole }) => (isWhole ? asMarkdown(text) : html`<${Clipped} text=${text} render=${asMarkdown} />`);
const asMarkdown = (text) => html`<${Markdown} text=${text} />`;

function blocks(tokens, depth) {
  if (depth > MAX_DEPTH) return visible(tokens.map((token) => token.raw).join(""));
  return tokens.map((token) => block(token, depth + 1));
}

function block(token, depth) {
  switch (token.type) {
    case "space": case "def":
      return null;
    case "heading":
      return html`<div class="heading h${token.depth}" role="heading" aria-level=${Math.min(6, token.depth + 1)}>
        ${inline(token.tokens, depth)}</div>`;
    case "code":
      return html`<div class="copyable"><pre class="code" tabindex="0"><${Highlighted} text=${token.text} language=${
        token.lang} /></pre><${Copy} text=${token.text} /></div>`;
    case "blockquote":
      return html`<blockquote>${blocks(token.tokens, depth)}</blockquote>`;
    case "list":
      return token.ordered
        ? html`<ol start=${token.start}>${token.items.map((item) => html`<li>${blocks(item.tokens, depth)}</li>`)}</ol>`
        : html`<ul>${token.items.map((item) => html`<li>${blocks(item.tokens, depth)}</li>`)}</ul>`;
    case "table":
      return table(token, depth);
    case "hr":
      return html`<hr />`;
    case "paragraph":
      return html`<p>${inline(token.tokens, depth)}</p>`;
    case "html":
      return html`<p class="plain">${visible(token.raw)}</p>`;
    default:
      return inline([token], depth);
  }
}

function table(token, depth) {
  const cells = (row, tag) =>
    row.map((cell) => html`<${tag} style=${{ textAlign: cell.align }}>${inline(cell.tokens, depth)}<//>`);
  return html`<div class="scroll" tabindex="0"><table>
    <thead><tr>${cells(token.header, "th")}</tr></thead>
    <tbody>${token.rows.map((row) => html`<tr>${cells(row, "td")}</tr>`)}</tbody>
  </table></div>`;
}

function inline(tokens, depth) {
  if (depth > MAX_DEPTH) return visible(tokens.map((token) => token.raw).join(""));
  return tokens.map((token) => {
    const children = () => inline(token.tokens, depth + 1);
    switch (token.type) {
      case "strong": return html`<strong>${children()}</strong>`;
      case "em": return html`<em>${children()}</em>`;
      case "del": return html`<del>${children()}</del>`;
      case "codespan": return html`<code>${visible(token.text)}</code>`;
      case "br": return html`<br />`;
      case "checkbox": return token.checked ? "☑ " : "☐ ";
      case "link": return link(token.href, children(), token.text);
      case "image": return link(token.href, ["image: ", visible(token.text || "without description")], "");
      case "text": return token.tokens ? children() : visible(unescaped(token.text));
      case "escape": return visible(token.text);
      default: return visible(token.raw);
    }
  });
}

function link(href, children, text) {
  const target = URL.canParse(href) && new URL(href);
  if (!SCHEMES.has(target.protocol)) return html`<span>${children} (${visible(href)})</span>`;
  const host = target.host || target.pathname;
  return html`<a class="external" href=${target.href} target="_blank" rel="noopener noreferrer nofollow">${children}${
    text === href ? "" : html`<span class="host"> ${host}</span>`}<span aria-hidden="true">↗</span></a>`;
}

/** Replace the entities of HTML that Markdown texts use. */
function unescaped(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|(\w{2,6}));/gi, (entity, decimal, hex, name) => {
    if (name) return ENTITIES[name.toLowerCase()] ?? entity;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : entity;
  });
}
