"""Sessions of an earlier clinvk are listed over HTTP and on the command line; their files stay unchanged."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

from acceptance.command import Clinvk, command_line, until
from acceptance.server import Server
from echo import Echo, answer
from legacy_store import HANDLE, earlier_sessions

COUNT = 300


def _untouched(files: dict[Path, bytes]) -> bool:
    folder = next(iter(files)).parent
    return {file: file.read_bytes() for file in folder.iterdir()} == files


def _imported(server: Server, count: int) -> None:
    until(lambda: server.client.get("/health").json()["session_store"]["session_count"] == count)


def test_server_imports_earlier_sessions_at_startup_and_resumes_them(echo: Echo) -> None:
    files = earlier_sessions(echo.folder / ".clinvk", 3)
    with Server(echo) as server:
        _imported(server.ready(), 3)
        listed = server.client.get("/api/v1/sessions").json()["sessions"]
        assert [session["initial_prompt"] for session in listed] == [f"earlier prompt {number}" for number in (2, 1, 0)]
        assert {session["status"] for session in listed} == {"paused"}
        name = echo.name()
        answered = server.prompt(f"{name} 0", session_id=listed[1]["id"]).json()
        assert answered["output"] == answer(name)
        session = server.client.get(f"/api/v1/sessions/{listed[1]['id']}").json()
        assert (session["turn_count"], session["backend_session_id"]) == (3, HANDLE.format(number=1))
        assert session["token_usage"]["input_tokens"] == 24 + 12
    assert _untouched(files)


def test_sessions_list_imports_earlier_sessions(echo: Echo) -> None:
    files = earlier_sessions(echo.folder / ".clinvk", 3)
    clinvk = Clinvk(echo, echo.folder)
    first, again = clinvk.run("sessions", "list", "--json"), clinvk.run("sessions", "list", "--json")
    assert first.stderr == "clinvk: imported 3 sessions of an earlier clinvk; its files are unchanged\n"
    assert json.loads(first.stdout)["total"] == 3
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert _untouched(files)


def test_continue_resumes_the_newest_earlier_session(echo: Echo) -> None:
    earlier_sessions(echo.folder / ".clinvk", 3)
    name = echo.name()
    done = Clinvk(echo, echo.folder).run("--continue", f"{name} 0")
    assert json.loads(done.stdout)["session_id"] == f"{2:032x}"
    assert (echo.folder / HANDLE.format(number=2)).read_text() == f"{name}\n"


def test_later_imports_keep_deletions_and_changes(echo: Echo) -> None:
    files = earlier_sessions(echo.folder / ".clinvk", 3)
    with Server(echo) as server:
        _imported(server.ready(), 3)
        assert server.client.delete(f"/api/v1/sessions/{0:032x}").status_code == 200
        assert server.client.patch(f"/api/v1/sessions/{1:032x}", json={"title": "mine"}).status_code == 200
        server.stop()
    for file in files:
        file.touch()
    late = earlier_sessions(echo.folder / ".clinvk", 1, first=7)
    with Server(echo) as server:
        _imported(server.ready(), 3)
        listed = {
            session["id"]: session["title"] for session in server.client.get("/api/v1/sessions").json()["sessions"]
        }
    assert listed == {f"{1:032x}": "mine", f"{2:032x}": "", f"{7:032x}": ""}
    assert _untouched(files | late)


def test_damaged_earlier_sessions_are_reported_and_skipped(echo: Echo) -> None:
    home = echo.folder / ".clinvk"
    files = earlier_sessions(home, 2)
    for name, data in (("a.json", b'{"id": '), ("b.json", b"[]"), ("c.json", b"\xff\xfe")):
        files[home / "sessions" / name] = data
        (home / "sessions" / name).write_bytes(data)
    done = Clinvk(echo, echo.folder).run("sessions", "list", "--json")
    assert (done.returncode, json.loads(done.stdout)["total"]) == (0, 2)
    assert re.findall(r"not imported: \S*/(.\.json): it is no", done.stderr) == ["a.json", "b.json", "c.json"]
    assert _untouched(files)
    (home / "clinvk.db").unlink()
    with Server(echo) as server:
        _imported(server.ready(), 2)
        until(lambda: server.said.count("not imported: ") == 3)
    assert _untouched(files)


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
