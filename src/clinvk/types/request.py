"""The request for a run: every API and every command produces a `RunRequest`."""

import re
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from functools import cache
from typing import Annotated

import msgspec
from msgspec import Meta

from clinvk.types.choices import ApprovalMode, Isolation, OnBudget, OnBusy, OnLimit, SandboxMode
from clinvk.types.errors import InvalidRequest

MAX_STOPS = 16
"""Maximum number of texts in `stop`: each piece of the answer is searched for each of them on the event loop."""

MAX_STOP_CHARS = 100
"""Maximum length of a text in `stop`. At both limits the worst piece of 64 KiB takes 4 ms, of 2 MB 100 ms."""

StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
StopTexts = Annotated[tuple[StopText, ...], Meta(max_length=MAX_STOPS)]

Dollars = Annotated[float, Meta(ge=0, le=1_000_000)]

_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile("[ -~]{1,512}")

MAX_NAME_CHARS = 1000
"""Maximum length of a name, such as a model name: every event repeats names."""


class Image(msgspec.Struct, frozen=True):
    """An image of a prompt: its bytes and media type, e.g. `image/png`."""

    media_type: str
    data: bytes


class ClientTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that the client of the request executes.

    Attributes:
        schema: JSON Schema of the arguments, an object.
        namespace: the client's group of the tool, with which `name` begins; empty for a tool of no group.
        is_strict: whether the client gets only calls whose arguments match the schema.
    """

    name: str
    description: str = ""
    schema: dict[str, object] = {}
    namespace: str = ""
    is_strict: bool = False


class ToolOutput(msgspec.Struct, frozen=True):
    """The result of a client tool for the `ToolCall` with the id `call_id`: texts and images, in order."""

    call_id: str
    content: tuple[str | Image, ...]
    is_error: bool = False


class NamedValue(msgspec.Struct, frozen=True):
    """A header or an environment variable."""

    name: str
    value: str


class McpServer(msgspec.Struct, frozen=True):
    """An MCP server that the client names, as the Agent Client Protocol describes servers.

    A server of type `http` has `url` and `headers`. Otherwise the server is a program, which the agent starts.
    """

    name: str
    type: str = "stdio"
    url: str = ""
    headers: tuple[NamedValue, ...] = ()
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[NamedValue, ...] = ()


class PartPosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """The place of a run in an orchestration.

    Attributes:
        run_id: the run of the whole orchestration.
        index: the number of the part, from 0.
        base: the original directory if `workdir` is a git worktree of its repository, else empty.
    """

    run_id: str
    index: int
    name: str = ""
    base: str = ""


class Placement(msgspec.Struct, frozen=True):
    """The node that a request asks for: its name, if any, and the labels that it must have."""

    node: str = ""
    labels: frozenset[str] = frozenset()

    def with_headers(self, headers: Mapping[str, str]) -> "Placement":
        """Add what the headers of the request ask for.

        Raises:
            InvalidRequest: body and header name different nodes.
        """
        node = headers.get("x-clinvk-node", "")
        if node and self.node and node != self.node:
            raise InvalidRequest(f"node is {self.node!r}, but the header x-clinvk-node is {node!r}", "node")
        labels = {label.strip() for label in headers.get("x-clinvk-labels", "").split(",")} - {""}
        return Placement(self.node or node, self.labels | labels)

    def check(self, node: str, labels: Collection[str]) -> None:
        """Raise `InvalidRequest` unless a node has the name and all labels of this placement."""
        if self.node and self.node != node:
            name = f"is node {node!r}" if node else "is no node of a cluster"
            raise InvalidRequest(f"node {self.node!r} cannot be reached here: this machine {name}", "node")
        if missing := self.labels.difference(labels):
            raise InvalidRequest(f"labels that this machine lacks: {', '.join(sorted(missing))}", "labels")


class FailedAgent(msgspec.Struct, frozen=True):
    """An agent that could not take a prompt, which another agent then took."""

    backend: str
    error: str
    error_code: Annotated[str, Meta(description="The code of the error, e.g. agent_rate_limited.")]


class Group(Enum):
    """A group of the fields of `RunRequest`: the annotation of a field names its groups.

    A field without a group is an option of the agent: a prompt that steers a run has the same value, and the record
    of the run lists the option.
    """

    TURN = 1
    """The field says nothing about how the agent works in a session."""
    TEXT = 2
    """The field may contain user text besides the prompt, and is not stored for an ephemeral run."""
    UNLISTED = 3
    """The options of the record omit the field: it has a column of its own or another form, or is not stored."""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt for one agent.

    None means unspecified: the settings decide, then the agent's CLI.

    Attributes:
        backend: name of an agent CLI in the registry; empty until admission sets the name.
        model: a model name of the CLI, or one of the aliases fast/quick, balanced/default, best/powerful.
        fallback: what other agents get, in order, if an agent cannot take the prompt of a new conversation, or of any
            with `continue_with`: requests with the options of an agent only. None leaves the choice to the settings.
        fell_back: the agents before this one, set by the runtime.
        continue_with: whether `backend`, or an agent of `fallback`, may continue a session of another agent.
        on_limit: whether a run in the background waits for the reset of a limit if no agent can take the prompt before.
        session_id: the clinvk session to continue; None starts a new session.
        new_session_id: the id of the new session; empty chooses an id. A stored session with this id begins again, with
            a new conversation of the agent.
        on_busy: what happens if the session has a run in progress: `reject` raises `SessionBusy`, `queue` waits for its
            end, `steer` interrupts the run and is the next turn, unless `LocalRuns.steer` adds the prompt to its turn.
        workdir: absolute path of an existing directory.
        isolation: whether a new session gets a git worktree of the repository of `workdir`, in which it stays.
        add_dirs: absolute paths that the agent may use besides `workdir`.
        approval_mode: default, auto (edit without asking), none (act without asking) or always (ask for everything).
        rules_only: with approval mode `ask`, actions that no rule of the settings allows are denied: nobody is asked.
        sandbox_mode: default, read-only, workspace (write in `workdir` and `add_dirs` only) or full.
        allowed_tools: the agent's tool names; None allows all tools.
        client_tools: the tools that the client executes.
        own_tools: whether the agent has its own tools besides `client_tools`.
        mcp_servers: further MCP servers for the agent, of an editor on this machine. Not stored, because headers and
            variables may be secrets.
        max_turns: maximum number of model requests; 0 and None mean no limit.
        max_total_tokens: maximum number of input and output tokens of the run; 0 and None mean no limit.
        max_cost_usd: maximum cost of the run; 0 and None mean no limit.
        on_budget: whether a run that has reached `max_total_tokens` or `max_cost_usd` stops, or asks to continue.
        max_tokens: advice; no agent CLI has such a limit.
        effort: how hard to think, one of `EFFORTS`; a CLI gets the nearest supported effort.
        thinking: the caller wants the model's thinking.
        literal: the prompt is data: a leading `/` is not a CLI command, and `@path` reads no file.
        stop: the answer is cut before the first of these texts.
        output_schema: JSON Schema of the answer.
        extra: flags for the CLI, one argument each.
        timeout_s: seconds from the agent's start; waiting in the queue does not count.
        ephemeral: neither clinvk nor the CLI keeps a record of the conversation.
        warm: a process that was started ahead of the request may serve the run.
        notify: names of notification targets; None leaves the choice to the API key, then to the settings.
        verbose: the agent's stderr lines become `Progress` events of stage `stderr`.
        part: the place in an orchestration.
        answer_as: data from which the dialect rebuilds the answer and finds the conversation; stored with the run only.
        key_name: the API key of the request; empty if no key was required.
        client: owner of the place in the queue: key, else address; empty for this machine's user. Not stored.
        depth: the number of nested agents around the client; 0 for a person. Not stored.
        trace: the trace context of the caller, as `trace_context` returns it. Not stored.
    """

    prompt: Annotated[str, Group.TURN, Group.UNLISTED] = ""
    images: Annotated[tuple[Image, ...], Group.TURN, Group.UNLISTED] = ()
    backend: Annotated[str, Group.UNLISTED] = ""
    model: Annotated[str | None, Group.UNLISTED] = None
    system_prompt: Annotated[str | None, Group.TEXT] = None
    fallback: Annotated["tuple[RunRequest, ...] | None", Group.TURN, Group.UNLISTED] = None
    fell_back: Annotated[tuple[FailedAgent, ...], Group.TURN] = ()
    continue_with: Annotated[bool, Group.TURN] = False
    on_limit: Annotated[OnLimit, Group.TURN] = "fail"
    session_id: Annotated[str | None, Group.TURN] = None
    new_session_id: Annotated[str, Group.TURN, Group.UNLISTED] = ""
    on_busy: Annotated[OnBusy, Group.TURN] = "reject"
    workdir: Annotated[str | None, Group.TURN, Group.UNLISTED] = None
    isolation: Annotated[Isolation, Group.TURN] = "none"
    add_dirs: tuple[str, ...] = ()
    approval_mode: ApprovalMode | None = None
    rules_only: Annotated[bool, Group.UNLISTED] = False
    sandbox_mode: SandboxMode | None = None
    allowed_tools: tuple[str, ...] | None = None
    client_tools: tuple[ClientTool, ...] = ()
    own_tools: bool = True
    mcp_servers: Annotated[tuple[McpServer, ...], Group.UNLISTED] = ()
    max_turns: int | None = None
    max_total_tokens: int | None = None
    max_cost_usd: float | None = None
    on_budget: OnBudget = "stop"
    max_tokens: int | None = None
    effort: str | None = None
    thinking: bool = False
    literal: bool = False
    stop: Annotated[tuple[str, ...], Group.TEXT] = ()
    output_schema: Annotated[dict[str, object] | None, Group.TEXT] = None
    extra: Annotated[tuple[str, ...], Group.TEXT] = ()  # a flag can be a system prompt too
    timeout_s: float | None = None
    ephemeral: bool = False
    warm: Annotated[bool, Group.TURN] = True
    notify: tuple[str, ...] | None = None
    verbose: bool = False
    tags: Annotated[tuple[str, ...], Group.TURN] = ()
    metadata: Annotated[dict[str, object], Group.TURN] = {}
    part: PartPosition | None = None
    answer_as: Annotated[dict[str, object], Group.TEXT] = {}
    key_name: Annotated[str, Group.UNLISTED] = ""
    client: Annotated[str, Group.TURN, Group.UNLISTED] = ""
    depth: Annotated[int, Group.TURN, Group.UNLISTED] = 0
    trace: Annotated[dict[str, str], Group.TURN, Group.UNLISTED] = {}

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that may run the request, in order of preference."""
        return (self.backend, *(each.backend for each in self.fallback or ()))

    def without(self, *groups: Group) -> "RunRequest":
        """Return the request with the defaults of all fields of the groups."""
        return RunRequest(**{name: getattr(self, name) for name in _fields_without(groups)})


@cache
def _fields_without(groups: tuple[Group, ...]) -> list[str]:
    fields = RunRequest.__annotations__.items()
    return [name for name, type_ in fields if not {*groups}.intersection(getattr(type_, "__metadata__", ()))]


def trace_context(carrier: Mapping[str, object]) -> dict[str, str]:
    """Return the valid W3C trace context (https://www.w3.org/TR/trace-context/) of headers or of other metadata.

    The only flag left is `sampled`, the only flag of version 00: Codex ignores a trace with other flags.
    """
    parent, state = str(carrier.get("traceparent", "")), str(carrier.get("tracestate", ""))
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    parent = f"{parent[:-2]}0{int(parent[-2:], 16) & 1}"
    return {"traceparent": parent, **({"tracestate": state} if _TRACESTATE.fullmatch(state) else {})}


def fallback_of(names: Iterable[str]) -> tuple[RunRequest, ...]:
    """Return the `fallback` for agents, each named as `codex` or, with a model, as `codex/gpt-5`."""
    parts = (name.strip().partition("/") for name in names)
    return tuple(RunRequest(prompt="", backend=backend, model=model or None) for backend, _, model in parts)
