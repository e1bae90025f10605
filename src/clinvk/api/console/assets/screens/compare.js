// The form that gives one prompt to several agents, and the earlier compares.

import { html } from "../vendor/preact.js";
import { filled, get, start } from "../base/api.js";
import { readDraft, useDraft, writeDraft } from "../base/drafts.js";
import { useBackends } from "../session/composer.js";
import { Permissions, withApproval } from "../session/permissions.js";
import { Project, useRemembered } from "../session/project.js";
import { navigate } from "../base/router.js";
import { RunList } from "./rows.js";
import { Agent, Checkbox, Empty, Form, Loaded, Select, TextField, useStored } from "../base/ui.js";

const SEARCHED_RUNS = 500;
const DRAFT = "compare";

/** Load the compares among the newest runs. */
async function loadCompares() {
  const { runs } = await get("runs", { limit: SEARCHED_RUNS });
  return runs.filter((run) => run.kind === "compare");
}

export function Compare() {
  return html`
    <h1 tabindex="-1">Compare</h1>
    <${CompareForm} />
    <h2>Earlier</h2>
    <${Loaded} load=${loadCompares}>${(runs) => (runs.length
      ? html`<${RunList} runs=${runs} />` : html`<${Empty}>Nothing compared yet.<//>`)}<//>`;
}

function CompareForm() {
  const backends = useBackends() ?? [];
  const [chosen, setChosen] = useStored("compare", []);
  const [, remember] = useRemembered();
  const [draft, setDraft] = useDraft(DRAFT, {});
  const { prompt = "", workdir = "", isIsolated = true, judge = "", check = "", modes = {} } = draft;
  const change = (name) => (value) => setDraft({ ...readDraft(DRAFT), [name]: value });
  const names = backends.map((backend) => backend.name).filter((name) => chosen.includes(name));
  const agents = backends.filter((backend) => names.includes(backend.name));
  const options = withApproval(modes, agents);
  const toggle = (name) => setChosen(names.includes(name) ? names.filter((each) => each !== name) : [...names, name]);

  async function submit() {
    const inWorktrees = isIsolated && { isolation: "worktree", check };
    const fields = { ...options, workdir, ...inWorktrees, judge: judge && { backend: judge } };
    const { run_id: run } = await start("compare", { prompt, backends: names, ...filled(fields) });
    remember(workdir);
    writeDraft(DRAFT, null);
    navigate(`compare/${run}`);
  }
  return html`
    <${Form} class="composer" aria-label="Compare agents" onSubmit=${submit}>
      <textarea aria-label="Prompt" rows="4" value=${prompt} placeholder="What should each agent do?"
        onInput=${(event) => change("prompt")(event.target.value)}></textarea>
      <div class="options"><${Project} value=${workdir} onChange=${change("workdir")} /></div>
      ${isIsolated && html`<div class="options"><${TextField} class="directory" label="Check" value=${check} onChange=${change("check")}
        placeholder="Check: a command to run in each worktree, such as make test" /></div>`}
      <fieldset class="options"><legend class="sr">Agents</legend>
        ${backends.map(({ name }) => html`
          <${Checkbox} checked=${names.includes(name)} onChange=${() => toggle(name)}><${Agent} name=${name} /><//>`)}</fieldset>
      <div class="options">
        <${Permissions} backend=${agents[0]} value=${options} onChange=${change("modes")} />
        <${Select} label="Judge" value=${judge} onChange=${change("judge")}
          options=${[["", "No judge"], ...backends.map(({ name }) => [name, `Judge: ${name}`])]} />
        <${Checkbox} checked=${isIsolated} onChange=${() => change("isIsolated")(!isIsolated)}>Each in a worktree<//>
        <span class="gap"></span>
        ${names.length < 2 && html`<span class="quiet">Choose at least two agents.</span>`}
        <button class="primary" disabled=${!prompt.trim() || names.length < 2}>Compare</button>
      </div>
    <//>`;
}
