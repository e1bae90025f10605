// The projects with their sessions, beside the screen.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { get } from "../base/api.js";
import { titleOf } from "../base/format.js";
import { Icon } from "../base/icons.js";
import { useLive } from "../base/live.js";
import { address } from "../base/router.js";
import { StateIcon, grouped, projectOf, stateOf } from "../screens/rows.js";
import { useStored, visible } from "../base/ui.js";

const MAX_PROJECTS = 30;
const OPEN_AT_FIRST = 3;
const NEWEST = 6;
const MAX_ACTIVE = 200;
const SETTLE_MS = 300;

/** Load the sessions of projects: those with a run in progress, and the newest. */
async function loadSessions(projects) {
  const lists = await Promise.all([
    get("sessions", { status: "active", limit: MAX_ACTIVE }),
    ...projects.map(({ directory }) => get("sessions", { project: directory, limit: NEWEST })),
  ]);
  return [...new Map(lists.flatMap((list) => list.sessions).map((session) => [session.id, session])).values()];
}

/** Return the projects and the sessions of those that are open, or null until they are known. */
function useProjects(isOpen, version) {
  const [found, setFound] = useState(null);
  const number = useRef(0);
  useEffect(() => {
    const own = ++number.current;
    async function load() {
      const projects = (await get("projects")).projects.slice(0, MAX_PROJECTS);
      const sessions = await loadSessions(projects.filter(isOpen));
      if (own === number.current) setFound({ projects, sessions });
    }
    const timer = setTimeout(() => load().catch(() => {}), found ? SETTLE_MS : 0); // the last ones stay
    return () => clearTimeout(timer);
  }, [version]);
  return found;
}

export function Projects({ sessionId }) {
  const live = useLive();
  const [folds, setFolds] = useStored("folds", {});
  const isOpen = ({ directory }, index) => folds[directory] ?? index < OPEN_AT_FIRST;
  const found = useProjects(isOpen, live.sessionsVersion + JSON.stringify(folds));
  if (!found) return null;
  return found.projects.map((project, index) => html`
    <${Project} key=${project.directory} project=${project} isOpen=${isOpen(project, index)} sessionId=${sessionId}
      sessions=${found.sessions.filter((session) => projectOf(session) === project.directory)}
      onFold=${(open) => setFolds({ ...folds, [project.directory]: open })} />`);
}

function Project({ project: { directory, name, branch, sessions: total }, sessions, isOpen, sessionId, onFold }) {
  const onToggle = ({ currentTarget: { open } }) => open !== isOpen && onFold(open);
  return html`
    <div class="project">
      <details open=${isOpen} onToggle=${onToggle}>
        <summary title=${directory}><${Icon} name="fold" /><span class="name">${visible(name)}</span>
          ${branch && html`<span class="branch">${visible(branch)}</span>`}</summary>
        ${isOpen && grouped(sessions).map(([group, own]) => html`
          <p class="section-name">${group}</p>
          ${own.map((session) => html`
            <a key=${session.id} href=${`#/session/${session.id}`} title=${titleOf(session)}
              aria-current=${session.id === sessionId ? "page" : undefined}>
              <${StateIcon} state=${stateOf(session)} /><span class="title">${visible(titleOf(session))}</span></a>`)}`)}
        ${isOpen && total > sessions.length && html`
          <a class="all" href=${address("sessions", { project: directory })}>All ${total} sessions</a>`}
      </details>
      <a class="add" href=${address("new", { directory })} aria-label=${`New session in ${name}`} title=${`New session in ${name}`}>
        <${Icon} name="plus" /></a>
    </div>`;
}
