// The screens: their titles, and the modules that show them.

const screen = (module, name) => () => import(module).then((loaded) => loaded[name]);
const lists = screen("../screens/sessions.js", "Lists");

export const SCREENS = {
  __proto__: null, // the names come from the address
  "": { title: "Inbox", load: screen("../screens/inbox.js", "Inbox") },
  sessions: { title: "Sessions", load: lists, props: () => ({ list: "sessions" }) },
  runs: { title: "Runs", load: lists, props: () => ({ list: "runs" }) },
  new: { title: "New session", load: screen("../session/session.js", "NewSession") },
  session: { title: "Session", load: screen("../session/session.js", "Session"), props: (id) => ({ sessionId: id }) },
  run: { title: "Run", load: screen("../session/session.js", "Session"), props: (id) => ({ runId: id }) },
  compare: {
    title: "Compare", load: screen("../screens/compare.js", "Compare"), detail: screen("../screens/comparison.js", "Comparison"),
  },
  worktrees: { title: "Worktrees", load: screen("../review/worktrees.js", "Worktrees") },
  worktree: { title: "Worktree", load: screen("../review/worktrees.js", "Worktree") },
  usage: { title: "Usage", load: screen("../screens/usage.js", "Usage") },
  agents: { title: "Agents", load: screen("../screens/agents.js", "Agents") },
  notifications: { title: "Notifications", load: screen("../screens/notifications.js", "Notifications") },
};

/** The screens of the navigation with their icons. */
export const MENU = {
  "": "inbox", sessions: "sessions", compare: "compare", worktrees: "worktrees", usage: "usage", agents: "agents",
  notifications: "bell",
};

/** The second key, after `g`, that opens a screen. */
export const KEYS = { i: "", s: "sessions", r: "runs", c: "compare", w: "worktrees", u: "usage", a: "agents", n: "new" };

/** The screen of the navigation to which another screen belongs. */
export const SECTION = { new: "sessions", session: "sessions", run: "sessions", runs: "sessions", worktree: "worktrees" };
