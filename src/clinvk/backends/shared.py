"""Parts that several backends share: options, prompts, JSON lines, endings, one-shot processes, text, folders, TOML."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Meta

from clinvk.backends.base import Channel, Delivery, Report
from clinvk.types.choices import EFFORTS
from clinvk.types.errors import AgentCrashed, InvalidRequest, NotResumable, SessionNotFound
from clinvk.types.events import Event, RunFailed, RunFinished, TextDelta, ThinkingDelta
from clinvk.types.prompt_xml import element, unused_tag
from clinvk.types.record import Resume
from clinvk.types.request import ClientTool, Image, RunRequest
from clinvk.types.text import last_line, unknown_name

EFFORT_LEVELS = {
    **dict.fromkeys(("none", "minimal", "low"), "low"),
    **{level: level for level in ("medium", "high", "xhigh", "max")},
}
"""The effort levels of CLIs that have no lower level than `low`."""

_MAX_COMPARED = 131_072

_NOT_ALPHANUMERIC = re.compile(r"\W")

_CONVERSATION = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_SURROGATE = re.compile(
    rb"\\(?:\\(?:\\\\)*|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2}))"
)
"""Half of a surrogate pair (group `half`). Escaped backslashes and whole pairs match too, and are skipped."""

EpochSeconds = Annotated[float, Meta(ge=0, lt=253_402_300_800)]
"""A time up to the year 9999, the last that can be printed."""

Decoded = TypeVar("Decoded")
Model = TypeVar("Model", str, str | None)
Delta = TypeVar("Delta", TextDelta, ThinkingDelta)


class Decoder(Protocol):
    """Decodes the lines of one CLI run into events. Each backend implements a decoder."""

    def feed(self, line: bytes) -> Iterable[Report]:
        """Decode one line; the events may include the ending."""
        ...

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        """Return the ending of a run whose process exited without reporting an ending."""
        ...

    def stderr_message(self, stderr: bytes) -> str:
        """Return the line of stderr that best describes the agent's problem; empty if stderr holds only noise."""
        return last_line(stderr.decode(errors="replace"))


class OneShotChannel(Channel):
    """The channel of a process that serves a single run, and that a signal stops; `prompt` returns its stdin."""

    def __init__(
        self,
        decoder: Decoder,
        prompt: Callable[[RunRequest], bytes] = lambda request: plain_prompt(request).encode(errors="replace"),
    ) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._run = ""
        self._ended = False

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Return the prompt in the form that the CLI reads from stdin."""
        self._run = run
        return self._prompt(request)

    def receive(self, line: bytes) -> Iterable[tuple[str, Report]]:
        """Yield the events of one line, up to the ending."""
        if self._ended:
            return
        for event in self._decoder.feed(line):
            yield self._run, event
            if isinstance(event, RunFinished | RunFailed):
                self._ended = True
                return

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Yield the ending if the process reported no ending."""
        if not self._ended:
            self._ended = True
            yield self._run, self._decoder.closed(exit_code, stderr)

    def stderr_message(self, stderr: bytes) -> str:
        """Return the line of stderr that the decoder selects."""
        return self._decoder.stderr_message(stderr)


class NewText(NamedTuple):
    """Text that was not reported before.

    `restarts` is set if the text is a full answer that differs from the interrupted answer.
    """

    text: str
    restarts: bool = False


class MessageJoiner(Generic[Delta]):
    """Inserts a blank line between the messages of an answer, so that the deltas of one type read as one text.

    `has_text` is whether any delta was returned.
    """

    def __init__(self, delta: type[Delta]) -> None:
        self.has_text = False
        self._delta = delta
        self._breaks = False

    def write(self, text: str) -> Iterator[Delta]:
        """Yield the delta for a piece of the current message."""
        if text:
            yield self._delta(f"\n\n{text}" if self._breaks else text)
            self.has_text, self._breaks = True, False

    def add(self, news: NewText) -> Iterator[Delta]:
        """Yield the delta for new text, which is a message of its own if the answer restarts."""
        if news.restarts:
            self.end_message()
        yield from self.write(news.text)

    def end_message(self) -> None:
        """End the current message; the next piece starts a new message."""
        self._breaks = self.has_text


class TextDeduplicator:
    """The text blocks (or the thinking blocks) of one message; each character is returned once."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._expected = ""
        self._blocks: list[list[str]] = []
        self._complete = 0

    @property
    def is_repeating(self) -> bool:
        """Whether the answer after an interruption has not yet reached the text that is new."""
        return bool(self._expected)

    def begin(self, again: bool) -> None:
        """Begin a message; `again` repeats the previous message from its start."""
        if again:
            self._expected = "".join(self._sent)
        else:
            self._sent = []
            self._expected = ""
        self._blocks = []
        self._complete = 0

    def open_block(self) -> None:
        """Begin a block for the pieces that follow."""
        self._blocks.append([])

    def piece(self, text: str) -> NewText:
        """Add a piece to the open block and return the text that is new."""
        if not self._blocks:
            self.open_block()
        self._blocks[-1].append(text)
        return self._add(text)

    def block(self, text: str) -> NewText:
        """Add a complete block and return the text that is new.

        The n-th complete block is the n-th streamed block, and may be longer than the streamed pieces.
        """
        streamed = "".join(self._blocks[self._complete]) if self._complete < len(self._blocks) else ""
        self._complete += 1
        return self._add(text[len(streamed) :]) if text.startswith(streamed) else NewText("")

    def _add(self, text: str) -> NewText:
        if self._expected.startswith(text):
            self._expected = self._expected[len(text) :]
            return NewText("")
        if text.startswith(self._expected):
            text = text[len(self._expected) :]
            self._expected = ""
            self._sent.append(text)
            return NewText(text)
        earlier = "".join(self._sent)
        whole = earlier[: len(earlier) - len(self._expected)] + text
        self._sent = [whole]
        self._expected = ""
        return NewText(whole, restarts=True)


def conversation_id(resume: Resume, executable: str) -> str:
    """Return the agent's conversation id, a UUID for all three CLIs.

    A CLI could read any other text as a flag, a title or an index in a list, and so open a different conversation.

    Raises:
        NotResumable: the handle is not a UUID.
    """
    if not _CONVERSATION.fullmatch(resume.handle):
        raise NotResumable(f"{resume.handle!r} is no id of a conversation with {executable}")
    return resume.handle


def decode_line(decoder: "msgspec.json.Decoder[Decoded]", text: bytes) -> "Decoded | None":
    """Decode JSON that an agent printed. Return None if the bytes are not JSON, or have an unknown form.

    Half of a surrogate pair is read as U+FFFD; Node prints half a pair if a text was cut inside an emoji.
    """
    try:
        return decoder.decode(text)
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None
    except msgspec.DecodeError:
        whole = _SURROGATE.sub(_without_half, text)
        return None if whole == text else decode_line(decoder, whole)


def _without_half(found: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if found["half"] else found[0]


_VERBS = {"add": "Add", "delete": "Delete"}


def edit_title(path: str, action: str = "update") -> str:
    """Return the title of an approval to add, delete or update a file."""
    return f"{_VERBS.get(action, 'Edit')} {path.rpartition('/')[2] or path}"


def input_paths(tool_input: Mapping[str, object]) -> tuple[str, ...]:
    """Return the files and directories in the input of one of an agent's own tools."""
    names = ("file_path", "filePath", "notebook_path", "absolute_path", "path", "dir_path", "directory", "cwd")
    return tuple(path for path in map(tool_input.get, names) if isinstance(path, str))


def approval_note(said: Iterable[str | None], facts: Iterable[str] = ()) -> str:
    """Return the agent's own words, then what clinvk knows: a line for each fact, which starts with `clinvk: `.

    A line of the agent whose first letters are `clinvk` is quoted, whatever invisible characters it has.
    """
    words = "\n".join(filter(None, said)).splitlines()
    quoted = (
        f'"{line}"' if "".join(filter(str.isalpha, line)).casefold().startswith("clinvk") else line for line in words
    )
    return "\n".join([*quoted, *(f"clinvk: {fact}" for fact in facts)])


def unified_diff(path: str, old: str | None, new: str) -> str:
    """Return the change of a file as a unified diff. `old` is None for a new file.

    Long texts are not compared: the diff replaces everything between their common beginning and end.
    """
    removed, added = (old or "").splitlines(keepends=True), new.splitlines(keepends=True)
    if old and new and len(old) + len(new) > _MAX_COMPARED:
        lines = _replacement(removed, added, path)
    else:
        import difflib  # imported late: few runs ask about an edit

        lines = difflib.unified_diff(removed, added, "/dev/null" if old is None else path, path)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _replacement(removed: Sequence[str], added: Sequence[str], path: str) -> Iterator[str]:
    """Yield the lines of a diff without context: one hunk, from the first to the last line that differs."""
    if removed == added:
        return
    start = _common(removed, added)
    end = _common(removed[start:][::-1], added[start:][::-1])
    old, new = removed[start : len(removed) - end], added[start : len(added) - end]
    yield f"--- {path}\n+++ {path}\n"
    yield f"@@ -{start + bool(old)},{len(old)} +{start + bool(new)},{len(new)} @@\n"
    yield from (f"-{line}" for line in old)
    yield from (f"+{line}" for line in new)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many lines at the beginning are equal."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (line, others) in pairs if line != others), min(len(one), len(other)))


def native_effort(request: RunRequest, levels: "Mapping[str, Decoded]") -> "Decoded | None":
    """Return the CLI's value for a request's effort, or None without one; `levels` has an entry for each of `EFFORTS`.

    Raises:
        InvalidRequest: the effort is unknown.
    """
    if not request.effort:
        return None
    if request.effort not in levels:
        raise InvalidRequest(unknown_name("effort", request.effort, EFFORTS), "effort")
    return levels[request.effort]


def aliases(fast: Model, balanced: Model, best: Model) -> dict[str, Model]:
    """Return the models of clinvk's aliases; None leaves the choice to the CLI."""
    names = {("fast", "quick"): fast, ("balanced", "default"): balanced, ("best", "powerful"): best}
    return {name: model for group, model in names.items() for name in group}


def with_system_prompt(request: RunRequest) -> str:
    """Return the prompt preceded by the marked system prompt, for a CLI without a system prompt option."""
    if not request.system_prompt:
        return request.prompt
    name = unused_tag("system_prompt", (request.system_prompt, request.prompt))
    return f"{element(name, request.system_prompt)}\n\n{request.prompt}"


def with_schema(prompt: str, request: RunRequest) -> str:
    """Return a prompt that asks for an answer valid against the request's schema, for a CLI without a schema option."""
    if request.output_schema is None:
        return prompt
    schema = msgspec.json.encode(request.output_schema).decode()
    return (
        f"{prompt}\n\nAnswer with one JSON value that is valid against this JSON Schema, and with nothing else: "
        f"no text around it, no code fence.\n<json_schema>\n{schema}\n</json_schema>"
    )


def plain_prompt(request: RunRequest) -> str:
    """Return the prompt with the system prompt and the schema, for a CLI without an option for either."""
    return with_schema(with_system_prompt(request), request)


def image_extension(image: Image) -> str:
    """Return the file name extension for an image, e.g. `png`."""
    return _NOT_ALPHANUMERIC.sub("", image.media_type.rpartition("/")[2]) or "png"


def base64_data(image: Image) -> str:
    """Return the data of an image in base64."""
    return b64encode(image.data).decode()


def not_logged_in(executable: str, remedy: str, why: str) -> str:
    """Return the message for a missing login, or a login that the model API refuses, with the remedy."""
    return f"{executable} is not logged in, or not allowed ({remedy}): {why}"


def conversation_lost(executable: str, why: str, exit_code: int | None) -> RunFailed:
    """Return the ending of a run that resumes a conversation of which the CLI no longer has the record."""
    message = f"{executable} no longer knows the conversation: {why}"
    return RunFailed(SessionNotFound.code, message, exit_code)


def crash_ending(executable: str, exit_code: int, stderr: bytes) -> RunFailed:
    """Return the ending of a run whose process exited without a result."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    how = f"was killed by signal {exit_code - 128}" if exit_code > 128 else f"exited with code {exit_code}"
    said = f": {' '.join(lines[-3:])}" if lines else " and printed nothing on stderr"
    return RunFailed(AgentCrashed.code, f"{executable} {how} before it reported a result{said}", exit_code)


MODEL_PROMPT = "You are a helpful assistant."
"""The system prompt of an agent whose own tools are off: an agent's own prompt names these tools."""

_INVALID_CHARACTER = re.compile("[^a-zA-Z0-9_-]")


def tool_names(tools: Iterable[ClientTool], accepted: Callable[[str], str]) -> dict[str, str]:
    """Return the name for the CLI of each tool by the client's name.

    `accepted` turns a name without invalid characters into a name that the CLI accepts. Equal names get underscores.
    """
    names: dict[str, str] = {}
    for tool in tools:
        name = accepted(_INVALID_CHARACTER.sub("_", tool.name))
        while name in names.values():
            name += "_"
        names[tool.name] = name
    return names


def parent_directories(directory: str) -> Iterator[str]:
    """Yield a directory and its parents, nearest first, each with a trailing slash."""
    place = f"{directory.rstrip('/')}/"
    while place:
        yield place
        place = place[: place.rfind("/", 0, -1) + 1]


_UNQUOTABLE = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def toml_string(text: str) -> str:
    """Return a TOML basic string, with quotes, backslashes and control characters escaped."""
    return '"' + _UNQUOTABLE.sub(lambda found: _SHORT.get(found[0], f"\\u{ord(found[0]):04X}"), text) + '"'


def toml_table(entries: dict[str, str]) -> str:
    """Return a TOML inline table; the values must be TOML already."""
    return "{" + ", ".join(f"{toml_string(key)} = {value}" for key, value in entries.items()) + "}"
