"""POST /api/v1/prompt on a real socket, with a scripted agent behind it."""

import asyncio
import gc
import gzip
import json
from pathlib import Path

import pytest

from clinvk.api.http.response import DisconnectWatch
from clinvk.backends.base import Host, Launch
from clinvk.config.model import BackendSettings
from clinvk.runtime.process.process import Process
from clinvk.runtime.run.task import RunTask
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from polling import until
from scripted import Scripted
from scripted.steps import Step, claude_says, exits, hang, ignore, letters, pause, spawn, stderr, touch, wait_for
from serving import LiveServer, serving
from shell_backend import Shell

JSON_TYPE = "application/json"
Line = dict[str, object]


def lines_of(text: str) -> list[Line]:
    return [json.loads(line) for line in text.splitlines()]


def started() -> list[Step]:
    """The first lines of an answer, up to its first text."""
    return claude_says("x")[:4]


async def test_answer_is_one_json_object(scripted: Scripted) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with serving(scripted.env) as server:
        response = await server.prompt()
    assert (response.status_code, response.headers["content-type"]) == (200, JSON_TYPE)
    answer = response.json()
    assert (answer["output"], answer["exit_code"], answer["backend"]) == ("hello world", 0, "claude")
    assert (answer["model"], answer["cost_usd"], answer["stop_reason"]) == ("claude-scripted", 0.01, "end_turn")
    assert answer["token_usage"]["output_tokens"] == 5
    assert len(answer["session_id"]) == len(answer["run_id"]) == 32
    assert "error" not in answer


async def test_stream_has_one_event_per_line_from_init_to_done(scripted: Scripted) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with serving(scripted.env) as server:
        response = await server.prompt(output_format="stream-json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    reported = lines_of(response.text)
    assert [event["type"] for event in reported] == ["init", "message", "message", "token_usage", "done"]
    assert [event["sequence"] for event in reported] == [1, 2, 3, 4, 5]


async def test_event_is_sent_before_the_agent_continues(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with (
        serving(scripted.env) as server,
        server.client.stream("POST", "/api/v1/prompt", json=body(output_format="stream-json")) as response,
    ):
        texts: list[str] = []
        async for text in response.aiter_lines():
            texts.append(text)
            if '"one"' in text:
                (tmp_path / "go").touch()
    assert [event["type"] for event in map(json.loads, texts)][-1] == "done"


async def test_accept_header_requests_a_stream(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        response = await server.client.post("/api/v1/prompt", json=body(), headers={"accept": "application/x-ndjson"})
    assert response.headers["content-type"] == "application/x-ndjson"


async def test_failed_agent_returns_200_with_its_exit_code_and_partial_answer(scripted: Scripted) -> None:
    scripted.play([*started(), stderr("disk full"), exits(9)])
    async with serving(scripted.env) as server:
        response = await server.prompt(verbose=True)
        streamed = await server.prompt(output_format="stream-json")
    answer = response.json()
    assert (response.status_code, answer["exit_code"], answer["output"]) == (200, 9, "x")
    assert (answer["error_code"], answer["stderr"]) == ("agent_crashed", "disk full")
    assert "disk full" in answer["error"]
    last = lines_of(streamed.text)[-1]
    assert (streamed.status_code, last["type"]) == (200, "error")


def body(**fields: object) -> dict[str, object]:
    return {"backend": "claude", "prompt": "hi", **fields}


async def test_prompt_reaches_the_agent_over_stdin_in_the_requested_directory(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play(claude_says("x"))
    prompt = "-p --help \U0001f600 " + "long " * 200_000
    async with serving(scripted.env) as server:
        assert (await server.prompt(prompt=prompt, workdir=str(tmp_path))).json()["exit_code"] == 0
    (call,) = scripted.calls()
    assert prompt in (call.stdin or b"").decode()
    assert call.cwd == str(tmp_path)


async def test_dry_run_shows_the_command_and_runs_nothing(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        response = await server.prompt(dry_run=True, sandbox_mode="read-only", model="opus")
        streamed = await server.prompt(dry_run=True, output_format="stream-json")
    answer = response.json()
    assert (response.status_code, answer["exit_code"], answer["session_id"]) == (200, 0, None)
    assert "claude -p" in answer["output"]
    assert "opus" in answer["output"]
    assert "Would execute" not in answer["output"]
    assert [event["type"] for event in lines_of(streamed.text)] == ["init", "message", "done"]
    assert scripted.calls() == []


REFUSED = [
    ({"backend": "qwn"}, 404, "backend", "unknown backend 'qwn' (available: claude, codex, gemini)"),
    ({"backend": "claude>codex"}, 404, "backend", "the agents after > belong in --fallback, or in fallback over REST"),
    ({"backend": "gemni"}, 404, "backend", "did you mean 'gemini'?"),
    ({"prompt": ""}, 400, "prompt", "prompt is empty"),
    ({"sandbox_mod": "read-only"}, 400, "sandbox_mod", "did you mean 'sandbox_mode'?"),
    ({"workdir": "relative"}, 400, "workdir", "must be an absolute path, got 'relative'"),
    ({"workdir": "/no/such/place"}, 400, "workdir", "'/no/such/place' does not exist"),
    ({"workdir": __file__}, 400, "workdir", "is not a directory"),
    ({"workdir": "/" + "x" * 5000}, 400, "workdir", "cannot be used"),
    ({"add_dirs": ["/tmp", "nowhere"]}, 400, "add_dirs[1]", "must be an absolute path, got 'nowhere'"),
    ({"session_id": "f" * 32}, 404, "session_id", "no session"),
    ({"max_turns": "many"}, 400, "max_turns", 'got "many"'),
]


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_invalid_request_is_a_problem_naming_the_field(scripted: Scripted, output_format: str) -> None:
    async with serving(scripted.env) as server:
        for fields, status, field, words in REFUSED:
            response = await server.prompt(output_format=output_format, **fields)
            problem = response.json()
            assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
            assert problem["field"] == field
            assert words in problem["detail"]
            assert problem["request_id"] == response.headers["x-request-id"]
    assert scripted.calls() == []


async def test_missing_backend_is_a_problem_with_install_instructions(tmp_path: Path) -> None:
    async with serving({"PATH": str(tmp_path), "HOME": str(tmp_path)}) as server:
        response = await server.prompt()
    assert response.status_code == 404
    assert "install: npm install" in response.json()["detail"]


class Faulty(Shell):
    """A backend with a defect."""

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        raise RuntimeError("a mistake")


@pytest.mark.parametrize(
    ("path", "asked", "expected"),
    [
        ("/api/v1/prompt", {"backend": "faulty", "prompt": "hi"}, ("code", "internal_error")),
        ("/openai/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, ("type", "server_error")),
    ],
)
async def test_internal_error_returns_500_and_is_only_logged(
    scripted: Scripted, path: str, asked: Line, expected: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    registry = {"faulty": Faulty("faulty")}
    async with serving(scripted.env, registry=registry) as server:
        response = await server.client.post(path, json={"model": "faulty", **asked} if "messages" in asked else asked)
    body = response.json()
    name, value = expected
    assert (response.status_code, body.get("error", body)[name]) == (500, value)
    assert "a mistake" not in response.text
    assert "a mistake" in caplog.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("prompt", {"backend": "claude", "prompt": "hi"}),
        ("parallel", {"tasks": [{"backend": "claude", "prompt": "hi"}]}),
    ],
)
async def test_lack_of_memory_after_the_run_does_not_invite_to_run_the_prompt_again(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, path: str, body: Line
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    scripted.play(claude_says("x"))
    monkeypatch.setattr("clinvk.dialects.rest.rest.Rest.result", fail)
    monkeypatch.setattr("clinvk.dialects.rest.batch_answers.encoded", fail)
    async with serving(scripted.env) as server:
        response = await server.client.post(f"/api/v1/{path}", json=body)
    assert (response.status_code, response.json()["code"], len(scripted.calls())) == (500, "internal_error", 1)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_disabled_backend_is_not_run(scripted: Scripted, dry_run: bool) -> None:
    off = {"claude": BackendSettings(enabled=False)}
    async with serving(scripted.env, backends=off) as server:
        response = await server.prompt(dry_run=dry_run)
    assert (response.status_code, response.json()["field"]) == (404, "backend")
    assert "backends.claude.enabled" in response.json()["detail"]


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_body_without_a_json_content_type_is_refused(scripted: Scripted, media_type: str | None) -> None:
    headers = {"content-type": media_type} if media_type else {}
    async with serving(scripted.env) as server:
        response = await server.client.post("/api/v1/prompt", content=json.dumps(body()), headers=headers)
    assert response.status_code == 415
    assert "'application/json'" in response.json()["detail"]
    assert scripted.calls() == []


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"]
)
async def test_json_content_type_is_accepted_in_any_usual_form(scripted: Scripted, media_type: str) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        response = await server.client.post(
            "/api/v1/prompt", content=json.dumps(body()), headers={"content-type": media_type}
        )
    assert response.status_code == 200


async def test_compressed_body_is_refused(scripted: Scripted) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with serving(scripted.env) as server:
        data = gzip.compress(json.dumps(body()).encode())
        response = await server.client.post("/api/v1/prompt", content=data, headers=headers)
        plain = await server.client.post(
            "/api/v1/prompt",
            content=json.dumps(body(dry_run=True)),
            headers={**headers, "content-encoding": "identity"},
        )
    assert response.status_code == 415
    assert "content-encoding" in response.json()["detail"]
    assert plain.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit_is_refused_with_or_without_content_length(scripted: Scripted, chunked: bool) -> None:
    data = json.dumps(body(prompt="x" * 2000)).encode()

    async def pieces():
        yield data[:900]
        yield data[900:]

    async with serving(scripted.env, max_request_body_bytes=1000) as server:
        response = await server.client.post(
            "/api/v1/prompt", content=pieces() if chunked else data, headers={"content-type": JSON_TYPE}
        )
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
        assert "1000 bytes" in response.json()["detail"]
        assert (await server.prompt(prompt="", max_turns=1)).status_code == 400
    assert scripted.calls() == []


async def test_incomplete_body_times_out(scripted: Scripted) -> None:
    async with serving(scripted.env, read_timeout_secs=1) as server:
        head = (
            "POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\n"
            f"content-type: {JSON_TYPE}\r\ncontent-length: 99\r\n\r\n{{"
        )
        reader, writer = await server.raw(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_default_directory_is_the_servers_own(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        await server.prompt()
    assert scripted.calls()[0].cwd == str(Path.cwd())


async def test_configured_directory_overrides_the_servers_own(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env, default_workdir=str(tmp_path)) as server:
        await server.prompt()
    assert scripted.calls()[0].cwd == str(tmp_path)


async def test_service_started_in_the_root_directory_uses_a_private_workspace(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.play(claude_says("x"))
    monkeypatch.chdir("/")
    home = tmp_path / "home"
    async with serving({**scripted.env, "CLINVK_HOME": str(home)}) as server:
        assert (await server.prompt()).json()["exit_code"] == 0
    workspace = home / "workspace"
    assert scripted.calls()[0].cwd == str(workspace)
    assert workspace.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("asked", [{"timeout_secs": 0.2}, {}])
async def test_run_that_times_out_is_ended_and_reported(scripted: Scripted, asked: dict[str, object]) -> None:
    scripted.play([*started(), hang()])
    async with serving(scripted.env, request_timeout_secs=1) as server:
        answer = (await server.prompt(**asked)).json()
    assert (answer["exit_code"], answer["error_code"], answer["output"]) == (1, "timed_out", "x")
    assert scripted.alive() == []


async def test_request_refused_by_a_full_queue_gets_retry_after(scripted: Scripted) -> None:
    scripted.play([*started(), hang()])
    async with serving(scripted.env, max_concurrent_runs=1, max_queued_runs=0) as server:
        reader, writer = await ask(server)
        await until(scripted.calls)
        response = await server.prompt()
        assert (response.status_code, response.json()["code"]) == (503, "queue_full")
        assert int(response.headers["retry-after"]) > 0
        writer.close()
        await reader.read()


async def ask(server: LiveServer, **fields: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a prompt over a connection of its own, and do not wait for the answer."""
    data = json.dumps(body(**fields)).encode()
    head = (
        "POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: {JSON_TYPE}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return await server.raw(head.encode() + data)


@pytest.mark.parametrize("how", ["plain", "setsid", "double-fork", "env-i", "all"])
async def test_client_disconnect_while_waiting_ends_the_agent_and_its_children(scripted: Scripted, how: str) -> None:
    scripted.play([*started(), spawn(how), hang()])  # pyright: ignore[reportArgumentType]
    async with serving(scripted.env) as server:
        _, writer = await ask(server)
        await until(scripted.grandchildren)
        writer.close()
        await until(lambda: not scripted.alive())


async def test_client_disconnect_while_streaming_ends_the_agent(scripted: Scripted) -> None:
    scripted.play([*started(), spawn("setsid"), *[step for _ in range(500) for step in (*started()[3:], pause(0.02))]])
    async with serving(scripted.env) as server:
        reader, writer = await ask(server, output_format="stream-json")
        await reader.readuntil(b'"message"')
        await until(scripted.grandchildren)
        writer.close()
        await until(lambda: not scripted.alive())


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_client_that_closes_its_sending_side_ends_the_agent(scripted: Scripted, output_format: str) -> None:
    scripted.play([*started(), spawn("setsid"), hang()])
    async with serving(scripted.env) as server:
        reader, writer = await ask(server, output_format=output_format)
        await until(scripted.grandchildren)
        writer.write_eof()
        await until(lambda: not scripted.alive())
        assert b'"done"' not in await asyncio.wait_for(reader.read(), 20)
        writer.close()


async def test_client_disconnect_from_an_unread_stream_ends_the_agent(scripted: Scripted) -> None:
    says = claude_says("SPLIT")
    before, after = str(says[3]["line"]).split("SPLIT")
    flood = [letters(100_000, before, after)] * 400
    scripted.play([*says[:3], spawn("setsid"), *flood, hang()])
    async with serving(scripted.env) as server:
        reader, writer = await ask(server, output_format="stream-json")
        await reader.readuntil(b'"message"')
        await until(scripted.grandchildren)
        await asyncio.sleep(0.3)  # the flood fills every buffer on the way
        assert scripted.alive()
        writer.transport.abort()
        await until(lambda: not scripted.alive())


async def test_client_disconnect_while_queued_prevents_the_run(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([*started(), wait_for(tmp_path / "go"), *claude_says()[-1:]], when="first")
    scripted.play([touch(tmp_path / "ran"), *claude_says("x")], when="second")
    async with serving(scripted.env, max_concurrent_runs=1) as server:
        reader, writer = await ask(server, prompt="first")
        await until(scripted.calls)
        _, leaver = await ask(server, prompt="second")
        await until(lambda: server.state.active_requests == 2)
        leaver.close()
        await until(lambda: server.state.active_requests == 1)
        (tmp_path / "go").touch()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert [call.stdin for call in scripted.calls()] == [b"first"]
    assert not (tmp_path / "ran").exists()


async def test_agent_that_ignores_sigterm_is_killed_after_its_grace_period(scripted: Scripted) -> None:
    scripted.play([ignore(), *started(), spawn("all"), hang()])
    async with serving(scripted.env) as server:
        _, writer = await ask(server)
        await until(scripted.grandchildren)
        writer.close()
        await until(lambda: not scripted.alive())


async def test_client_that_reads_nothing_for_too_long_is_disconnected(scripted: Scripted) -> None:
    says = claude_says("SPLIT")
    before, after = str(says[3]["line"]).split("SPLIT")
    scripted.play([*says[:3], *[letters(100_000, before, after)] * 400, hang()])
    async with serving(scripted.env, write_timeout_secs=1) as server:
        _, writer = await ask(server, output_format="stream-json")
        await until(scripted.calls)
        await until(lambda: not scripted.alive())
        writer.transport.abort()


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
@pytest.mark.one_machine
async def test_finished_prompt_leaves_no_garbage_for_the_collector(
    scripted: Scripted, output_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference cycles of each run would make garbage collections a tenth of the CPU of a prompt."""
    says = claude_says("hello ", "world")
    scripted.play([*says[:4], pause(0.3), *says[4:]])  # long enough for the watcher of disconnects

    def tracked_objects() -> list[str]:
        kinds = (RunTask, Process, DisconnectWatch)
        return [type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds)]

    async with serving(scripted.env) as server:
        gc.collect()
        before = tracked_objects()
        gc.disable()
        monkeypatch.setattr(gc, "collect", lambda: 0)  # the server calls it at intervals
        try:
            assert (await server.prompt(output_format=output_format)).status_code == 200
            await until(lambda: tracked_objects() == before)
        finally:
            gc.enable()
