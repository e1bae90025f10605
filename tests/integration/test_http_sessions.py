"""Sessions over HTTP: listed, shown, described, forked, deleted, continued, and read as conversations."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from clinvk.store.memory import MemoryStore
from clinvk.types.record import RunRecord, Session
from scripted import Scripted
from scripted.steps import claude_says, codex_streams, exits, hang, wait_for
from serving import LiveServer, serving

HANDLE = "11111111-1111-4111-8111-111111111112"
FIELDS = [
    *("id", "backend", "created_at", "last_used", "working_dir", "project", "worktree", "backend_session_id", "model"),
    *("initial_prompt", "status", "turn_count", "token_usage", "cost_usd", "tags", "title", "archived"),
    *("parent_id", "error_message", "metadata"),
]
JSON = dict[str, object]


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [session["id"] for session in response.json()["sessions"]]


def session(number: int, **fields: object) -> Session:
    base = Session(
        id=f"{number:032x}",
        backend="claude",
        created_at=1_700_000_000.0 + number,
        last_used=1_700_000_000.25 + number,
        working_dir="/tmp",
        initial_prompt=f"prompt {number}",
        backend_session_id=HANDLE,
        status="completed",
    )
    return replace(base, **fields)


async def store_of(*sessions: Session) -> MemoryStore:
    store = MemoryStore()
    for one in sessions:
        await store.create(one)
    return store


async def get(server: LiveServer, path: str) -> httpx.Response:
    return await server.client.get(f"/api/v1/sessions{path}")


@pytest.mark.one_machine
async def test_session_has_the_documented_fields(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    async with serving(scripted.env) as server:
        answer = (await server.prompt(workdir=str(tmp_path), tags=["a", "b", "a"], metadata={"k": [1]})).json()
        body = (await get(server, f"/{answer['session_id']}")).json()
    assert list(body) == FIELDS
    assert body["id"] == answer["session_id"]
    assert (body["backend"], body["status"], body["turn_count"]) == ("claude", "completed", 1)
    assert (body["working_dir"], body["initial_prompt"]) == (str(tmp_path), "hi")
    assert (body["project"], body["worktree"]) == (str(tmp_path), None)
    assert (body["backend_session_id"], body["model"]) == (HANDLE, "claude-scripted")
    assert (body["token_usage"], body["cost_usd"]) == (answer["token_usage"], answer["cost_usd"])
    assert (body["tags"], body["metadata"], body["title"]) == (["a", "b"], {"k": [1]}, "")
    assert (body["parent_id"], body["error_message"]) == (None, None)
    for name in ("created_at", "last_used"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body[name])


async def test_sessions_are_listed_newest_first_in_pages_with_the_total(scripted: Scripted) -> None:
    store = await store_of(*map(session, range(7)))
    async with serving(scripted.env, store=store) as server:
        whole = await get(server, "")
        page = await get(server, "?limit=3&offset=2")
        beyond = await get(server, "?offset=100")
    assert ids(whole) == [f"{number:032x}" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert {key: whole.json()[key] for key in ("total", "limit", "offset")} == {"total": 7, "limit": 100, "offset": 0}
    assert ids(page) == [f"{number:032x}" for number in (4, 3, 2)]
    assert {key: page.json()[key] for key in ("total", "limit", "offset")} == {"total": 7, "limit": 3, "offset": 2}
    assert (ids(beyond), beyond.json()["total"]) == ([], 7)
    assert {item["cost_usd"] for item in whole.json()["sessions"]} == {None}


FILTERED: list[tuple[str, list[int]]] = [
    ("backend=codex", [1]),
    ("backend=gemini", []),
    ("status=error", [2]),
    ("status=paused", []),
    ("tag=red", [3]),
    ("tag=r", []),
    ("q=PROMPT%203", [3]),
    ("q=%C3%BCber", [4]),
    ("q=nothing", []),
    ("project=/srv/app", [1]),
    ("archived=true", [5]),
    ("archived=false&backend=codex", [1]),
    ("backend=codex&status=error", []),
    ("backend=&status=&tag=&q=", [4, 3, 2, 1, 0]),
]


async def test_sessions_can_be_filtered(scripted: Scripted) -> None:
    store = await store_of(
        session(0),
        session(1, backend="codex", project="/srv/app"),
        session(2, status="error"),
        session(3, tags=("red",)),
        session(4, title="Über"),
        session(5, archived=True),
    )
    async with serving(scripted.env, store=store) as server:
        for query, found in FILTERED:
            response = await get(server, f"?{query}")
            assert ids(response) == [f"{number:032x}" for number in found], query
            assert response.json()["total"] == len(found)


async def test_search_returns_where_it_found_each_session(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("The needle is here.", session=HANDLE))
    async with serving(scripted.env) as server:
        answer = (await server.prompt(prompt="where?", workdir=str(tmp_path))).json()
        await server.prompt(prompt="the needle, unseen", ephemeral=True)
        found = (await get(server, "?search=needl")).json()
        assert [one["match"] for one in found["sessions"]] == [
            {"run_id": answer["run_id"], "text": "where? The needle is here."}
        ]
        assert (await get(server, "?q=needle&backend=claude")).json()["total"] == 1
        assert [one["match"] for one in (await get(server, "")).json()["sessions"]] == [None]
        assert "match" not in (await get(server, f"/{answer['session_id']}")).json()
        await server.client.delete(f"/api/v1/sessions/{answer['session_id']}")
        assert (await get(server, "?search=needle")).json()["total"] == 0


async def test_list_truncates_a_long_prompt_and_the_session_shows_all_of_it(scripted: Scripted) -> None:
    store = await store_of(session(1, initial_prompt="x" * 5000))
    async with serving(scripted.env, store=store) as server:
        listed = (await get(server, "")).json()["sessions"][0]
        shown = (await get(server, f"/{1:032x}")).json()
    assert listed["initial_prompt"] == "x" * 1000
    assert shown["initial_prompt"] == "x" * 5000


INVALID = [
    ("limit=1001", "limit", 'limit must be a whole number from 1 to 1000, got "1001"'),
    ("status=done", "status", 'status must be one of active, completed, error, paused, got "done"'),
    ("limits=3", "limits", "unknown parameter 'limits'; did you mean 'limit'?"),
    ("limit=3&limit=4", "limit", "parameter 'limit' is given twice"),
]


async def test_error_for_an_invalid_parameter_names_it(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        for query, field, words in INVALID:
            response = await get(server, f"?{query}")
            assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), query
            assert response.json().get("field") == field
            assert words in response.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "messages", "fork"])
async def test_unique_id_prefix_is_accepted(scripted: Scripted, method: str) -> None:
    one, other, third = (f"abcd{digit}{'0' * 27}" for digit in "012")
    store = await store_of(session(1, id=one), session(2, id=other), session(3, id=third))

    async def ask(reference: str) -> httpx.Response:
        path = f"/api/v1/sessions/{reference}"
        match method:
            case "messages":
                return await server.client.get(f"{path}/messages")
            case "fork":
                return await server.client.post(f"{path}/fork")
            case _:
                body = {"title": "x"} if method == "PATCH" else None
                return await server.client.request(method, path, json=body)

    async with serving(scripted.env, store=store) as server:
        assert (await ask("abcd1")).status_code in (200, 201)
        unknown, ambiguous = await ask("ffff"), await ask("ABCD")
        malformed = [await ask(reference) for reference in ("abc", "xyz1", "0" * 33, "abcd-1")]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "session_not_found")
    assert (ambiguous.status_code, ambiguous.json()["code"]) == (409, "ambiguous_id")
    candidates = ambiguous.json()["candidates"]
    assert {one, third} <= set(candidates)
    assert all(candidate in ambiguous.json()["detail"] for candidate in candidates)
    assert {response.status_code for response in malformed} == {404}


async def test_title_and_tags_can_be_changed_separately(scripted: Scripted) -> None:
    store = await store_of(session(1, tags=("old",)))
    path = f"/api/v1/sessions/{1:032x}"
    async with serving(scripted.env, store=store) as server:
        titled = await server.client.patch(path, json={"title": "Übung"})
        tagged = await server.client.patch(path, json={"tags": ["b", "a", "b"], "title": None})
        nothing = await server.client.patch(path, json={})
        cleared = await server.client.patch(path, json={"title": "", "tags": []})
    assert (titled.json()["title"], titled.json()["tags"]) == ("Übung", ["old"])
    assert (tagged.json()["title"], tagged.json()["tags"]) == ("Übung", ["b", "a"])
    assert nothing.json() == tagged.json()
    assert (cleared.json()["title"], cleared.json()["tags"]) == ("", [])


INVALID_CHANGES: list[tuple[object, str | None, str]] = [
    ({"titel": "x"}, "titel", "unknown field 'titel'; did you mean 'title'?"),
    ({"title": "x" * 501}, "title", "title must be a text of at most 500 characters"),
    ({"tags": ["a", ""]}, "tags[1]", "tags[1] must be a text of 1 to 100 characters"),
    ([], None, "the body must be a JSON object"),
]


async def test_invalid_change_is_reported_and_changes_nothing(scripted: Scripted) -> None:
    store = await store_of(session(1))
    async with serving(scripted.env, store=store) as server:
        for body, field, words in INVALID_CHANGES:
            response = await server.client.patch(f"/api/v1/sessions/{1:032x}", json=body)
            assert response.status_code == 400
            assert response.json().get("field") == field
            assert words in response.json()["detail"]
    assert await store.session(f"{1:032x}") == session(1)


async def test_change_requires_a_json_content_type_and_a_body_within_the_limit(scripted: Scripted) -> None:
    store = await store_of(session(1))
    path = f"/api/v1/sessions/{1:032x}"
    async with serving(scripted.env, store=store, max_request_body_bytes=100) as server:
        undeclared = await server.client.patch(path, content=b'{"title": "x"}')
        large = await server.client.patch(path, json={"title": "x" * 100})
    assert (undeclared.status_code, large.status_code) == (415, 413)


async def test_archived_session_is_listed_again_after_its_next_prompt(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    path = f"/api/v1/sessions/{1:032x}"
    async with serving(
        scripted.env, store=await store_of(session(1, working_dir=str(tmp_path), tags=("a",)))
    ) as server:
        archived = await server.client.patch(path, json={"archived": True})
        assert (archived.status_code, archived.json()["archived"], archived.json()["tags"]) == (200, True, ["a"])
        assert ids(await get(server, "")) == []
        assert ids(await get(server, "?archived=true")) == [f"{1:032x}"]
        fork = (await server.client.post(f"{path}/fork")).json()
        assert ids(await get(server, "")) == [fork["id"]]
        assert (await server.prompt(session_id=f"{1:032x}")).status_code == 200
        assert ids(await get(server, "")) == [f"{1:032x}", fork["id"]]
        await server.client.patch(path, json={"archived": True})
        assert (await server.client.patch(path, json={"archived": False})).json()["archived"] is False


async def test_projects_have_their_sessions_and_branch(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / "app" / ".git").mkdir(parents=True)
    (tmp_path / "app" / ".git" / "HEAD").write_text("ref: refs/heads/feature/x\n")
    (tmp_path / "app" / "inside").mkdir()
    places = [f"{tmp_path}/app", f"{tmp_path}/app/inside", f"{tmp_path}/gone", "/etc", f"{tmp_path}/app"]
    store = await store_of(*(session(number, project=place) for number, place in enumerate(places)))
    await store.create(session(9, project=f"{tmp_path}/gone", archived=True))
    async with serving(scripted.env, store=store, allowed_workdir_prefixes=(str(tmp_path),)) as server:
        response = await server.client.get("/api/v1/projects")
    found = response.json()["projects"]
    assert [(each["directory"], each["name"], each["sessions"]) for each in found] == [
        (places[0], "app", 2),
        (places[2], "gone", 1),
        (places[1], "inside", 1),
    ]
    assert found[0]["updated_at"] == "2023-11-14T22:13:24.250Z"
    branch = None if server.is_cluster else "feature/x"
    assert [each["branch"] for each in found] == [branch, None, branch]


async def test_deleted_session_is_removed_with_its_runs(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        answer = (await server.prompt()).json()
        path = f"/{answer['session_id']}"
        deleted = await server.client.delete(f"/api/v1/sessions{path}")
        assert (deleted.status_code, deleted.json()) == (
            200,
            {"deleted": True, "id": answer["session_id"], "worktree": None},
        )
        assert (await get(server, path)).status_code == 404
        assert (await server.client.delete(f"/api/v1/sessions{path}")).status_code == 404
        assert (await server.client.get(f"/api/v1/runs/{answer['run_id']}")).status_code == 404


async def test_several_sessions_are_deleted_and_each_failure_is_reported(scripted: Scripted) -> None:
    store = await store_of(*map(session, range(1, 5)))
    one, two, busy, other = (f"{number:032x}" for number in range(1, 5))
    await store.begin(
        RunRecord(id="e" * 32, backend="claude", prompt="", state="running", created_at=1, session_id=busy),
        await store.session(busy),
    )
    async with serving(scripted.env, store=store) as server:
        response = await server.client.post("/api/v1/sessions/delete", json={"ids": [one, busy, two, "ffff", "", one]})
        bodies: list[object] = [{}, {"ids": []}, {"ids": [one] * 1001}, {"ids": one}]
        refused = [await server.client.post("/api/v1/sessions/delete", json=body) for body in bodies]
        foreign = await server.client.post(
            "/api/v1/sessions/delete", json={"ids": [other]}, headers={"origin": "https://evil.example"}
        )
        assert {*ids(await get(server, ""))} == {busy, other}
    assert (response.status_code, response.json()["deleted"]) == (200, [one, two])
    assert [error["id"] for error in response.json()["errors"]] == [busy, "ffff", ""]
    assert "is busy" in response.json()["errors"][0]["detail"]
    assert [answer.status_code for answer in refused] == [400] * 4
    assert foreign.status_code == 403


async def test_session_with_an_active_run_is_neither_deleted_nor_resumed(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x", session=HANDLE), when="first")
    scripted.play(
        [*claude_says("x", session=HANDLE)[:4], wait_for(tmp_path / "go"), *claude_says()[-1:]], when="second"
    )
    async with serving(scripted.env) as server:
        session_id = (await server.prompt(prompt="first")).json()["session_id"]
        running = await server.detached(prompt="second", session_id=session_id)
        refused = await server.client.delete(f"/api/v1/sessions/{session_id}")
        again = await server.prompt(prompt="third", session_id=session_id)
        assert (await get(server, f"/{session_id}")).json()["status"] == "active"
        (tmp_path / "go").touch()
        await server.ended(running["run_id"])
        assert (await server.client.delete(f"/api/v1/sessions/{session_id}")).status_code == 200
    for response in (refused, again):
        assert (response.status_code, response.json()["code"]) == (409, "session_busy")
        assert running["run_id"] in response.json()["detail"]
    assert len(scripted.calls()) == 2


async def test_session_is_resumed_by_id_or_prefix_without_naming_its_backend(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play(codex_streams("x"))
    async with serving(scripted.env) as server:
        first = (await server.prompt(backend="codex", workdir=str(tmp_path))).json()
        body = {"session_id": first["session_id"][:8], "prompt": "and now?"}
        second = await server.client.post("/api/v1/prompt", json=body)
        answer = (await get(server, f"/{first['session_id']}")).json()
    assert second.status_code == 200, second.text
    assert (second.json()["session_id"], second.json()["backend"]) == (first["session_id"], "codex")
    call = scripted.calls()[1]
    assert (call.name, call.cwd) == ("codex", str(tmp_path))
    assert b"01a20000-0000-7000-8000-000000000001" in (call.stdin or b"")
    assert answer["turn_count"] == 2


async def test_another_agent_continues_a_session_only_if_asked(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("avocado", session=HANDLE))
    async with serving(scripted.env) as server:
        first = (await server.prompt(workdir=str(tmp_path), sandbox_mode="read-only", prompt="one")).json()
        body = {"session_id": first["session_id"], "backend": "codex", "prompt": "two"}
        refused = await server.client.post("/api/v1/prompt", json=body)
        scripted.play(codex_streams("x"))
        second = await server.client.post("/api/v1/prompt", json={**body, "continue_with": True})
        run = (await server.client.get(f"/api/v1/runs/{second.json()['run_id']}")).json()
        answer = (await get(server, f"/{first['session_id']}")).json()
    assert (refused.status_code, "continue_with" in refused.json()["detail"]) == (400, True)
    assert second.status_code == 200, second.text
    assert (second.json()["session_id"], answer["backend"]) == (first["session_id"], "codex")
    assert (run["prompt"], run["request"]["sandbox_mode"]) == ("two", "read-only")
    assert b"avocado" in (scripted.calls()[-1].stdin or b"")


async def test_another_agent_waits_for_the_turn_of_a_busy_session(scripted: Scripted, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    begins, *rest = claude_says("avocado", session=HANDLE)
    scripted.play([begins, wait_for(gate), *rest])
    async with serving(scripted.env) as server:
        first = await server.detached(workdir=str(tmp_path), prompt="one")
        for _ in range(400):
            if (await get(server, f"/{first['session_id']}")).json()["backend_session_id"]:
                break
            await asyncio.sleep(0.05)
        scripted.play(codex_streams("x"))
        body = {"session_id": first["session_id"], "backend": "codex", "prompt": "two", "continue_with": True}
        gate.touch()
        second = await server.client.post("/api/v1/prompt", json={**body, "on_busy": "queue"})
        assert second.status_code == 200, second.text
        fork = (await server.client.post(f"/api/v1/sessions/{first['session_id']}/fork")).json()
        scripted.play(claude_says("y", session=HANDLE[:-1] + "3"))
        body = {"session_id": fork["id"], "backend": "claude", "prompt": "three", "continue_with": True}
        third = await server.client.post("/api/v1/prompt", json=body)
        assert third.status_code == 200, third.text
    sent = [call.stdin or b"" for call in scripted.calls()]
    assert b"avocado" in sent[1]
    assert b"avocado" in sent[2]
    assert sent[1].count(b"You continue a conversation") == 1


UNFIT = [
    ({"backend": "codex"}, 400, "invalid_request", "is of backend 'claude', not 'codex'"),
    ({"ephemeral": True}, 400, "invalid_request", "cannot be ephemeral"),
    ({"workdir": "/etc"}, 400, "invalid_request", "works in '/tmp'; leave workdir out"),
    ({"session_id": "00000"}, 409, "ambiguous_id", "is the beginning of several session ids"),
    ({"session_id": "ffff"}, 404, "session_not_found", "no session 'ffff'"),
    ({"session_id": "xy"}, 404, "session_not_found", "'xy' is not a session id"),
    ({"session_id": f"{2:032x}"}, 409, "session_not_resumable", "its agent never reported a session id"),
    ({"session_id": f"{3:032x}"}, 404, "backend_unavailable", "unknown backend 'lost'"),
]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_prompt_that_does_not_match_its_session_is_refused(scripted: Scripted, dry_run: bool) -> None:
    store = await store_of(session(1), session(2, backend_session_id=None), session(3, backend="lost"))
    async with serving(scripted.env, store=store) as server:
        for fields, status, code, words in UNFIT:
            body = {"prompt": "hi", "session_id": f"{1:032x}", "dry_run": dry_run, **fields}
            response = await server.client.post("/api/v1/prompt", json=body)
            assert (response.status_code, response.json()["code"]) == (status, code), response.text
            assert words in response.json()["detail"]
    assert scripted.calls() == []


async def test_prompt_may_repeat_the_directory_of_its_session(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    (tmp_path / "link").symlink_to(tmp_path)
    async with serving(scripted.env, store=await store_of(session(1, working_dir=str(tmp_path)))) as server:
        response = await server.prompt(session_id=f"{1:032x}", workdir=f"{tmp_path}/link/")
    assert response.status_code == 200, response.text
    assert scripted.calls()[0].cwd == str(tmp_path)


@pytest.mark.one_machine
async def test_fork_is_a_separate_session_that_continues_the_original(scripted: Scripted) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    async with serving(scripted.env) as server:
        parent = (await server.prompt()).json()["session_id"]
        response = await server.client.post(f"/api/v1/sessions/{parent}/fork")
        fork = response.json()
        assert (response.status_code, list(fork)) == (201, FIELDS)
        assert response.headers["location"] == f"/api/v1/sessions/{fork['id']}"
        assert (await server.client.get(response.headers["location"])).json() == fork
        assert (await server.prompt(session_id=fork["id"])).json()["session_id"] == fork["id"]
        turns = (await get(server, f"/{parent}")).json()["turn_count"]
    assert (fork["parent_id"], turns) == (parent, 1)
    assert HANDLE in " ".join(scripted.calls()[1].argv)
    assert "--fork-session" in scripted.calls()[1].argv


async def test_session_without_an_answer_cannot_be_forked(scripted: Scripted) -> None:
    async with serving(scripted.env, store=await store_of(session(1, backend_session_id=None))) as server:
        response = await server.client.post(f"/api/v1/sessions/{1:032x}/fork")
    assert (response.status_code, response.json()["code"]) == (409, "session_not_resumable")


async def test_foreign_page_cannot_fork_or_cancel_through_a_browser(scripted: Scripted) -> None:
    """A browser sends a POST without a body to any server, without asking first."""
    fork, cancel = f"/api/v1/sessions/{1:032x}/fork", f"/api/v1/runs/{1:032x}/cancel"
    async with serving(scripted.env, store=await store_of(session(1))) as server:
        for origin in ("http://evil.example", "null", "http://127.0.0.1"):
            for path in (fork, cancel):
                response = await server.client.post(path, headers={"origin": origin})
                assert (response.status_code, response.json()["code"]) == (403, "foreign_origin")
        own = f"http://127.0.0.1:{server.port}"
        assert (await server.client.post(fork, headers={"origin": own})).status_code == 201


async def test_conversation_is_returned_turn_by_turn_with_tokens_and_errors(scripted: Scripted) -> None:
    scripted.play(claude_says("fine", session=HANDLE), when="one")
    scripted.play([*claude_says("half", session=HANDLE)[:4], exits(9)], when="two")
    scripted.play([*claude_says("x", session=HANDLE)[:4], hang()], when="three")
    async with serving(scripted.env) as server:
        session_id = (await server.prompt(prompt="one")).json()["session_id"]
        await server.prompt(prompt="two", session_id=session_id)
        third = await server.detached(prompt="three", session_id=session_id)
        answer = (await get(server, f"/{session_id}/messages")).json()
        newest = (await get(server, f"/{session_id[:6]}/messages?limit=1&offset=1")).json()
        await server.client.post(f"/api/v1/runs/{third['run_id']}/cancel")
    conversation = [(message["role"], message["text"]) for message in answer["messages"]]
    assert conversation == [
        ("user", "one"),
        ("assistant", "fine"),
        ("user", "two"),
        ("assistant", "half"),
        ("user", "three"),
    ]
    one, fine, two, half, three = answer["messages"]
    assert fine["usage"]["output_tokens"] == 5
    assert "error" not in fine
    assert half["error"]
    assert one["run_id"] == fine["run_id"] != two["run_id"] == half["run_id"] != three["run_id"] == third["run_id"]
    assert [message["time"] for message in answer["messages"]] == sorted(
        message["time"] for message in answer["messages"]
    )
    assert (answer["session_id"], answer["total"], answer["limit"], answer["offset"]) == (session_id, 3, 100, 0)
    assert [message["text"] for message in newest["messages"]] == ["two", "half"]
