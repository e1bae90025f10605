// The plan of the agent, as its tools or its events have reported it last.

import { html } from "../vendor/preact.js";
import { useStored, visible } from "../base/ui.js";

const MARKS = { completed: ["✓", "done"], in_progress: ["●", "in progress"], pending: ["○", "to do"] };

/**
 * Return the plan after the call of a tool: the tools for todo lists have the whole list, Claude Code's tools for tasks a
 * step. Steps are `{text, status, id}`.
 */
export function planAfter(plan, { name, input }) {
  if (Array.isArray(input.todos)) {
    return input.todos.map((todo) => ({ text: todo.content ?? todo.description ?? todo.title ?? "", status: todo.status }));
  }
  if (name === "TaskCreate") return [...plan ?? [], { text: input.subject ?? "", status: "pending", id: `${(plan?.length ?? 0) + 1}` }];
  if (name === "TaskUpdate" && plan) {
    return plan.map((step) => (step.id === String(input.taskId) ? { ...step, status: input.status ?? step.status } : step))
      .filter((step) => step.status !== "deleted");
  }
  return plan;
}

export function Plan({ steps }) {
  const [isOpen, setOpen] = useStored("plan", false);
  const done = steps.filter(({ status }) => status === "completed").length;
  const current = steps.find(({ status }) => status === "in_progress");
  return html`
    <details class="plan" open=${isOpen} onToggle=${(event) => setOpen(event.currentTarget.open)}>
      <summary><strong>Plan</strong> <span>${done} of ${steps.length}</span>
        <span class="about">${visible(current?.text)}</span></summary>
      <ol>${steps.map(({ text, status }) => {
        const [mark, label] = MARKS[status] ?? MARKS.pending;
        return html`<li class=${status}><span class="mark" role="img" aria-label=${label}>${mark}</span> ${visible(text)}</li>`;
      })}</ol>
    </details>`;
}
