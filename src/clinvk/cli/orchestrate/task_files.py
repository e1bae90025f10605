"""Files of tasks or steps: JSON, YAML or JSON Lines, read as one JSON body, completed from the flags.

A body has the same fields as over HTTP: `clinvk.dialects.rest.batch_bodies`. Errors name the field, or the line and the
column of what cannot be parsed.
"""

import json
import os
import re
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

_LINES_OF_JSON = (".jsonl", ".ndjson")
_YAML = (".yaml", ".yml")
_YAML_IN_BRACES = re.compile(r'[\[{\s]+[^\[\]{}\s"]')
"""The beginning of a YAML flow collection: in JSON, a quote follows the brace."""


class InvalidFile(InvalidRequest):
    """A file of tasks or steps cannot be read or has invalid content."""

    code = exits.INVALID_FILE_CODE


class TaskFile(NamedTuple):
    """A file as one JSON body."""

    name: str
    body: bytes

    def decode(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Return the decoded body.

        Raises:
            InvalidFile: the body does not match; names the field.
        """
        try:
            return json_bodies.decode(self.body, decoder)
        except InvalidRequest as exc:
            raise self.invalid(exc) from exc

    def invalid(self, error: ClinvkError) -> InvalidFile:
        """Return an error with the name of the file."""
        return InvalidFile(f"{self.name}: {error.message}", error.field)

    def refused(self, error: ClinvkError) -> ClinvkError:
        """Return the error of a refused plan, with the name of the file if the error concerns a field of the file."""
        if not error.field:
            return error
        if isinstance(error, InvalidRequest):
            return self.invalid(error)
        error.message = self.invalid(error).message
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
        data = read_stdin(f"the {field}", note)
    else:
        try:
            data = Path(name).read_bytes()
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            raise InvalidFile(f"{name}: cannot be read: {why}") from exc
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise InvalidFile(f"{name}:{line}: is not UTF-8 text: byte 0x{data[exc.start]:02x}") from None
    return parse(text, name, field)


def parse(text: str, name: str, field: str) -> TaskFile:
    """Parse the text of a file. The format follows from the name, or else from the beginning of the text.

    Raises:
        InvalidFile: the text has none of the formats.
    """
    suffix = Path(name).suffix.lower()
    wanted = f"it must have {field!r}, or be a list of {field}, as JSON, YAML or one JSON object a line"
    if not text.strip():
        raise InvalidFile(f"{name}: is empty; {wanted}")
    is_json = suffix == ".json" or (text.lstrip()[0] in "{[" and not _YAML_IN_BRACES.match(text))
    if suffix in _LINES_OF_JSON or (suffix not in (".json", *_YAML) and _is_lines(text, field)):
        body = _body_of_lines(text, name)
    elif suffix in _YAML or not is_json:
        from clinvk.cli.orchestrate.task_yaml import body_of_yaml  # JSON does not wait for the import

        body = body_of_yaml(text, name)
    else:
        _check_json(text, name, 1)
        body = text.strip().encode()
    if body[:1] not in (b"{", b"["):
        raise InvalidFile(f"{name}: {wanted}")
    return TaskFile(name, body if body[:1] == b"{" else b'{"%s":%s}' % (field.encode(), body))


def _check_json(text: str, name: str, line: int) -> None:
    """Refuse invalid JSON and duplicate keys in a text that begins at a line of the file."""

    def refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
        known: set[str] = set()
        for key, _ in pairs:
            if key in known:
                raise InvalidFile(f"{name}: {key!r} is duplicated")
            known.add(key)

    try:
        json.loads(text, object_pairs_hook=refuse_duplicates, parse_int=str, parse_float=str)
    except json.JSONDecodeError as exc:
        what = exc.msg.lower().removesuffix(" at") if exc.pos < len(text.rstrip()) else "it ends too early"
        raise InvalidFile(f"{name}:{exc.lineno + line - 1}:{exc.colno}: is not valid JSON: {what}") from None
    except RecursionError:
        raise InvalidFile(f"{name}: is nested too deeply") from None


def _is_lines(text: str, field: str) -> bool:
    """Return whether a text is JSON Lines; so is a single object without `field`."""
    first, _, rest = text.strip().partition("\n")
    try:
        found = msgspec.json.decode(first)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(found, dict) and (bool(rest) or field not in found)


def _body_of_lines(text: str, name: str) -> bytes:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        _check_json(line, name, number)
    return f"[{','.join(line for _, line in lines)}]".encode()


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
