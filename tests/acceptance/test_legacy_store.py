"""Sessions of an earlier clinvk are listed over HTTP and on the command line; their files stay unchanged."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

from acceptance.command import command_line, until
from acceptance.server import Server
from echo import Echo
from legacy_store import earlier_sessions

COUNT = 300


def _untouched(files: dict[Path, bytes]) -> bool:
    folder = next(iter(files)).parent
    return {file: file.read_bytes() for file in folder.iterdir()} == files


def _imported(server: Server, count: int) -> None:
    until(lambda: server.client.get("/health").json()["session_store"]["session_count"] == count)


async def test_concurrent_imports_import_each_session_once(echo: Echo) -> None:
    files = earlier_sessions(echo.folder / ".clinvk", COUNT)
    with Server(echo) as one, Server(echo) as other:
        done = await asyncio.gather(
            *(command_line(echo, "sessions", "list", "--limit", "0", "--json") for _ in range(3))
        )
        for server in (one, other):
            _imported(server.ready(), COUNT)
        until(lambda: _told([*(each.stderr for each in done), one.said, other.said]) == COUNT)
        page = one.client.get("/api/v1/sessions?limit=1000").json()
    assert {each.returncode for each in done} == {0}
    assert {json.loads(each.stdout)["total"] for each in done} == {COUNT}
    assert Counter(session["id"] for session in page["sessions"]) == Counter(file.stem for file in files)
    assert _untouched(files)


def _told(texts: list[str]) -> int:
    """Return the reported number of imported sessions."""
    return sum(int(number) for text in texts for number in re.findall(r"imported (\d+) sessions? of", text))
