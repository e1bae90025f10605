"""The flags of each command: one field declares a flag for the parser, the help and the shell completion.

The name of the field is the name of the flag, and the type says what the flag takes: a bool is a switch, a `Literal`
is a choice, a sequence may be repeated. `Flag` adds the rest. The classes are not msgspec structs, since the import of
msgspec would take a third of the time of `clinvk --help`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from clinvk.cli.parse.flag import Fields, Flag, completed, number, whole
from clinvk.types.choices import (
    ApprovalMode,
    Effort,
    Isolation,
    OnBudget,
    OnBusy,
    OnLimit,
    OutputFormat,
    RunState,
    SandboxMode,
    SessionStatus,
    state_word,
)

ExportFormat = Literal["json", "markdown"]


_usd = number("of dollars, 0 or more", lambda number: number >= 0)
_seconds = number("of seconds, 0 or more", lambda number: number >= 0)
_amount = number("above 0", lambda number: number > 0)


def _port(text: str) -> Flag:
    return Flag(text, "N", "-p", whole(most=65535))


def _words(states: object) -> str:
    return ", ".join(map(state_word, get_args(states)))


_PROMPT_HEADING = "flags for a prompt"
_SERVER_HEADING = "flags"

_Here = Annotated[bool, Flag("only those of this directory")]
_Limit = Annotated[int, Flag("at most N, the newest (default: 20; 0: all)", "N", "-n", whole())]
_Age = "12h, 30d, 2w, or days"
_Detach = Annotated[bool, Flag("run in the background, through the server of this home")]
_NoServer = Annotated[bool, Flag("start the agent here, even if a clinvk serve has one ready")]


class Flags(Fields):
    """The common flags, which every command accepts, and `words`: the arguments that are not flags."""

    heading: ClassVar[str] = "flags"
    words: tuple[str, ...] = ()
    backend: Annotated[str | None, Flag("agent, one of clinvk backends", "NAME", "-b")] = None
    model: Annotated[str | None, Flag("a model of the agent, or fast, balanced, best", short="-m")] = None
    workdir: Annotated[str | None, Flag("directory the agent works in (default: here)", "DIR", "-w")] = None
    output_format: Annotated[
        OutputFormat | None, Flag("text (default on a terminal), json, stream-json", "FMT", "-o")
    ] = None
    config: Annotated[str | None, Flag("settings file (default: ~/.clinvk/config.yaml)", "FILE")] = None
    dry_run: Annotated[bool, Flag("show what would be done, and do nothing")] = False
    ephemeral: Annotated[bool, Flag("keep no record of the conversation")] = False
    help: Annotated[bool, Flag("show help", short="-h")] = False

    def with_words(self, words: Sequence[str]) -> Self:
        """Return the flags with other arguments."""
        fields: dict[str, Any] = {**vars(self), "words": tuple(words)}
        return type(self)(**fields)


class RunFlags(Flags):
    """The flags of a prompt, whether it starts or resumes a conversation."""

    heading: ClassVar[str] = _PROMPT_HEADING
    approval_mode: Annotated[ApprovalMode | None, Flag("when to ask: default, auto, ask, none, always", "MODE")] = None
    sandbox_mode: Annotated[SandboxMode | None, Flag("may write: default, read-only, workspace, full", "MODE")] = None
    allowed_tools: Annotated[Sequence[str] | None, Flag("only these tools, by the agent's names", "A,B")] = None
    add_dir: Annotated[Sequence[str], Flag("one more directory it may use (repeatable)", "DIR")] = ()
    image: Annotated[Sequence[str], Flag("picture to send with the prompt (repeatable)", "FILE")] = ()
    output_schema: Annotated[str | None, Flag("JSON Schema that the answer must match", "FILE")] = None
    effort: Annotated[Effort | None, Flag("how hard to think: none, minimal, low, … max", "LEVEL")] = None
    system_prompt: Annotated[str | None, Flag("instructions before the prompt", "TEXT")] = None
    max_turns: Annotated[int | None, Flag("at most N requests to the model (0: no limit)", "N", read=whole())] = None
    max_total_tokens: Annotated[
        int | None, Flag("at most about N tokens in and out (0: no limit)", "N", read=whole())
    ] = None
    max_cost_usd: Annotated[float | None, Flag("at most about N dollars (0: no limit; claude)", "N", read=_usd)] = None
    on_budget: Annotated[
        OnBudget | None,
        Flag("at such a limit: stop (the default), or ask whether to continue with as much again", "HOW"),
    ] = None
    timeout: Annotated[float | None, Flag("time limit for the run, in seconds (0: none)", "SECS", read=_seconds)] = None
    notify: Annotated[Sequence[str], Flag("notify a target of the settings (repeatable)", "TARGET")] = ()
    no_stdin: Annotated[bool, Flag("do not read stdin")] = False
    detach: _Detach = False
    verbose: Annotated[int, Flag("show tools and edits (-vv: and the agent's stderr)", short="-v")] = 0
    print: Annotated[bool, Flag("accepted as claude and gemini do; changes nothing", short="-p")] = False


class ConversationFlags(RunFlags):
    """The flags of a prompt that belongs to a conversation."""

    on_limit: Annotated[
        OnLimit | None, Flag("with --detach, if the limit is used up: fail (the default), wait", "HOW")
    ] = None
    on_busy: Annotated[OnBusy | None, Flag("if the session is busy: reject (the default), queue, steer", "HOW")] = None
    continue_with: Annotated[
        str | None, Flag("another agent continues the conversation", "NAME", heading="flags for which conversation")
    ] = None
    no_server: _NoServer = False


class PromptFlags(ConversationFlags):
    """The flags of `clinvk PROMPT`."""

    heading: ClassVar[str] = "flags for which conversation"
    continue_: Annotated[bool, Flag("continue the newest conversation (of -b, of -w)", short="-c")] = False
    new: Annotated[bool, Flag("start a new one")] = False
    worktree: Annotated[bool, Flag("start a new one, in its own git worktree")] = False
    fallback: Annotated[
        str | None, Flag("agents for a new one if the agent cannot start", "A,B", heading=_PROMPT_HEADING)
    ] = None
    version: Annotated[bool, Flag("show the version", heading="more")] = False


class ResumeFlags(ConversationFlags):
    """The flags of `resume`."""

    heading: ClassVar[str] = "flags for which conversation"
    last: Annotated[bool, Flag("the newest (of --backend, of -w)")] = False
    here: _Here = False
    interactive: Annotated[bool, Flag("open it in the agent's own program", short="-i")] = False


class WorkerFlags(Flags):
    """The flags of `worker`, and of `serve` in a cluster."""

    heading: ClassVar[str] = "flags for a cluster"
    cluster: Annotated[str | None, Flag("its NATS server (default: cluster.url)", "URL")] = None
    node: Annotated[str | None, Flag("run agents under this name", "NAME")] = None
    labels: Annotated[Sequence[str] | None, Flag("what requests can ask for", "A,B")] = None
    quiet: Annotated[bool, Flag("print only errors", short="-q", heading=_SERVER_HEADING)] = False


class ServeFlags(WorkerFlags):
    """The flags of `serve`."""

    heading: ClassVar[str] = _SERVER_HEADING
    host: Annotated[str | None, Flag("address to listen on (default: server.host, 127.0.0.1)")] = None
    port: Annotated[int | None, _port("port to listen on (default: server.port, 8080)")] = None
    insecure: Annotated[bool, Flag("require no API key, even if others can reach the address")] = False
    verbose: Annotated[bool, Flag("log each request (as log.requests)", short="-v")] = False


class AcpFlags(Flags):
    """The flags of `acp`."""

    server: Annotated[str | None, Flag("use the server at URL, with the key in CLINVK_API_KEY", "URL")] = None


class ClusterUpFlags(Flags):
    """The flags of `cluster up`."""

    port: Annotated[int | None, _port("port of the NATS server (default: 4222)")] = None


class KeyFlags(Flags):
    """The flags of `keys create`."""

    heading: ClassVar[str] = "flags for what the key may do (default: all)"
    backends: Annotated[Sequence[str] | None, Flag("run only these agents", "A,B")] = None
    allow_dir: Annotated[Sequence[str], Flag("work in DIR or below (repeatable)", "DIR")] = ()
    rate: Annotated[float | None, Flag("N requests a second", "N", read=_amount)] = None
    burst: Annotated[int | None, Flag("N requests at once (default: those of a second)", "N", read=whole(1))] = None
    tokens_per_day: Annotated[int | None, Flag("N tokens a day, in and out (UTC)", "N", read=whole(1))] = None
    cost_per_day: Annotated[float | None, Flag("US dollars a day (UTC)", "USD", read=_amount)] = None
    max_runs: Annotated[int | None, Flag("N runs at once; more wait", "N", read=whole(1))] = None
    notify: Annotated[Sequence[str], Flag("notify this target of the settings (repeatable)", "TARGET")] = ()
    right: Annotated[
        Sequence[Literal["answer"]], Flag("answer: also answer the agents of other keys (repeatable)")
    ] = ()
    expires: Annotated[str | None, Flag(f"expire after {_Age} (default: never)", "TIME")] = None


class JsonFlags(Flags):
    """The flags of a command that prints a table or JSON."""

    json: Annotated[bool, Flag("print JSON (same as -o json)")] = False

    @property
    def wants_json(self) -> bool:
        """Whether to print JSON."""
        return self.json or self.output_format == "json"


class ClusterStatusFlags(JsonFlags):
    """The flags of `cluster status`."""

    cluster: Annotated[str | None, Flag("its NATS server (default: cluster.url)", "URL")] = None


class SearchFlags(JsonFlags):
    """The flags of `sessions search`."""

    status: Annotated[SessionStatus | None, Flag(f"only {_words(SessionStatus)}", "STATUS")] = None
    tag: Annotated[str | None, Flag("only those with this tag", "TAG")] = None
    archived: Annotated[bool, Flag("only those in the archive")] = False
    limit: _Limit = 20
    here: _Here = False


class ListFlags(SearchFlags):
    """The flags of `sessions list`."""

    search: Annotated[str | None, Flag("as sessions search", "TEXT")] = None


class ShowFlags(JsonFlags):
    """The flags of `sessions show`."""

    limit: Annotated[int, Flag("at most N turns, the newest (default: 10; 0: all)", "N", "-n", whole())] = 10


class ConfirmedFlags(Flags):
    """The flags of a command that asks for confirmation."""

    yes: Annotated[bool, Flag("do not ask", short="-y")] = False


class DeleteFlags(ConfirmedFlags, JsonFlags):
    """The flags of `sessions delete` and `worktrees discard`."""


class CleanFlags(DeleteFlags):
    """The flags of `sessions clean`."""

    older_than: Annotated[str | None, Flag(f"{_Age} (default: session.retention_days)", "AGE")] = None


class TagFlags(JsonFlags):
    """The flags of `sessions tag`."""

    remove: Annotated[Sequence[str], Flag("remove a tag (repeatable)", "TAG")] = ()


class ExportFlags(JsonFlags):
    """The flags of `sessions export`."""

    format: Annotated[ExportFormat | None, Flag("markdown (the default) or json", "FORMAT")] = None


class RunsFlags(JsonFlags):
    """The flags of `runs list`."""

    state: Annotated[RunState | None, Flag(f"only {_words(RunState)}", "STATE")] = None
    parts: Annotated[bool, Flag("also the parts of parallel, chain and compare")] = False
    limit: _Limit = 20
    here: _Here = False


class ApprovalsFlags(JsonFlags):
    """The flags of `approvals list`."""

    all: Annotated[bool, Flag("also what was asked before")] = False


class AnswerFlags(JsonFlags):
    """The flags of `approvals answer`."""

    reason: Annotated[str | None, Flag("why the action is denied; the agent may read it", "TEXT")] = None
    input: Annotated[str | None, Flag("with allow: the changed input of the tool", "JSON")] = None
    set: Annotated[Sequence[str], Flag("the answer to a field of a question (repeatable)", "FIELD=VALUE")] = ()


class UsageFlags(JsonFlags):
    """The flags of `usage`."""

    by: Annotated[Literal["day", "agent", "key", "model"], Flag("day, agent, key or model", "WHAT")] = "day"
    days: Annotated[int, Flag("the last N days (UTC)", "N", read=whole(1, 36500))] = 30


class OpenFlags(Flags):
    """The flags of `open`."""

    port: Annotated[int | None, _port("port of the server (default: server.port)")] = None


class HelpFlags(Flags):
    """The flags of `help`."""

    open: Annotated[bool, Flag("open the documentation in the browser")] = False


class WorktreesFlags(JsonFlags):
    """The flags of `worktrees list`."""

    here: Annotated[bool, Flag("only those of this repository")] = False


class WorktreeShowFlags(JsonFlags):
    """The flags of `worktrees show`."""

    diff: Annotated[bool, Flag("print only the whole diff: a patch for git apply")] = False


class ApplyFlags(JsonFlags):
    """The flags of `worktrees apply`."""

    keep: Annotated[bool, Flag("do not remove the worktree")] = False


class CommitFlags(JsonFlags):
    """The flags of `worktrees commit`."""

    message: Annotated[str | None, Flag("commit message (default: the agent proposes one)", "TEXT")] = None


class OrchestrationFlags(JsonFlags):
    """The flags that `parallel`, `chain` and `compare` share."""

    quiet: Annotated[bool, Flag("no progress, no answers: the table alone", short="-q")] = False
    no_server: _NoServer = False


class ParallelFlags(OrchestrationFlags):
    """The flags of `parallel`."""

    detach: _Detach = False
    file: Annotated[str | None, Flag("the tasks: JSON, YAML, JSON Lines (default, and -: stdin)", "FILE", "-f")] = None
    max_parallel: Annotated[int | None, Flag("at most N agents at once", "N", read=whole(1))] = None
    fail_fast: Annotated[bool, Flag("cancel the other tasks when one fails")] = False
    isolation: Annotated[Isolation | None, Flag("worktree: each task in its own git worktree", "WHERE")] = None


class ChainFlags(OrchestrationFlags):
    """The flags of `chain`."""

    detach: _Detach = False
    file: Annotated[str | None, Flag("the steps: JSON, YAML, JSON Lines (default, and -: stdin)", "FILE", "-f")] = None
    resume_from: Annotated[str | None, Flag("resume a chain at its first unfinished step", "ID")] = None


class CompareFlags(OrchestrationFlags, RunFlags):
    """The flags of `compare`."""

    heading: ClassVar[str] = "flags"
    backends: Annotated[Sequence[str] | None, Flag("the agents", "A,B")] = None
    all_backends: Annotated[bool, Flag("all agents that are installed and enabled")] = False
    sequential: Annotated[bool, Flag("one after the other")] = False
    isolation: Annotated[Isolation | None, Flag("worktree: each agent in its own git worktree", "WHERE")] = None
    diff: Annotated[bool, Flag("show the changes of each agent, or how answers differ")] = False
    check: Annotated[str | None, Flag("shell command to run in each worktree; 0 passes", "CMD")] = None
    judge: Annotated[str | None, Flag("one more agent, which names the best answer", "NAME")] = None
    judge_prompt: Annotated[str | None, Flag("what else the judge looks for", "TEXT")] = None


def flags_of(kind: type[Flags], common: Mapping[str, str]) -> Iterator[Flag]:
    """Yield the flags of a class, its own before the inherited ones. `common` is that of the command."""
    for owner in kind.__mro__:
        if issubclass(owner, Flags):
            for field, annotation in owner.__annotations__.items():
                if get_origin(annotation) is Annotated:
                    type_, flag = get_args(annotation)
                    if owner is Flags and field != "help":
                        flag = flag._replace(help=common[field] or flag.help if field in common else "")
                    yield completed(flag, field, type_, "common flags" if owner is Flags else owner.heading)
