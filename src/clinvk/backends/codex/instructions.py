"""The project's `AGENTS.md`, for the runs in which Codex leaves it out.

It does so in a project that is marked untrusted, which is how clinvk keeps the project's `.codex` closed. The text is
for the model and opens nothing. It is found, cut and framed here as Codex 0.163.0 to 0.171.0 do it where the project
is not marked.

A thread keeps the developer instructions that it began with. Where Codex had read the file itself, it tells the model
in a marked turn that "the previously provided AGENTS.md instructions no longer apply".
"""

from collections.abc import Iterator
from pathlib import PurePath

import msgspec

from clinvk.backends.base import Host
from clinvk.backends.codex.settings import Settings, folder

INSTRUCTIONS = ("AGENTS.override.md", "AGENTS.md")
"""The names of the files, of which the first that is there counts in each directory."""

_MOST_BYTES = 32 * 1024
_FRAME = "# AGENTS.md instructions for "
_RETRACTED = b"AGENTS.md instructions no longer apply"
_SEARCHED_BYTES = 4 * 1024 * 1024
_FIT_IN_AN_ARGUMENT = 60_000
"""Bytes that are no longer than an argument may be, though each becomes two as TOML."""


def project_instructions(host: Host, settings: Settings, workdir: PurePath) -> str:
    """Give the texts from the project's root down to the working directory; "" where there are none."""
    most = _MOST_BYTES if settings.project_doc_max_bytes is None else settings.project_doc_max_bytes
    left = min(most, _FIT_IN_AN_ARGUMENT)
    texts: list[str] = []
    for place in _folders(host, settings.project_root_markers, workdir):
        data = _first(host, place, (*INSTRUCTIONS, *(settings.project_doc_fallback_filenames or ())), left)
        text = data.decode(errors="replace")
        if text.strip():
            texts.append(text)
            left -= len(data)
    joined = "\n\n".join(texts)
    return f"{_FRAME}{workdir}\n\n<INSTRUCTIONS>\n{joined}\n</INSTRUCTIONS>" if texts else ""


def knows_instructions(host: Host, workdir: str, thread: str, instructions: str) -> bool:
    """Say whether a thread began with them as developer instructions, and Codex does not take them back in it."""
    text = msgspec.json.encode(instructions.partition("<INSTRUCTIONS>\n")[2].removesuffix("\n</INSTRUCTIONS>"))[1:-1]
    found = host.find(f"{folder(host, workdir)}/sessions", f"*/*/*/rollout-*{thread}.jsonl")
    lines = (host.part(found[0], 0, _SEARCHED_BYTES) or b"").splitlines() if found else []
    ours = any(b'"role":"developer"' in line and _FRAME.encode() in line for line in lines)
    return ours and not any(b'"role":"user"' in line and (text in line or _RETRACTED in line) for line in lines)


def root(host: Host, markers: list[str] | None, workdir: PurePath) -> PurePath | None:
    """Give the nearest directory that has one of the markers, by default `.git`."""
    names = [name for name in ([".git"] if markers is None else markers) if name and not name.startswith("/")]
    places = (workdir, *workdir.parents)
    return next((place for place in places if any(host.find(str(place), name) for name in names)), None)


def _folders(host: Host, markers: list[str] | None, workdir: PurePath) -> Iterator[PurePath]:
    top = root(host, markers, workdir) or workdir
    yield from (place for place in reversed((workdir, *workdir.parents)) if place.is_relative_to(top))


def _first(host: Host, place: PurePath, names: tuple[str, ...], size: int) -> bytes:
    """Give the beginning of the first file that is there, though it may be blank."""
    found = (host.part(str(place / name), 0, size) for name in names) if size > 0 else iter(())
    return next((data for data in found if data is not None), b"")
