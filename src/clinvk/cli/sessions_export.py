"""`clinvk sessions export`."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from clinvk.cli.flags import ExportFlags
from clinvk.cli.notes import Notes
from clinvk.cli.output import shown, tell
from clinvk.cli.sessions import whole
from clinvk.cli.sessions_text import home_of, markdown
from clinvk.cli.settings import settings_of
from clinvk.config.replacing import replace_file
from clinvk.dialects import records
from clinvk.errors import InvalidRequest


class Exported(records.SessionView, frozen=True, kw_only=True):
    """A conversation with all that was said, oldest turn first."""

    turns: list[records.RunView]


def export(flags: ExportFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Write a session out.

    Raises:
        SessionNotFound, AmbiguousId: the word stands for no session.
        InvalidRequest: the file cannot be written, or two formats are asked for.
    """
    settings_of(flags, environ, {}, notes)
    if flags.wants_json and flags.format == "markdown":
        raise InvalidRequest("--json and --format markdown exclude each other")
    session, runs = asyncio.run(whole(flags.words[0], environ, notes))
    if flags.wants_json or flags.format == "json":
        fields = msgspec.structs.asdict(records.session_view(session))
        data = msgspec.json.encode(Exported(**fields, turns=[records.run_view(run) for run in runs]))
        text = msgspec.json.format(data, indent=2).decode() + "\n"
    else:
        text = markdown(session, runs, home_of(environ.get("HOME")))
    if flags.output is None or flags.output == "-":
        tell(shown(text.removesuffix("\n")))
    elif flags.dry_run:
        notes.say(f"would write {flags.output}")
    else:
        _write(flags.output, text)
        notes.say(f"wrote {flags.output}")
    return 0


def _write(file: str, text: str) -> None:
    """Write a file at once or not at all; what is no file, such as a pipe, is written to."""
    path = Path(os.path.realpath(file))
    data = text.encode("utf-8", "replace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            replace_file(path, data)
    except OSError as exc:
        raise InvalidRequest(f"--output: {file!r} cannot be written: {exc.strerror}", "--output") from exc
