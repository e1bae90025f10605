"""Files of tasks or steps: JSON, YAML or JSON Lines, read as one JSON body, completed from the flags.

Errors name line and column. A body has the same fields as over HTTP: `clinvk.dialects.rest.batch_bodies`.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import Note, read_stdin
from clinvk.config.model import Settings
from clinvk.dialects import json_bodies
from clinvk.dialects.rest.batch_bodies import PartBody
from clinvk.types.errors import ClinvkError, InvalidRequest, with_position
from clinvk.types.orchestration import Part
from clinvk.types.request import RunRequest

T = TypeVar("T")

_PARTS = re.compile(r"[^.\[\]]+")
_LINES_OF_JSON = (".jsonl", ".ndjson")
_LINE_END = re.compile(r"(?<=\S)(?=[ \t\r]*\n)")
_YAML = (".yaml", ".yml")
_YAML_IN_BRACES = re.compile(r'[\[{\s]+[^\[\]{}\s"]')
"""The beginning of a YAML flow collection: in JSON, a quote follows the brace."""


class TextPosition(NamedTuple):
    """A line and a column in characters, both from 1."""

    line: int
    column: int


class InvalidFile(InvalidRequest):
    """A file of tasks or steps cannot be read or has invalid content."""

    code = exits.INVALID_FILE_CODE


class _DuplicateKey(Exception):
    """An object has a key twice."""


class TaskFile(NamedTuple):
    """A file as one JSON body; `find` returns the position in the file for a path in the body."""

    name: str
    body: bytes
    find: Callable[[Sequence[str]], TextPosition]

    def decode(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Return the decoded body.

        Raises:
            InvalidFile: the body does not match; names the position and the field.
        """
        try:
            return json_bodies.decode(self.body, decoder)
        except InvalidRequest as exc:
            raise self.placed(exc) from exc

    def placed(self, error: ClinvkError) -> InvalidFile:
        """Return an error with the position of its field in the file."""
        place = self.find(_PARTS.findall(error.field or ""))
        return _wrong(self.name, place, error.message, error.field)

    def refused(self, error: ClinvkError) -> ClinvkError:
        """Return the error of a refused plan, with the position if the error concerns a field of the file."""
        if not error.field:
            return error
        if isinstance(error, InvalidRequest):
            return self.placed(error)
        error.message = self.placed(error).message
        return error


def read(path: str | None, field: str, note: Note) -> TaskFile:
    """Read a file, or stdin if `path` is None or `-`; `field` is the field of the body for a bare list.

    Raises:
        InvalidFile: the file cannot be read or has none of the formats.
        InvalidRequest: stdin is a terminal.
    """
    name = "stdin" if path is None or path == "-" else path
    if path in (None, "-"):
        if path is None and os.isatty(0):
            raise InvalidRequest(f"no {field}: use --file FILE, or --file - to type them here")
        data = read_stdin(0, f"the {field}", note)
    else:
        try:
            data = Path(name).read_bytes()
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            raise InvalidFile(f"{name}: cannot be read: {why}") from exc
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode(errors="replace")
        what = f"is not UTF-8 text: byte 0x{data[exc.start]:02x}"
        raise _wrong(name, _position(before, len(before)), what) from None
    return parse(text, name, field)


def parse(text: str, name: str, field: str) -> TaskFile:
    """Parse the text of a file. The format follows from the name, or else from the beginning of the text.

    Raises:
        InvalidFile: the text has none of the formats.
    """
    suffix = Path(name).suffix.lower()
    if not text.strip():
        raise InvalidFile(f"{name}: is empty; {_wanted(field)}")
    if suffix in _YAML:
        return _yaml(text, name, field)
    if suffix in _LINES_OF_JSON or (suffix != ".json" and _is_lines(text, field)):
        return _lines(text, name, field)
    is_json = suffix == ".json" or (text.lstrip()[0] in "{[" and not _YAML_IN_BRACES.match(text))
    return (_json if is_json else _yaml)(text, name, field)


def _json(text: str, name: str, field: str) -> TaskFile:
    _check_json(text, name, 1)
    return _bodied(name, text.encode(), field, partial(_json_position, text))


def _json_position(text: str, path: Sequence[str]) -> TextPosition:
    from clinvk.cli.orchestrate.task_yaml import json_position  # an import that only an error needs

    return json_position(text, path)


def _check_json(text: str, name: str, line: int) -> None:
    """Refuse invalid JSON and duplicate keys in a text that begins at a line of the file."""
    try:
        json.loads(text, object_pairs_hook=_refuse_duplicates, parse_int=str, parse_float=str)
    except json.JSONDecodeError as exc:
        end = len(text.rstrip())
        what = exc.msg.lower().removesuffix(" at") if exc.pos < end else "it ends too early"
        raise _wrong(name, _position(text, min(exc.pos, end), line), f"is not valid JSON: {what}") from None
    except _DuplicateKey:
        from clinvk.cli.orchestrate.task_yaml import json_duplicate  # an import that only an error needs

        twice = json_duplicate(text)
        raise _wrong(name, TextPosition(twice.place.line + line - 1, twice.place.column), str(twice)) from None
    except RecursionError:
        raise _wrong(name, TextPosition(line, 1), "is nested too deeply") from None


def _position(text: str, at: int, line: int = 1) -> TextPosition:
    """Return the position of an offset in a text that begins at a line of the file."""
    return TextPosition(text.count("\n", 0, at) + line, at - text.rfind("\n", 0, at))


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _DuplicateKey


def _is_lines(text: str, field: str) -> bool:
    """Return whether a text is JSON Lines; so is a single object without `field`."""
    first, _, rest = text.strip().partition("\n")
    try:
        found = msgspec.json.decode(first)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(found, dict) and (bool(rest) or field not in found)


def _lines(text: str, name: str, field: str) -> TaskFile:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            _check_json(line, name, number)
    array = f"[\n{_LINE_END.sub(',', text.rstrip())}\n]"  # every value keeps its column

    def find(path: Sequence[str]) -> TextPosition:
        place = _json_position(array, path)
        return TextPosition(max(1, place.line - 1), place.column)

    return _bodied(name, array.encode(), field, find)


def _yaml(text: str, name: str, field: str) -> TaskFile:
    from clinvk.cli.orchestrate.task_yaml import (
        NotYaml,
        load,  # the reader of YAML takes longer than that of JSON
    )

    try:
        body, find = load(text)
    except NotYaml as exc:
        raise _wrong(name, exc.place, str(exc)) from exc
    return _bodied(name, body, field, find)


def _bodied(name: str, body: bytes, field: str, find: Callable[[Sequence[str]], TextPosition]) -> TaskFile:
    """Wrap a bare list into a body."""
    first = body.lstrip()[:1]
    if first == b"{":
        return TaskFile(name, body, find)
    if first != b"[":
        raise _wrong(name, find(()), _wanted(field))

    def find_in_list(path: Sequence[str]) -> TextPosition:
        return find(path[1:])

    return TaskFile(name, b'{"%s":%s}' % (field.encode(), body), find_in_list)


def _wanted(field: str) -> str:
    return f"it must have {field!r}, or be a list of {field}, as JSON, YAML or one JSON object a line"


def _wrong(name: str, place: TextPosition, message: str, field: str | None = None) -> InvalidFile:
    return InvalidFile(f"{name}:{place.line}:{place.column}: {message}", field)


def with_backends(bodies: list[PartBody], settings: Settings) -> list[PartBody]:
    """Return the tasks or steps of a file, with the default backend where a file names neither backend nor session."""
    default = settings.default_backend
    return [replace(body, backend=body.backend or (None if body.session_id else default)) for body in bodies]


def with_flags(parts: tuple[Part, ...], at: str, base: str, flags: Flags) -> tuple[Part, ...]:
    """Return the parts of a file, completed from the flags.

    Args:
        parts: the parts of the file.
        at: the name of the list, `tasks` or `steps`.
        base: the directory for relative paths, and of each part that names neither a directory nor a session.
        flags: the flags of the command.

    Raises:
        InvalidRequest: a directory does not exist; names the field.
    """
    return tuple(
        replace(part, request=_with_flags(part.request, f"{at}[{index}]", base, flags))
        for index, part in enumerate(parts)
    )


def _with_flags(request: RunRequest, at: str, base: str, flags: Flags) -> RunRequest:
    try:
        workdir = _directory(request.workdir, base, "workdir") if request.workdir else None
        add_dirs = tuple(_directory(path, base, f"add_dirs[{index}]") for index, path in enumerate(request.add_dirs))
    except ClinvkError as exc:
        raise with_position(exc, at) from exc
    return replace(
        request,
        model=request.model or flags.model,
        workdir=workdir or (None if request.session_id else base),
        add_dirs=add_dirs,
        ephemeral=request.ephemeral or flags.ephemeral,
    )


def _directory(path: str, base: str, field: str) -> str:
    return os.path.realpath(directory(os.path.join(base, os.path.expanduser(path)), field))
