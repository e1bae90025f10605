// Comments on lines of a diff, which become a prompt.

import { html, useEffect, useRef } from "../vendor/preact.js";
import { filled, get, start } from "../base/api.js";
import { useDraft } from "../base/drafts.js";
import { plural } from "../base/format.js";
import { live } from "../base/live.js";
import { navigate } from "../base/router.js";
import { Action, visible } from "../base/ui.js";
import { keptBy } from "../session/permissions.js";

const idOf = ({ path, line }) => `${path}:${line.kind === "removed" ? `-${line.before}` : line.after}`;

/**
 * Return the comments for the agent of a session, which this browser keeps until they are sent. A comment is
 * `{path, line, text, draft}`: `draft` is the text while it is edited, else null.
 */
export function useComments(sessionId) {
  const [all, setAll] = useDraft(`comments.${sessionId}`, {});
  const current = useRef();
  const opened = useRef();
  current.current = all;
  const at = (place) => current.current[idOf(place)];
  const set = (place, changed) => setAll({ ...current.current, [idOf(place)]: { ...place, text: "", ...at(place), ...changed } });
  const keep = (entries) => setAll(entries.length ? Object.fromEntries(entries) : null);
  const remove = (place) => keep(Object.entries(current.current).filter(([id]) => id !== idOf(place)));
  function open(place) {
    opened.current = idOf(place);
    set(place, { draft: at(place)?.text ?? "" });
  }
  const comments = {
    saved: Object.values(all).filter((comment) => comment.text),
    at, open, remove,
    isOpened: (place) => opened.current === idOf(place),
    edit: (place, draft) => set(place, { draft }),
    save: (place, text) => set(place, { text, draft: null }),
    cancel: (place) => (at(place).text ? set(place, { draft: null }) : remove(place)),
    /** Remove the saved comments. What is being written stays. */
    clear() {
      const unsaved = Object.entries(current.current).filter(([, comment]) => comment.draft?.trim());
      keep(unsaved.map(([id, comment]) => [id, { ...comment, text: "" }]));
    },
    view: (place, name) => html`<${LineComment} name=${name} place=${place} comments=${comments} />`,
  };
  return comments;
}

/** Return saved comments as one prompt. */
function promptOf(comments) {
  const written = comments.map(({ path, text, line }) => {
    const place = line.kind === "removed" ? `removed line ${line.before}` : `line ${line.after}`;
    return `${path}, ${place}:\n> ${line.text}\n${text}`;
  });
  return `Address these comments on your changes:\n\n${written.join("\n\n")}`;
}

/** Return the options of the last run of a session, which the session keeps. */
async function optionsOf(sessionId) {
  const { runs } = await get("runs", { session_id: sessionId, limit: 1 });
  if (!runs.length) return live.me.may_ask && { approval_mode: "ask" };
  return filled(keptBy((await get(`runs/${runs[0].id}`)).request ?? {}));
}

/** What becomes of the saved comments: a prompt for a session, or with `onInsert` a text to edit first. */
export function CommentBar({ comments: { saved, clear }, sessionId, isBusy, onInsert }) {
  async function send() {
    await start("prompt", {
      ...(await optionsOf(sessionId)), ...(isBusy && { on_busy: "queue" }), session_id: sessionId, prompt: promptOf(saved),
    });
    clear();
    navigate(`session/${sessionId}`);
  }
  function insert() {
    onInsert(promptOf(saved));
    clear();
  }
  return saved.length > 0 && html`<div class="dock bar"><span>${plural(saved.length, "comment")}</span>
    ${onInsert && html`<button type="button" onClick=${insert}>Add to the prompt</button>`}
    <${Action} class="primary" run=${send}>Send to the agent<//></div>`;
}

function LineComment({ name, place, comments }) {
  const { text, draft } = comments.at(place);
  return html`<div class="line-comment">${draft === null
    ? html`<p>${visible(text)}</p><div class="buttons">
        <button type="button" class="small" onClick=${() => comments.open(place)}>Edit</button>
        <button type="button" class="small" onClick=${() => comments.remove(place)}>Remove</button></div>`
    : html`<${Editor} name=${name} place=${place} draft=${draft} comments=${comments} />`}</div>`;
}

/** The field of a comment. Afterwards the focus returns to the line. */
function Editor({ name, place, draft, comments }) {
  const field = useRef();
  useEffect(() => { if (comments.isOpened(place)) field.current.focus(); }, []);
  function end(action, ...text) {
    field.current.closest(".line-comment").previousElementSibling.querySelector("button").focus();
    action(place, ...text);
  }
  const save = () => draft.trim() && end(comments.save, draft.trim());
  const cancel = () => end(comments.cancel);
  function onKeyDown(event) {
    const action = event.key === "Escape" ? cancel : event.key === "Enter" && (event.ctrlKey || event.metaKey) ? save : null;
    if (!action) return;
    event.preventDefault();
    action();
  }
  return html`
    <textarea rows="2" aria-label=${`Comment on ${name}`} placeholder="Comment for the agent" value=${draft} ref=${field}
      onInput=${(event) => comments.edit(place, event.target.value)} onKeyDown=${onKeyDown}></textarea>
    <div class="buttons"><button type="button" class="small primary" disabled=${!draft.trim()} onClick=${save}>Save</button>
      <button type="button" class="small" onClick=${cancel}>Cancel</button></div>`;
}
