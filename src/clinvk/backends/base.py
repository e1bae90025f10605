"""What an agent CLI looks like to clinvk: a pure `Backend`, and a sans-IO `Channel` for each of its processes."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from signal import SIGTERM
from typing import Literal, Protocol, TypeVar

import msgspec

from clinvk.policy.rules import Flags
from clinvk.types.errors import AgentCrashed, InvalidRequest, NotResumable
from clinvk.types.events import Event, RunFailed, TextDelta
from clinvk.types.prompt_xml import element, unused
from clinvk.types.request import APPROVAL_MODES, EFFORTS, SANDBOX_MODES, Image, RunRequest
from clinvk.types.session import Resume

PRIVATE = "\0private\0"
"""Stands for the path of the launch's private folder in `argv` and `env`, until runtime has made it."""

MOST_RUNS = 100
"""So many runs a kept process serves, if nothing speaks against it."""

_UNFIT = re.compile(r"\W")
_CONVERSATION = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SURROGATE = re.compile(
    rb"\\(?:\\(?:\\\\)*|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2}))"
)
"""Half of a surrogate pair; or escaped backslashes or a whole pair, which are passed over."""

Told = TypeVar("Told")

Delivery = tuple[str, Event] | bytes
"""What a channel gives: an event of a run, or bytes to write to the process's stdin."""


def _no_file(path: str) -> bytes | None:
    return None


def _no_part(path: str, start: int, size: int) -> bytes | None:
    return None


def _no_files(folder: str, pattern: str) -> Sequence[str]:
    return ()


class Host(msgspec.Struct, frozen=True):
    """What a backend may know of the machine: who we are, helper programs on PATH, the agent's environment.

    `read` gives the bytes of a file of the user's, None where there is none; `~` is the home.
    `part` gives at most so many bytes from a byte on, and None for what is no plain file, such as a device.
    `find` gives the absolute paths of the files in a folder that match a pattern such as `*/x-*.json`, largest first.
    `resolve` gives the absolute path of a path without its symbolic links; of "" it is clinvk's own directory.
    """

    is_root: bool = False
    commands: frozenset[str] = frozenset()
    env: Mapping[str, str] = {}
    read: Callable[[str], bytes | None] = _no_file
    part: Callable[[str, int, int], bytes | None] = _no_part
    find: Callable[[str, str], Sequence[str]] = _no_files
    resolve: Callable[[str], str] = str


class NotSpoken(Exception):
    """A process does not speak the protocol of its channel, and was asked nothing: the run can go another way."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend can honour; the words that are missing are refused."""

    approval_modes: tuple[str, ...] = APPROVAL_MODES
    sandbox_modes: tuple[str, ...] = SANDBOX_MODES
    allowed_tools: bool = True
    add_dirs: bool = True
    streaming: bool = True
    resume: bool = True
    fork: bool = True


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start an agent process, for one run.

    Attributes:
        argv: the first is the backend's `executable`, which runtime replaces by the path it found.
        before: arguments with which the CLI runs to its end first, in no particular directory, whatever comes of it.
        env: added to the environment that the agent inherits; beats the user's own.
        cwd: absolute; None is clinvk's own directory.
        files: written to a private folder (`PRIVATE`) before the start, removed after the end; a name may be a path.
        links: symbolic links in the private folder, and what each leads to, with `~` for the home. One whose
            name ends in `/` leads to a folder, which is made where it is missing.
        long_lived: stdin stays open until the run has ended.
        opening: what the process is told of the conversation before the prompt comes.
        otherwise: how to run it where the CLI turns out not to speak its long-lived protocol (`NotSpoken`).
        stop_signal: what makes this CLI stop by itself and clean up.
        tools_leave_first: it kills its tools when it is stopped, which then clean up nothing: they are asked to leave
            before.
        counted_turns: model requests after which clinvk ends the run, where the CLI has no such flag.
        asks_again: an answer that does not fit the schema is asked for again, in the same conversation, by a process
            that has this launch's private folder.
        warm: how a process that is kept carries the run; None where none may. One that was started with an equal
            `warm`, its `continuing` aside, is as good as another.
        continuing: the arguments that name the conversation to go on with.
        reads: files that the process reads by itself when it starts; one that has changed since is not as good. `F/`
            is a folder, and what is named after it within it is not there where it is not; `F/*.md` are the files of
            a folder that end so, and those of its folders; `F/*/NAME` are files of its folders.
        begins_with: the same, but of what only the beginning of a conversation is told: one that was begun goes on.
        takes_up: the conversations that a kept process can go on with: those that it `held` since its own runs, also
            that for which it was `started`, or any for which it is `asked`.
        most_runs: after so many a kept process goes, since what it keeps of each adds up.
        ping: what a kept process answers at once, whatever it is doing; empty where there is nothing.
        hidden: arguments that may be secrets: of these only the names of flags are shown.
    """

    argv: tuple[str, ...]
    before: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    long_lived: bool = False
    opening: dict[str, object] = {}
    otherwise: "Launch | None" = None
    stop_signal: int = SIGTERM
    tools_leave_first: bool = False
    counted_turns: int | None = None
    asks_again: bool = False
    warm: "Launch | None" = None
    continuing: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    begins_with: tuple[str, ...] = ()
    takes_up: Literal["held", "started", "asked"] = "asked"
    most_runs: int = MOST_RUNS
    ping: bytes = b""
    hidden: tuple[str, ...] = ()


class Channel(Protocol):
    """The protocol with one agent process, as a state machine without I/O. `capacity` is its runs at once."""

    capacity: int

    def greet(self) -> bytes:
        """Give what to write to a process before any run, so that it gets ready; nothing where it takes only one."""
        ...

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Begin a run: give what to write to the process's stdin."""
        ...

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Take one line of stdout, without its newline. Noise and unknown types give nothing.

        The ending of a run may be delivered before its process exits.

        Raises:
            NotSpoken: so may `closed`, before anything was delivered.
        """
        ...

    def interrupt(self, run: str) -> bytes | None:
        """Give the bytes that stop a run, also one whose turn is yet to begin; None: the process must be signalled."""
        ...

    def tools_of(self, run: str) -> tuple[str, str] | None:
        """Give the variable that the tools of a run have in their environment, where the CLI leaves them running."""
        ...

    def let_go(self, conversation: str) -> bytes | None:
        """Give what has the process let go of a conversation that it keeps from all others, though no run is in it.

        None where it keeps it from nobody; nothing more to write while it is at it.
        """
        ...

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """The process is gone: give the endings of the runs that are still open.

        A process ended by a signal has `exit_code` 128 + its number; `stderr` is the tail.
        """
        ...

    def complaint(self, stderr: bytes) -> str:
        """Give the line of stderr that says best what troubles the agent; empty where all is noise."""
        ...


class Backend(Protocol):
    """An agent CLI, pure: a request in, what to run out.

    `models` are names known to work, best known first; `aliases` say which of them clinvk's own words for models stand
    for (`fast`, `best`, …), None where the CLI is left to choose; `install` is the command that brings the CLI;
    `vendor` is whose models it asks, as OpenTelemetry's conventions call them (`gen_ai.provider.name`). `safe_flags`
    are those of the CLI's own flags that anybody may send. `folders` are where the CLI keeps logins and settings: paths
    that begin with `~`, or with a variable as `$CODEX_HOME`. With `holds_system` a conversation has in it
    what the system said before; without, it must be told that in each turn.
    """

    name: str
    executable: str
    install: str
    vendor: str
    models: tuple[str, ...]
    aliases: Mapping[str, str | None]
    capabilities: Capabilities
    holds_system: bool
    safe_flags: Flags
    folders: tuple[str, ...]

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Say how to start the CLI for this request.

        Raises:
            Unsupported: the CLI cannot honour an option that must not be weakened; says what is possible.
            InvalidRequest: an option is malformed, or an `extra` flag would override what clinvk sets.
        """
        ...

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Make the state machine for one process of this launch; `host` has the environment that the process has."""
        ...

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Give the command of the CLI's own program for a terminal, in which the conversation is opened.

        Raises:
            NotResumable: the handle is no id of a conversation.
        """
        ...

    def claims(self, model: str) -> bool:
        """Say whether a model of this name is this backend's."""
        ...

    def records(self, handle: str, host: Host) -> Sequence[str]:
        """Give the files in which the CLI keeps a conversation, which change when it goes on."""
        ...


class Prose:
    """Puts a blank line between the separate messages of an answer, so that its deltas read as one text."""

    __slots__ = ("_pending_break", "_spoke")

    def __init__(self) -> None:
        self._spoke = False
        self._pending_break = False

    def say(self, text: str) -> Iterable[TextDelta]:
        """Give the deltas for a piece of the present message."""
        if not text:
            return
        if self._pending_break:
            self._pending_break = False
            text = "\n\n" + text
        self._spoke = True
        yield TextDelta(text)

    def end_message(self) -> None:
        """The next piece belongs to another message."""
        self._pending_break = self._spoke


def conversation(resume: Resume, executable: str) -> str:
    """Give the agent's id of a conversation, a UUID for all three CLIs.

    Another word would be a flag to them, a title or a number in a list, and so another conversation or none.

    Raises:
        NotResumable: it is none.
    """
    if not _CONVERSATION.fullmatch(resume.handle):
        raise NotResumable(f"{resume.handle!r} is no id of a conversation with {executable}")
    return resume.handle


def parsed(decoder: "msgspec.json.Decoder[Told]", text: bytes) -> "Told | None":
    """Read JSON that an agent printed; None for what is none, or of no known form. It may be any bytes at all.

    Half of a surrogate pair, as which Node writes a text that was cut inside an emoji, is read as U+FFFD.
    """
    try:
        return decoder.decode(text)
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None
    except msgspec.DecodeError:
        whole = _SURROGATE.sub(_without_half, text)
        return None if whole == text else parsed(decoder, whole)


class Head(msgspec.Struct, frozen=True):
    """Whose message of JSON-RPC it is: an answer has `id`, a question both, a notification `method` alone."""

    id: int | str | None = None
    method: str = ""


_HEADS = msgspec.json.Decoder(Head)


def head_of(line: bytes) -> Head | None:
    """Read that of a message, whatever else is in it."""
    return parsed(_HEADS, line)


def _without_half(found: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if found["half"] else found[0]


def effort_of(request: RunRequest, words: "Mapping[str, Told]") -> "Told | None":
    """Give what a request's effort is to a CLI; `words` has an entry for each of `EFFORTS`.

    Raises:
        InvalidRequest: it is none of them.
    """
    if not request.effort:
        return None
    if request.effort not in words:
        raise InvalidRequest(f"no effort {request.effort!r}; have {', '.join(EFFORTS)}", "effort")
    return words[request.effort]


def with_system_prompt(request: RunRequest) -> str:
    """Give the prompt with the system prompt before it, marked as such, for a CLI that cannot be given one."""
    if not request.system_prompt:
        return request.prompt
    name = unused("system_prompt", (request.system_prompt, request.prompt))
    return f"{element(name, request.system_prompt)}\n\n{request.prompt}"


def with_schema(prompt: str, request: RunRequest) -> str:
    """Give a prompt that asks for an answer by the request's schema, for a CLI that cannot be given one."""
    if request.output_schema is None:
        return prompt
    schema = msgspec.json.encode(request.output_schema).decode()
    return (
        f"{prompt}\n\nAnswer with one JSON value that is valid against this JSON Schema, and with nothing else: "
        f"no text around it, no code fence.\n<json_schema>\n{schema}\n</json_schema>"
    )


def kind_of(image: Image) -> str:
    """Give the ending of a file's name for an image, e.g. `png`."""
    return _UNFIT.sub("", image.media_type.rpartition("/")[2]) or "png"


def last_line(text: str) -> str:
    """Give the last line that is not blank, without the space around it; empty where there is none."""
    return text.rstrip().rpartition("\n")[2].strip()


def crashed(executable: str, exit_code: int, stderr: bytes) -> RunFailed:
    """Give the ending of a run whose process is gone without having told how it ended."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    how = f"was killed by signal {exit_code - 128}" if exit_code > 128 else f"exited with code {exit_code}"
    said = f": {' '.join(lines[-3:])}" if lines else " and said nothing on stderr"
    return RunFailed(AgentCrashed.code, f"{executable} {how} before it reported a result{said}", exit_code)


def refuse_extra(extra: tuple[str, ...], reserved: Iterable[str], why: str) -> None:
    """Refuse `extra` flags that would override what clinvk itself sets.

    Raises:
        InvalidRequest: one of `extra` is, or begins with, a reserved flag; `why` ends the message.
    """
    reserved = tuple(reserved)
    for index, argument in enumerate(extra):
        flag = argument.split("=", 1)[0]
        if flag in reserved:
            raise InvalidRequest(f"extra flag {argument!r} is not accepted: {why}", f"extra[{index}]")


def describe(launch: Launch, prompt_bytes: int) -> str:
    """Render a launch as a dry run shows it: the command, shell-quoted, then how the prompt is passed.

    Private files are named only: some hold settings of the user's.
    """

    def shown(text: str) -> str:
        if text in launch.hidden:
            name, joined, _ = text.partition("=")
            text = f"{name}{joined and '=...'}" if name.startswith("-") else "..."
        return text.replace(PRIVATE, "$PRIVATE")

    command = " ".join(
        [*(f"{name}={shlex.quote(shown(value))}" for name, value in launch.env.items())]
        + [shlex.quote(shown(argument)) for argument in launch.argv]
    )
    lines = [shlex.join((launch.argv[0], *launch.before))] if launch.before else []
    lines.append(f"cd {shlex.quote(launch.cwd)} && {command}" if launch.cwd else command)
    if launch.opening:
        lines.append(f"# opening on stdin: {msgspec.json.encode(launch.opening).decode()}")
    lines.append(f"# prompt: {prompt_bytes} bytes on stdin")
    lines += [f"# $PRIVATE/{name}: {len(data)} bytes" for name, data in launch.files.items()]
    lines += [f"# $PRIVATE/{name} -> {target}" for name, target in launch.links.items()]
    return "\n".join(lines)
