"""Files of tasks or steps: JSON, YAML or JSON Lines, read as one body of JSON, under the flags of the command line.

Each mistake has its line and column. A body may hold what it may hold over HTTP: `clinvk.dialects.rest.bodies`.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.cli.orchestrate.positions import Place, in_json, in_text, twice_in_json
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import directory
from clinvk.cli.terminal.input import Note, all_of
from clinvk.config.model import Settings
from clinvk.dialects import json_bodies
from clinvk.dialects.rest.bodies import PartBody
from clinvk.types.errors import ClinvkError, InvalidRequest, placed
from clinvk.types.orchestration import Part

T = TypeVar("T")

_BYTE = re.compile(r"\(byte (?P<at>\d+)\)")
_PARTS = re.compile(r"[^.\[\]]+")
_LINES_OF_JSON = (".jsonl", ".ndjson")
_YAML = (".yaml", ".yml")
_YAML_IN_BRACES = re.compile(r'[\[{\s]+[^\[\]{}\s"]')
"""How it begins: what JSON has in braces begins with a quote."""


class InvalidFile(InvalidRequest):
    """A file of tasks or steps that cannot be read, or is not as it must be."""


class _Twice(Exception):
    """A key stands twice in an object."""


class TaskFile(NamedTuple):
    """A file as one body of JSON; `find` gives the place in the file of what stands at a path of the body."""

    name: str
    body: bytes
    find: Callable[[Sequence[str]], Place]

    def decode(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Give what the file holds.

        Raises:
            InvalidFile: it does not fit; names the place and the field.
        """
        try:
            return json_bodies.decode(self.body, decoder)
        except InvalidRequest as exc:
            raise self.placed(exc) from exc

    def placed(self, error: ClinvkError) -> InvalidFile:
        """Say of an error where in the file it is."""
        place = self.find(_PARTS.findall(error.field or ""))
        return _wrong(self.name, place, error.message, error.field)

    def refused(self, error: ClinvkError) -> ClinvkError:
        """Say of why a plan is refused where in the file it is, if it is in the file at all."""
        if not error.field:
            return error
        if isinstance(error, InvalidRequest):
            return self.placed(error)
        error.message = self.placed(error).message
        return error


def read(path: str | None, field: str, note: Note) -> TaskFile:
    """Read a file, or stdin where `path` is None or `-`; `field` is what a list is called in a body.

    Raises:
        InvalidFile: it cannot be read, or is none of the formats.
        InvalidRequest: stdin is a terminal.
    """
    is_stdin = path in (None, "-")
    name = "stdin" if is_stdin else str(path)
    text = _text(name, _stdin(field, note, path) if is_stdin else _bytes(str(path)))
    return parse(text, name, field)


def parse(text: str, name: str, field: str) -> TaskFile:
    """Take the text of a file, whose format is told by its name, or else by how it begins.

    Raises:
        InvalidFile: it is none of the formats.
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


def _stdin(field: str, note: Note, path: str | None) -> bytes:
    if path is None and os.isatty(0):
        raise InvalidRequest(f"no {field}: --file FILE names them; --file - takes what you type here")
    return all_of(0, f"the {field}", note)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidFile(f"{path}: cannot be read: {why}") from exc


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode(errors="replace")
        what = f"is not UTF-8 text: byte 0x{data[exc.start]:02x}"
        raise _wrong(name, in_text(before, len(before)), what) from None


def _json(text: str, name: str, field: str) -> TaskFile:
    body = text.encode()
    _check_json(body, text, name, 0)
    return _bodied(name, body, field, lambda path: in_json(text, path))


def _check_json(line: bytes, text: str, name: str, start: int) -> None:
    """Refuse what is no JSON, and a key that stands twice, as YAML does; it stands at `start` of the text."""
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
        json.loads(line, object_pairs_hook=_once, parse_int=str, parse_float=str)
    except msgspec.DecodeError as exc:
        found = _BYTE.search(str(exc))
        at = len(line[: int(found["at"])].decode(errors="ignore")) if found else len(line.decode().rstrip())
        what = str(exc)[: found.start()].removeprefix("JSON is malformed: ").strip() if found else "it ends too early"
        raise _wrong(name, in_text(text, start + at), f"is not valid JSON: {what}") from None
    except _Twice:
        key, at = twice_in_json(line.decode())
        raise _wrong(name, in_text(text, start + at), f"{key!r} stands twice") from None
    except RecursionError:
        raise _wrong(name, in_text(text, start), "is nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> None:
    """Take an object of which nothing is kept."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twice


def _is_lines(text: str, field: str) -> bool:
    """Say whether a text is one JSON object a line: so is one object that has no `field`."""
    first, _, rest = text.strip().partition("\n")
    try:
        found = msgspec.json.decode(first)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(found, dict) and (bool(rest) or field not in found)


def _lines(text: str, name: str, field: str) -> TaskFile:
    starts: list[int] = []
    found: list[bytes] = []
    at = 0
    for line in text.split("\n"):
        if line.strip():
            starts.append(at + len(line) - len(line.lstrip()))
            found.append(line.strip().encode())
            _check_json(found[-1], text, name, starts[-1])
        at += len(line) + 1

    def find(path: Sequence[str]) -> Place:
        number = int(path[0]) if path else 0
        row = in_text(text, starts[number])
        inside = in_json(found[number].decode(), path[1:])
        return Place(row.line, row.column + inside.column - 1)

    return _bodied(name, b"[" + b",".join(found) + b"]", field, find)


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


def _bodied(name: str, body: bytes, field: str, find: Callable[[Sequence[str]], Place]) -> TaskFile:
    """Put a bare list into the body that it stands for."""
    first = body.lstrip()[:1]
    if first == b"{":
        return TaskFile(name, body, find)
    if first != b"[":
        raise _wrong(name, find(()), _wanted(field))

    def find_in_list(path: Sequence[str]) -> Place:
        return find(path[1:])

    return TaskFile(name, b'{"%s":%s}' % (field.encode(), body), find_in_list)


def _wanted(field: str) -> str:
    return f"it must have {field!r}, or be a list of {field}, as JSON, YAML or one JSON object a line"


def _wrong(name: str, place: Place, message: str, field: str | None = None) -> InvalidFile:
    return InvalidFile(f"{name}:{place.line}:{place.column}: {message}", field)


def with_flags(bodies: list[PartBody], at: str, base: str, flags: Flags, settings: Settings) -> list[PartBody]:
    """Give the parts of a file with what they leave to the flags; `at` is what the list is called in the file.

    Args:
        bodies: as they were read.
        at: `tasks` or `steps`.
        base: what directories are relative to.
        flags: those of the command.
        settings: say what agent it is where none is named.

    Raises:
        InvalidRequest: there is no such directory; names the field.
    """
    return [_filled(body, f"{at}[{index}]", base, flags, settings) for index, body in enumerate(bodies)]


def resolve_directories(parts: tuple[Part, ...], base: str) -> tuple[Part, ...]:
    """Let parts that name neither directory nor session work in `base`."""
    return tuple(
        part
        if part.request.workdir or part.request.session_id
        else replace(part, request=replace(part.request, workdir=base))
        for part in parts
    )


def _filled(body: PartBody, at: str, base: str, flags: Flags, settings: Settings) -> PartBody:
    try:
        workdir = _directory(body.workdir, base, "workdir") if body.workdir else None
        add_dirs = [_directory(path, base, f"add_dirs[{index}]") for index, path in enumerate(body.add_dirs or ())]
    except ClinvkError as exc:
        raise placed(exc, at) from exc
    return replace(
        body,
        backend=body.backend or (None if body.session_id else settings.default_backend),
        model=body.model or flags.model,
        workdir=workdir,
        add_dirs=add_dirs,
        ephemeral=body.ephemeral or flags.ephemeral,
    )


def _directory(path: str, base: str, field: str) -> str:
    return os.path.realpath(directory(os.path.join(base, os.path.expanduser(path)), field))
