"""The tools of the MCP server. Each tool is a few requests to the REST API, whose keys and policies thereby apply.

The docstrings of the tools and the descriptions of the fields are what the model of the client reads.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import anyio
import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from clinvk.api.endpoints.health import BackendList
from clinvk.api.endpoints.worktrees import WorktreeItem
from clinvk.dialects.rest.interactions import AnswerBody, InteractionList, InteractionView
from clinvk.dialects.rest.rest import Accepted, Problem
from clinvk.remote.messages import RestRequest, RestResponse
from clinvk.runtime.worktrees.kept_worktrees import WorktreeApplied
from clinvk.types.choices import UNDER_WAY, ApprovalMode, Isolation, RunState, SandboxMode
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.record import worktree_of

INSTRUCTIONS = (
    "Run other coding agents of this machine, such as Claude Code, Codex and Gemini CLI. A run with state queued or "
    "running has not ended: call wait_run until it has. A run with state waiting asks something, listed in its "
    "interactions: ask your user, then call answer."
)

_POLL_S = 0.3
_MAX_WAIT_S = 2.0
"""How long a request waits for its run: it goes on after a client of the server's socket has disconnected."""

_REPORT_S = 2.0
"""How often a call reports its progress."""

_T = TypeVar("_T")
_Wait = Annotated[float, Meta(ge=0, le=150, description="Seconds to wait for the end of the run; 0: return at once.")]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of a tool. The settings have the defaults."""


class Task(Arguments, frozen=True, kw_only=True):
    """A prompt, and how to run it."""

    prompt: Annotated[str, Meta(description="The whole task: no agent knows your conversation.")]
    workdir: Annotated[str, Meta(description="Absolute path of the directory to work in.")] | UnsetType = UNSET
    approval_mode: (
        Annotated[ApprovalMode, Meta(description="auto: edit without asking; none: never ask; ask: see answer.")]
        | UnsetType
    ) = UNSET
    sandbox_mode: (
        Annotated[SandboxMode, Meta(description="read-only: no writes; workspace: writes in workdir only.")] | UnsetType
    ) = UNSET
    wait_secs: _Wait = 45


class AgentTask(Task, frozen=True, kw_only=True):
    """A task for one agent."""

    backend: Annotated[str, Meta(description="An agent of list_agents.")] | UnsetType = UNSET
    model: Annotated[str, Meta(description="A model of the agent, or fast, balanced, best.")] | UnsetType = UNSET
    session_id: Annotated[str, Meta(description="Continue the conversation of an earlier run.")] | UnsetType = UNSET
    isolation: (
        Annotated[Isolation, Meta(description="worktree: a new conversation works in its own git worktree.")]
        | UnsetType
    ) = UNSET
    fallback: (
        Annotated[list[str], Meta(description="Agents, or agent/model, for a new prompt that the agent cannot take.")]
        | UnsetType
    ) = UNSET


class ComparedTask(Task, frozen=True, kw_only=True):
    """A task for several agents."""

    backends: Annotated[list[str], Meta(min_length=1, description="Agents of list_agents.")]
    judge: Annotated[str, Meta(description="One more agent, which chooses the best answer.")] | UnsetType = UNSET
    isolation: Annotated[Isolation, Meta(description="worktree: each in its own git worktree.")] | UnsetType = UNSET


class RunId(Arguments, frozen=True, kw_only=True):
    """One run."""

    run_id: Annotated[str, Meta(description="The id of a run.")]


class Waiting(RunId, frozen=True, kw_only=True):
    """The run of `wait_run`, and how long to wait."""

    wait_secs: _Wait = 45


class Answer(AnswerBody, frozen=True, kw_only=True):
    """The answer to an interaction."""

    interaction_id: Annotated[str, Meta(description="The id of an interaction of a waiting run.")]


class WorktreeId(Arguments, frozen=True, kw_only=True):
    """One worktree."""

    worktree: Annotated[str, Meta(description="The `worktree` of a run.")]


class AgentRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run of one agent."""

    id: str
    state: RunState
    kind: str = "prompt"
    backend: str = ""
    model: str | None = None
    session_id: str | None = None
    activity: Annotated[str, Meta(description="What the agent does.")] = ""
    output: Annotated[str, Meta(description="The answer, once the run has ended.")] = ""
    error: str | None = None
    cost_usd: float | None = None
    workdir: str = ""
    worktree: Annotated[str | None, Meta(description="The worktree of the changes; see diff and apply.")] = None


class Run(AgentRun, frozen=True, kw_only=True, omit_defaults=True):
    """A run, with those of its agents if there are several, and with the interactions that await an answer."""

    runs: list[AgentRun] = []
    interactions: list[InteractionView] = []


class WorktreeDiff(WorktreeItem, frozen=True, kw_only=True):
    """The changes in a worktree."""

    diff: str | None
    diff_is_cut: bool


Report = Callable[[float, float, str], Awaitable[None]]
"""Reports the progress of a call: the elapsed time, the total, and a message."""


class AwaitedRun:
    """The run that a call waits for, which ends if the client cancels the call.

    `attached` are the runs that were started by calls which wait. A run that was started with `wait_secs` 0 is
    detached: no cancelled call ends the run. `id` is empty without a run, and for a detached one.
    """

    def __init__(self, attached: deque[str], report: Report) -> None:
        self.id = ""
        self.report = report
        self._attached = attached

    def start(self, run_id: str) -> None:
        """Attach a run to the calls that wait for the run."""
        self._attached.append(run_id)
        self.wait(run_id)

    def wait(self, run_id: str) -> None:
        """Wait for a run from now on."""
        self.id = run_id if run_id in self._attached else ""


class RestApi(NamedTuple):
    """The REST API for a call of a tool: the default agent and directory of the client, and the trace of the call."""

    send: Callable[[RestRequest], Awaitable[RestResponse]]
    awaited: AwaitedRun
    backend: str
    workdir: str | None = None
    trace: Mapping[str, str] = {}

    async def call(
        self,
        answer: type[_T],
        method: Literal["GET", "POST"],
        path: str,
        body: Mapping[str, object] | None = None,
        wait_s: float = 0,
    ) -> _T:
        """Return the answer to a request. `wait_s` is as in `RestRequest`.

        Raises:
            InvalidRequest: the API refuses the request.
            ClinvkError: the API fails.
        """
        data = msgspec.json.encode(body) if body else b""
        response = await self.send(RestRequest(method, f"/api/v1/{path}", data, wait_s, {**self.trace}))
        if response.status >= 400:
            error = InvalidRequest if response.status < 500 else ClinvkError
            raise error(msgspec.json.decode(response.body, type=Problem).detail)
        return msgspec.json.decode(response.body, type=answer)

    async def start(self, path: str, task: Task, more: Mapping[str, object]) -> Run:
        """Start a task in the background, and wait for its end for `wait_secs`. `more` replaces fields of the task."""
        fields: dict[str, object] = {**msgspec.to_builtins(task), **more, "detach": True}
        del fields["wait_secs"]
        run_id = ""
        with anyio.CancelScope(shield=True):  # a run without a known id could not be stopped
            run_id = (await self.call(Accepted, "POST", path, fields)).run_id
        if task.wait_secs:
            self.awaited.start(run_id)
        return await self.wait(run_id, task.wait_secs)

    async def wait(self, run_id: str, wait_s: float = 0) -> Run:
        """Return a run once it has ended or waits for an answer, or after `wait_s`."""
        start = report_at = time.monotonic()
        until = start + wait_s
        if wait_s:
            self.awaited.wait(run_id)
        while True:
            path, left_s = f"runs/{quote(run_id, safe='')}", until - time.monotonic()
            run = await self.call(Run, "GET", path, wait_s=min(left_s, _MAX_WAIT_S))
            waiting = [each.id for each in (run, *run.runs) if each.state == "waiting"]
            asked = [
                await self.call(InteractionList, "GET", f"interactions?status=pending&run_id={id_}") for id_ in waiting
            ]
            interactions = [interaction for page in asked for interaction in page.interactions]
            # A run whose question has just been answered is still stored as waiting.
            if run.state not in UNDER_WAY or interactions or time.monotonic() >= until:
                break
            if (now := time.monotonic()) >= report_at:
                report_at = now + _REPORT_S
                await self.awaited.report(now - start, wait_s, _progress(run, await self._parts(run)))
            await asyncio.sleep(_POLL_S)
        runs = [replace(each, worktree=worktree_of(each.workdir)) for each in await self._parts(run)]
        return replace(run, worktree=worktree_of(run.workdir), runs=runs, interactions=interactions)

    async def _parts(self, run: Run) -> list[AgentRun]:
        return [await self.call(AgentRun, "GET", f"runs/{each.id}") for each in run.runs]

    async def stop(self) -> None:
        """Cancel the run that the call waits for. The run may have ended meanwhile."""
        if self.awaited.id:
            with suppress(ClinvkError):
                await self.call(AgentRun, "POST", f"runs/{quote(self.awaited.id, safe='')}/cancel")


def _progress(run: Run, parts: Sequence[AgentRun]) -> str:
    """Return what a run, or each of its parts, does."""
    doing = [f"{part.backend}: {part.activity or part.state}" for part in parts] or filter(None, [run.activity])
    return "; ".join((f"run {run.id[:8]} is {run.state}", *doing))


async def run_agent(api: RestApi, arguments: AgentTask) -> Run:
    """Run a prompt with another coding agent, which works in a directory of this machine.

    Returns the run with the answer in `output`, or after wait_secs without: then call wait_run. To continue the
    conversation, call again with its session_id.
    """
    if arguments.session_id:
        return await api.start("prompt", arguments, {})
    backend, workdir = arguments.backend or api.backend, arguments.workdir or api.workdir
    return await api.start("prompt", arguments, {"backend": backend, "workdir": workdir})


async def compare(api: RestApi, arguments: ComparedTask) -> Run:
    """Run one prompt with several coding agents at the same time.

    Returns the answers in `runs` and the verdict of the judge in `output`, or after wait_secs what there is: then call
    wait_run.
    """
    judge = {"backend": arguments.judge} if arguments.judge else None
    return await api.start("compare", arguments, {"judge": judge, "workdir": arguments.workdir or api.workdir})


async def get_run(api: RestApi, arguments: RunId) -> Run:
    """Show a run: state, answer and pending interactions."""
    return await api.wait(arguments.run_id)


async def wait_run(api: RestApi, arguments: Waiting) -> Run:
    """Wait until a run has ended or asks something, or for wait_secs; call again while it is queued or running."""
    return await api.wait(arguments.run_id, arguments.wait_secs)


async def cancel_run(api: RestApi, arguments: RunId) -> Run:
    """Stop a run with all of its agents, and wait until they have exited."""
    run = await api.call(AgentRun, "POST", f"runs/{quote(arguments.run_id, safe='')}/cancel")
    return await api.wait(run.id)


async def answer(api: RestApi, arguments: Answer) -> InteractionView:
    """Answer the approval or question of a waiting run. Ask your user first: the answer counts as the user's."""
    body: dict[str, object] = msgspec.to_builtins(arguments)
    id_ = quote(str(body.pop("interaction_id")), safe="")
    return await api.call(InteractionView, "POST", f"interactions/{id_}/answer", body)


async def diff(api: RestApi, arguments: WorktreeId) -> WorktreeDiff:
    """Show the changes that an agent has made in a worktree."""
    return await api.call(WorktreeDiff, "GET", f"worktrees/{quote(arguments.worktree, safe='')}")


async def apply(api: RestApi, arguments: WorktreeId) -> WorktreeApplied:
    """Apply the changes of a worktree to the original directory, uncommitted, and remove the worktree."""
    return await api.call(WorktreeApplied, "POST", f"worktrees/{quote(arguments.worktree, safe='')}/apply")


async def list_agents(api: RestApi, arguments: Arguments) -> BackendList:
    """List the coding agents of this machine; `name` is the backend of the other tools."""
    return await api.call(BackendList, "GET", "backends")


Tool = Callable[..., Awaitable[msgspec.Struct]]
"""A function of the API and of `arguments`, a struct."""

_Hints = Mapping[str, bool]
_READS: _Hints = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
_CHANGES: _Hints = {**_READS, "readOnlyHint": False, "destructiveHint": True}
_LETS_ACT: _Hints = {**_CHANGES, "openWorldHint": True}
_STARTS: _Hints = {**_LETS_ACT, "idempotentHint": False}

_TOOLS: tuple[tuple[Tool, str, _Hints], ...] = (
    (run_agent, "Run an agent", _STARTS),
    (compare, "Compare agents", _STARTS),
    (get_run, "Show a run", _READS),
    (wait_run, "Wait for a run", _READS),
    (cancel_run, "Cancel a run", _CHANGES),
    (answer, "Answer a waiting agent", _LETS_ACT),
    (diff, "Show changes", _READS),
    (apply, "Apply changes", _CHANGES),
    (list_agents, "List agents", _READS),
)
TOOLS: Mapping[str, Tool] = {tool.__name__: tool for tool, _, _ in _TOOLS}
ANNOTATIONS = {tool.__name__: {"title": title, **hints} for tool, title, hints in _TOOLS}
