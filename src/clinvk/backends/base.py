"""The interface between clinvk and an agent CLI: a pure `Backend`, and a sans-IO `Channel` for each process.

`clinvk.plugin` exports the interface to plug-ins, with the promise that holds for it.
"""

import shlex
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from signal import SIGTERM
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.errors import NotResumable
from clinvk.types.events import Event, Usage
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import LimitWindow, Resume
from clinvk.types.request import ClientTool, RunRequest, ToolOutput
from clinvk.types.text import last_line

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

API_VERSION = 1
"""The version of the interface for plug-ins. A change that breaks plug-ins increases the number."""

PRIVATE = "\0private\0"
"""Placeholder in `argv`, `wrapper`, `env` and `session_params` for the path of the launch's private folder.

Runtime fills in the path.
"""

HELD = "\0held\0"
"""The beginning of a word of `wrapper` that is followed by the path of a directory, without symbolic links.

Runtime opens the directory and replaces the word by the number of the descriptor, which the process inherits. The
process does not start if the path leads elsewhere by then.
"""

MAX_RUNS = 100
"""Default number of runs that a kept process serves before it is retired."""


class SteerReply(msgspec.Struct, frozen=True):
    """Whether the agent has received the prompt of the oldest open `Channel.steer`."""

    is_accepted: bool


Report = Event | Usage | LimitWindow | SteerReply
"""An event of a run, the tokens of the run so far, the state of a limit of the user's account, or a reply."""

Delivery = tuple[str, Report] | bytes
"""A channel's output: the run and a report of the run, or bytes to write to the process's stdin."""


class Host(msgspec.Struct, frozen=True):
    """The facts about the machine that a backend may use.

    Attributes:
        is_root: whether clinvk runs as root.
        commands: the helper programs found on PATH.
        env: the agent's environment.
        read: returns the bytes of one of the user's files, or None if the file does not exist; `~` is the home.
        read_range: returns up to `size` bytes from byte `start` on, or None if the path is not a plain file.
        find: returns the absolute paths of the files in a folder that match a pattern such as `*/x-*.json`, largest
            first.
        models: the output of the backend's `list_models`; empty before a launch needs it.
        tool_bridge: the command that connects its stdin and stdout to the Unix socket that its last argument names.
        resolve: returns the absolute path with symbolic links resolved; "" resolves to clinvk's working directory.
    """

    is_root: bool = False
    commands: frozenset[str] = frozenset()
    env: Mapping[str, str] = {}
    read: Callable[[str], bytes | None] = lambda _path: None
    read_range: Callable[[str, int, int], bytes | None] = lambda _path, _start, _size: None
    find: Callable[[str, str], Sequence[str]] = lambda _folder, _pattern: ()
    models: bytes = b""
    tool_bridge: tuple[str, ...] = ()
    resolve: Callable[[str], str] = str


class ProtocolNotSupported(Exception):
    """A process does not speak its channel's protocol. The process got no prompt."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The options that a backend can honour. Modes that are not listed are refused."""

    approval_modes: tuple[str, ...] = ("default",)
    sandbox_modes: tuple[str, ...] = ("default",)
    allowed_tools: bool = False
    add_dirs: bool = False
    streaming: bool = True
    resume: bool = False
    fork: bool = False
    client_tools: bool = False
    steer: bool = False
    mcp_servers: bool = False


ALL_CAPABILITIES = Capabilities(
    approval_modes=APPROVAL_MODES,
    sandbox_modes=SANDBOX_MODES,
    allowed_tools=True,
    add_dirs=True,
    resume=True,
    fork=True,
    client_tools=True,
    mcp_servers=True,
)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start an agent process for one run.

    Five fields are essential. The others serve agents that stay warm, or need more than a command line.

    Attributes:
        argv: the command line; the first entry is the backend's `executable`, which runtime replaces with the path.
        cwd: the absolute working directory; None is clinvk's working directory.
        env: variables added to the environment that the agent inherits; they override the user's values.
        files: files written to a private folder (`PRIVATE`) before the start and removed after the end; a name may be
            a path.
        long_lived: stdin stays open until the run has ended.

        wrapper: the command before `argv`, which runs the process in a sandbox.
        links: symbolic links in the private folder with their targets; `~` in a target is the home. If a link's name
            ends in `/`, the target is a folder and is created if missing.
        session_params: conversation settings that the process receives before the prompt.
        stop_signal: the signal on which this CLI stops and cleans up.
        stops_tools_first: stop the tools before the CLI, because the CLI would kill the tools without letting them
            clean up.
        client_tools: the tools that the process offers to the model in the client's name.
        tool_socket: the name of a Unix socket in the private folder, whose lines go to `Channel.receive_tool_message`;
            the CLI starts `Host.tool_bridge`, which connects to the socket. Not for a kept process.
        max_turns: the number of model requests after which clinvk ends the run, if the CLI has no such flag.
        retries_schema: if the answer does not fit the schema, ask again in the same conversation, with a process that
            shares this launch's private folder.
        warm: the launch for a kept process that carries the run; None if a kept process must not. Processes with an
            equal `warm`, apart from `resume_args`, are interchangeable.
        resume_args: the arguments that name the conversation to resume.
        reads: files that the process reads when it starts; a process that read older versions is retired. `F/` is a
            folder: if the folder is missing, the names within it that follow are skipped. `F/*.md` matches files in
            F and in its direct subfolders; `F/*/NAME` matches files in the direct subfolders.
        conversation_reads: files that are read only at the beginning of a conversation, named as in `reads`; a change
            does not affect conversations that have begun.
        resumes: the conversations that a kept process can resume: `held` are those of its earlier runs, `named` adds
            the conversation named by its arguments.
        max_runs: the number of runs after which a kept process is retired, because each run leaves some memory used.
        ping: bytes that a kept process answers immediately, even during a run; empty if the CLI has no such request.
        asks: the process asks its user for approval.
        secret_args: arguments that may hold secrets; a dry run shows only the flags' names.
    """

    argv: tuple[str, ...]
    cwd: str | None = None
    env: dict[str, str] = {}
    files: dict[str, bytes] = {}
    long_lived: bool = False

    wrapper: tuple[str, ...] = ()
    links: dict[str, str] = {}
    session_params: dict[str, object] = {}
    stop_signal: int = SIGTERM
    stops_tools_first: bool = False
    client_tools: tuple[ClientTool, ...] = ()
    tool_socket: str = ""
    max_turns: int | None = None
    retries_schema: bool = False
    warm: "Launch | None" = None
    resume_args: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    conversation_reads: tuple[str, ...] = ()
    resumes: Literal["held", "named", "any"] = "any"
    max_runs: int = MAX_RUNS
    ping: bytes = b""
    asks: bool = False
    secret_args: tuple[str, ...] = ()

    @property
    def needs_its_process(self) -> bool:
        """Whether only the process that began a conversation can continue the conversation: an own process cannot."""
        return self.asks and self.warm is not None and self.warm.resumes == "held"


class Channel(Protocol):
    """The protocol with one agent process, as a state machine without I/O.

    `capacity` is the number of concurrent runs. The defaults are those of a process for a single run, which holds no
    conversation locks.
    """

    capacity: int = 1

    def greet(self) -> bytes:
        """Return the bytes that prepare a process before its first run; empty if the process serves a single run."""
        return b""

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Start a run and return the bytes to write to the process's stdin."""
        ...

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Parse one line of stdout, without its newline. Noise and unknown types deliver nothing.

        The ending of a run may be delivered before its process exits.

        Raises:
            ProtocolNotSupported: the process does not speak the protocol. `closed` may raise this too. Neither raises
                after the first delivery.
        """
        ...

    def receive_tool_message(self, line: bytes) -> Iterable[Delivery]:
        """Parse one line of the launch's `tool_socket`; bytes are written to the socket.

        All lines that the process printed before the message were received before.
        """
        return ()

    def interrupt(self, run: str) -> bytes | None:
        """Return the bytes that stop a run, even before its turn begins; None if the process must be signalled."""
        return None

    def steer(self, run: str, request: RunRequest) -> bytes | None:
        """Return the bytes that add a prompt to the turn of a run; None if the agent cannot receive a prompt now.

        A `SteerReply` follows, unless the run ends before. The options of `request` are those of the run.
        """
        return None

    def answer(self, run: str, output: ToolOutput) -> bytes:
        """Return the bytes that give the agent the output of a client tool, for a launch with `client_tools`.

        The bytes are written to the launch's `tool_socket`, or to stdin if the launch has none.
        """
        return b""

    def resolve(self, run: str, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the bytes that answer an interaction of a run; `request_id` is the id that the channel gave it.

        An expired interaction is answered with `deny`. The runtime stops the run after `deny_and_stop`.
        """
        return b""

    def login_hint(self) -> str:
        """Return how to log in, as far as the process has reported; empty if the protocol does not say so."""
        return ""

    def tool_variable(self, run: str) -> tuple[str, str] | None:
        """Return the variable (name, value) in the environment of a run's tools; None if an interrupt ends them."""
        return None

    def release_session(self, conversation: str) -> bytes | None:
        """Return the bytes that make the process release an idle conversation on which the process holds a lock.

        Return None if the process holds no lock on the conversation, and no bytes while the release is in progress.
        """
        return None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Return the endings of the runs that are still open after the process has exited.

        After a signal, `exit_code` is 128 plus the signal number. `stderr` is the tail.
        """
        ...

    def stderr_message(self, stderr: bytes) -> str:
        """Return the line of stderr that best describes the agent's problem; empty if stderr holds only noise."""
        return last_line(stderr.decode(errors="replace"))


class Backend(Protocol):
    """An agent CLI as pure functions from a request to the process to run.

    A subclass needs `name`, `executable`, `install`, `launch` and `channel`. The runtime refuses options that
    `capabilities` lack, and NUL characters in arguments.

    Attributes:
        api_version: the `API_VERSION` for which a plug-in was written.
        install: the command that installs the CLI.
        error: why the backend cannot be used on this machine; empty if it can.
        vendor: the provider of the models, as named by OpenTelemetry (`gen_ai.provider.name`).
        models: model names known to work, best known first.
        aliases: the model for each of clinvk's aliases (`fast`, `best`, …); None leaves the choice to the CLI.
        keeps_system_prompt: a conversation remembers the system prompt; otherwise each turn must repeat the prompt.
        safe_flags: the CLI flags that any client may send, with the pattern of the whole value; None means no value.
        list_models: the arguments of the CLI that list its models; empty unless a launch with client tools needs them.
        folders: where the CLI keeps logins and settings, as paths that begin with `~` or a variable (`$CODEX_HOME`).
    """

    name: str
    executable: str
    install: str
    api_version: int = 0
    error: str = ""
    vendor: str = ""
    models: tuple[str, ...] = ()
    aliases: Mapping[str, str | None] = {}
    capabilities: Capabilities = Capabilities()
    keeps_system_prompt: bool = False
    safe_flags: Mapping[str, str | None] = {}
    list_models: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @abstractmethod
    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return how to start the CLI for this request.

        Raises:
            Unsupported: the CLI cannot honour an option that must not be weakened; the message names the alternatives.
            InvalidRequest: an option is malformed, or an `extra` flag would override what clinvk sets.
        """

    @abstractmethod
    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the state machine for one process of this launch; `host.env` is the environment of the process."""

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Return the command that opens the conversation in the CLI's interactive terminal program.

        Raises:
            NotResumable: the handle is not a conversation id, or clinvk cannot open conversations in the program.
        """
        raise NotResumable(f"clinvk cannot open a conversation in {self.name}'s own program; continue it with a prompt")

    def claims_model(self, model: str) -> bool:
        """Return whether a model name belongs to this backend."""
        return False

    def record_files(self, handle: str, host: Host) -> Sequence[str]:
        """Return the files in which the CLI records a conversation; the files change with every turn."""
        return ()

    def checkup(self, host: Host) -> "Checkup":
        """Return the checks that show whether the installed CLI can be used."""
        from clinvk.backends.checkup_base import Checkup, LoginStatus  # imported here to keep prompts fast

        return Checkup(empty_home={}, probes=(), login=LoginStatus(None, "login not known"))


def new_worktree_note(request: RunRequest) -> str:
    """Return the line about the worktree that a dry run does not make."""
    return f"# for {request.workdir or 'the directory'}: the same directory in a new git worktree, as HEAD has it"


def describe(launch: Launch, request: RunRequest) -> str:
    """Render a launch for a dry run: the shell-quoted command, then how the prompt is passed.

    Private files appear by name and size only, because some hold the user's settings.
    """

    def shown(text: str) -> str:
        if text in launch.secret_args:
            name, joined, _ = text.partition("=")
            text = f"{name}{joined and '=...'}" if name.startswith("-") else "..."
        return text.removeprefix(HELD).replace(PRIVATE, "$PRIVATE")

    command = " ".join(
        [*(f"{name}={shlex.quote(shown(value))}" for name, value in launch.env.items())]
        + [shlex.quote(shown(argument)) for argument in (*launch.wrapper, *launch.argv)]
    )
    lines = [f"cd {shlex.quote(launch.cwd)} && {command}" if launch.cwd else command]
    if launch.session_params:
        lines.append(f"# opening on stdin: {msgspec.json.encode(launch.session_params).decode()}")
    lines.append(f"# prompt: {len(request.prompt.encode())} bytes on stdin")
    lines += [f"# $PRIVATE/{name}: {len(data)} bytes" for name, data in launch.files.items()]
    lines += [f"# $PRIVATE/{name} -> {target}" for name, target in launch.links.items()]
    if request.isolation == "worktree" and not request.session_id:
        lines.append(new_worktree_note(request))
    return "\n".join(lines)
