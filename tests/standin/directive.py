"""The directives of a prompt: `[[words=5]]`, `[[call NAME {…}]]`, … as the package describes them."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from standin.document import JSON
from standin.wire import Call

WORDS = {"words", "bytes", "think", "calls", "drop", "midstream", "error", "times", "together"}
NUMBERS = {"delay", "hang"}
TEXTS = {"say", "tool", "cmd", "path", "content", "before", "retry_after", "stop", "usage", "headers", "only", "made"}
TOOLS = ("shell", "write")
FAILURES = {"error", "drop", "midstream"}
FLAGS = {"echo", "info", "together", "midstream"}

_START = re.compile(r"\[\[\s*([a-z_]+)(?=[=\s\]])")
_END = re.compile(r"""(?:[^\]"']|"(?:[^"\\]|\\.)*"|'[^']*'|\](?!\]))*?\]\]""", re.DOTALL)
_CALL = re.compile(r"\[\[\s*call\s+([\w.:-]+)\s*")


class BadDirective(ValueError):
    """A prompt holds a directive that makes no sense."""


@dataclass
class Directives:
    """The directives of a prompt to the stand-in.

    `says` are the text blocks that were asked for; `turns` the tool calls, those of one message together; `told` what
    the tools gave, where a client tells it as text.
    """

    values: dict[str, str] = field(default_factory=dict[str, str])
    says: list[str] = field(default_factory=list[str])
    turns: list[list[Call]] = field(default_factory=list[list[Call]])
    told: str = ""

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def count(self, key: str, default: int = 0) -> int:
        """Return a whole number."""
        return int(self.values.get(key) or default)

    def seconds(self, key: str) -> float:
        """Return a duration."""
        return float(self.values.get(key) or 0)

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        return self.values.get(key, default)

    def without_failures(self) -> "Directives":
        """Return the directives without failures."""
        kept = {key: value for key, value in self.values.items() if key not in FAILURES}
        return Directives(kept, self.says, self.turns, self.told)


def parse(prompt: str, default: str) -> Directives:
    """Read the directives of a prompt; `default` are the settings of a prompt that has none.

    Raises:
        BadDirective: one is misspelt.
    """
    found = Directives()
    at, rest = 0, ""
    known = WORDS | NUMBERS | TEXTS | FLAGS | {"call", "script"}
    while start := _START.search(prompt, at):
        rest += prompt[at : start.start()]
        if start[1] not in known:
            if prompt.startswith("=", start.end()):
                raise BadDirective(f"no directive {start[1]!r}")
            at = start.end()
        elif start[1] == "call":
            at = _read_call(found, prompt, start.start())
        else:
            at = _read_settings(found, prompt, start.start())
    if not found.values and not found.says and not found.turns:
        _set(found, default)
    if "together" in found:
        count = found.count("together", len(found.turns))
        found.turns = [[call for turn in found.turns[:count] for call in turn], *found.turns[count:]]
    if (mark := found.text("made")) and mark in (rest := rest + prompt[at:]):
        found.turns, found.told = found.turns[1:], rest[rest.index(mark) :]
    return found


def _read_call(found: Directives, prompt: str, start: int) -> int:
    """Read `[[call NAME json]]` and return its end."""
    head = _CALL.match(prompt, start)
    try:
        if head is None:
            raise ValueError("no tool name")
        value, end = json.JSONDecoder().raw_decode(prompt, head.end())
        if not prompt[end:].lstrip().startswith("]]") or not isinstance(value, dict | str):
            raise ValueError("an object or a text in JSON, then ]]")
    except ValueError as exc:
        raise BadDirective(f"{prompt[start : start + 80]!r}: want [[call NAME {{…}}]]: {exc}") from exc
    found.turns.append([Call(head[1], value)])
    return prompt.index("]]", end) + 2


def _read_settings(found: Directives, prompt: str, start: int) -> int:
    """Read `[[key=value …]]` or `[[script FILE]]` and give where it ends."""
    end = _END.match(prompt, start + 2)
    if end is None:
        raise BadDirective(f"{prompt[start : start + 80]!r} has no end")
    inner = prompt[start + 2 : end.end() - 2].strip()
    if inner.startswith("script "):
        found.turns += _script(inner.removeprefix("script ").strip())
    else:
        _set(found, inner)
    return end.end()


def _set(found: Directives, settings: str) -> None:
    try:
        words = shlex.split(settings)
    except ValueError as exc:
        raise BadDirective(f"[[{settings}]]: {exc}") from exc
    for word in words:
        key, equals, value = word.partition("=")
        _check(key, value if equals else None, settings)
        if key == "say":
            found.says.append(value)
        else:
            found.values[key] = value


def _check(key: str, value: str | None, settings: str) -> None:
    try:
        if value is None and key in FLAGS:
            return
        if value is not None and key in WORDS:
            int(value)
        elif value is not None and key in NUMBERS:
            float(value)
        elif value is not None and key == "usage":
            [int(number) for number in value.split(",")]
        elif value is not None and key == "tool" and value not in TOOLS:
            raise ValueError(f"no tool {value!r}, have {', '.join(TOOLS)}; others by [[call NAME {{…}}]]")
        elif value is None or key not in TEXTS:
            raise ValueError(f"no directive {key!r}" if value is not None else f"{key!r} wants a value")
    except ValueError as exc:
        raise BadDirective(f"[[{settings}]]: {exc}") from exc


def _script(path: str) -> list[list[Call]]:
    """Read a script of tool calls: a JSON list of turns, each a list of [name, input, namespace?]."""
    try:
        turns: JSON = json.loads(Path(path).read_text())
        if not isinstance(turns, list):
            raise TypeError("want a list of turns")
        return [[_scripted(entry) for entry in turn] for turn in turns if isinstance(turn, list)]
    except (OSError, ValueError, TypeError) as exc:
        raise BadDirective(f"[[script {path}]]: {exc}") from exc


def _scripted(entry: JSON) -> Call:
    match entry:
        case [str() as name, (dict() | str()) as value]:
            return Call(name, value)
        case [str() as name, (dict() | str()) as value, str() as namespace]:
            return Call(name, value, namespace)
        case _:
            raise TypeError(f"{entry!r} is no [name, input, namespace?]")
