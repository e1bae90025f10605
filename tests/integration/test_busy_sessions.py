"""Prompts to a session whose run is in progress: queued until the session is free, or steering the conversation."""

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from clinvk.backends.shared import OneShotChannel
from clinvk.config.model import BackendSettings, ServerSettings, Settings
from clinvk.plugin import Channel, Host, Launch, Report, SteerReply
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery, SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import NotResumable, QueueFull, SessionBusy
from clinvk.types.request import RunRequest
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, codex_streams, receive_steering, wait_for
from serving import LiveServer, serving
from shell_backend import DONE, FAILED, TEXT, Shell, ShellEvents

ENV = {"PATH": os.environ["PATH"]}
STARTED = """echo '{"type":"run_started","backend_session_id":"abc"}'\n"""
HANDLE = "11111111-1111-4111-8111-111111111113"


def local_runs(store: SessionStore, **server: object) -> LocalRuns:
    settings = Settings(server=ServerSettings(**server))  # pyright: ignore[reportArgumentType]
    return LocalRuns(settings, store, ENV, {"shell": Shell()})


def ask(script: str, session_id: str | None = None, **fields: object) -> RunRequest:
    return RunRequest(prompt=script, backend="shell", session_id=session_id, **fields)  # pyright: ignore[reportArgumentType]


def until_exists(path: Path) -> str:
    """Return a script that waits for a file."""
    return f"while [ ! -e {path} ]; do sleep 0.02; done\n"


async def busy_session(runs: LocalRuns, gate: Path, ending: str = DONE) -> RunTask:
    """Start a session whose first run waits for a file."""
    run = await runs.start(ask(STARTED + until_exists(gate) + ending))
    await until(lambda: run.log.count > 0)
    return run


async def queued(runs: LocalRuns, script: str, to: RunTask) -> RunTask:
    return await runs.start(ask(script, to.session_id, on_busy="queue"))


@pytest.mark.parametrize("ending", [DONE, FAILED])
async def test_queued_prompts_run_in_order_after_the_run_of_their_session(tmp_path: Path, ending: str) -> None:
    store, gate, order = MemoryStore(), tmp_path / "gate", tmp_path / "order"
    async with local_runs(store) as runs:
        holder = await busy_session(runs, gate, ending)
        waiting = [await queued(runs, f"echo {number} >> {order}\n{STARTED}{DONE}", holder) for number in range(3)]
        assert [run.state for run in waiting] == ["queued"] * 3
        assert [run.slot.position for run in waiting] == [1, 2, 3]
        listed = (await store.runs(RunQuery(session_id=holder.session_id, state="queued"))).items
        assert {run.id for run in listed} == {run.id for run in waiting}
        gate.touch()
        for run in waiting:
            assert (await run.log.result()).error is None
    assert order.read_text().split() == ["0", "1", "2"]
    assert (await store.session(holder.session_id or "")).turn_count == 4


async def test_prompt_that_waits_holds_no_slot(tmp_path: Path) -> None:
    async with local_runs(MemoryStore(), max_concurrent_runs=2) as runs:
        holder = await busy_session(runs, tmp_path / "gate")
        waiting = await queued(runs, STARTED + DONE, holder)
        async with runs.run(ask(TEXT + DONE)) as other:
            assert (await other.log.result()).text == "hello"
        await until(lambda: runs.busy == 1)
        assert (runs.queued, waiting.state) == (1, "queued")
        (tmp_path / "gate").touch()
        assert (await waiting.log.result()).error is None


async def test_prompt_is_not_queued_if_its_session_is_idle(tmp_path: Path) -> None:
    async with local_runs(MemoryStore(), max_queued_runs=0) as runs:
        async with runs.run(ask(STARTED + DONE)) as first:
            await first.log.result()
        async with runs.run(ask(STARTED + TEXT + DONE, first.session_id, on_busy="queue")) as run:
            assert (await run.log.result()).text == "hello"


async def test_queue_limit_bounds_prompts_that_wait_for_their_session(tmp_path: Path) -> None:
    async with local_runs(MemoryStore(), max_queued_runs=1) as runs:
        holder = await busy_session(runs, tmp_path / "gate")
        await queued(runs, STARTED + DONE, holder)
        with pytest.raises(QueueFull):
            await queued(runs, STARTED + DONE, holder)


async def test_prompt_does_not_overtake_queued_prompts(tmp_path: Path) -> None:
    async with local_runs(MemoryStore()) as runs:
        holder = await busy_session(runs, tmp_path / "gate")
        first = await queued(runs, STARTED + until_exists(tmp_path / "second") + DONE, holder)
        with pytest.raises(SessionBusy):
            await runs.start(ask(DONE, holder.session_id))
        (tmp_path / "gate").touch()
        await until(lambda: first.state == "running")
        with pytest.raises(SessionBusy):
            await runs.start(ask(DONE, holder.session_id))
        (tmp_path / "second").touch()
        await first.log.result()


async def test_cancelled_prompt_leaves_the_queue_and_the_session_unchanged(tmp_path: Path) -> None:
    store = MemoryStore()
    async with local_runs(store) as runs:
        holder = await busy_session(runs, tmp_path / "gate")
        before = await store.session(holder.session_id or "")
        cancelled = await queued(runs, f"touch {tmp_path}/ran\n{DONE}", holder)
        last = await queued(runs, STARTED + DONE, holder)
        await runs.cancel(cancelled.id)
        assert (await store.run(cancelled.id)).state == "cancelled"
        assert await store.session(holder.session_id or "") == before
        (tmp_path / "gate").touch()
        assert (await last.log.result()).error is None
    assert not (tmp_path / "ran").exists()


async def test_prompt_queued_in_the_first_turn_fails_if_no_conversation_began(tmp_path: Path) -> None:
    async with local_runs(MemoryStore()) as runs:
        holder = await runs.start(ask(until_exists(tmp_path / "gate") + FAILED))
        await until(lambda: holder.state == "running")
        waiting = await queued(runs, DONE, holder)
        (tmp_path / "gate").touch()
        error = (await waiting.log.result()).error
        assert error is not None
        assert error.code == NotResumable.code


async def test_prompt_queued_in_the_first_turn_continues_the_conversation(tmp_path: Path) -> None:
    store = MemoryStore()
    async with local_runs(store) as runs:
        holder = await runs.start(ask(until_exists(tmp_path / "gate") + STARTED + DONE))
        await until(lambda: holder.state == "running")
        waiting = await queued(runs, STARTED + TEXT + DONE, holder)
        (tmp_path / "gate").touch()
        assert (await waiting.log.result()).text == "hello"
    assert (await store.session(holder.session_id or "")).turn_count == 2


async def test_prompt_waits_for_a_run_of_another_process(tmp_path: Path) -> None:
    async with (
        SqliteStore(tmp_path) as one,
        SqliteStore(tmp_path) as other,
        local_runs(one) as runs,
        local_runs(other) as further_runs,
    ):
        holder = await busy_session(runs, tmp_path / "gate")
        waiting = await queued(further_runs, STARTED + TEXT + DONE, holder)
        late = await queued(runs, STARTED + DONE, holder)
        (tmp_path / "gate").touch()
        assert (await waiting.log.result()).text == "hello"
        assert (await late.log.result()).error is None
        assert waiting.ended_at is not None
        assert late.started_at is not None
        assert late.started_at >= waiting.ended_at - 0.1


async def test_stopping_the_runtime_refuses_a_queued_prompt(tmp_path: Path) -> None:
    store = MemoryStore()
    async with local_runs(store) as runs:
        holder = await busy_session(runs, tmp_path / "gate")
        waiting = await queued(runs, DONE, holder)
    assert waiting.refusal is not None
    assert waiting.refusal.code == "shutting_down"
    assert (await store.run(waiting.id)).state == "cancelled"


# Steering


async def test_steering_prompt_interrupts_the_run_and_comes_before_queued_prompts(tmp_path: Path) -> None:
    store, order = MemoryStore(), tmp_path / "order"
    async with local_runs(store) as runs:
        holder = await busy_session(runs, tmp_path / "never")
        waiting = await queued(runs, f"echo queued >> {order}\n{STARTED}{DONE}", holder)
        steering = await runs.start(
            ask(f"echo steering >> {order}\n{STARTED}{DONE}", holder.session_id, on_busy="steer")
        )
        assert (await steering.log.result()).error is None
        assert (await waiting.log.result()).error is None
        error = (await holder.log.result()).error
        assert error is not None
        assert (error.code, steering.id in error.message) == ("cancelled", True)
    assert order.read_text().split() == ["steering", "queued"]


async def test_two_steering_prompts_run_one_after_the_other(tmp_path: Path) -> None:
    async with local_runs(MemoryStore()) as runs:
        stubborn = "trap '' TERM\n" + STARTED + until_exists(tmp_path / "never")
        holder = await runs.start(ask(stubborn))
        await until(lambda: holder.log.count > 0)
        steer = ask(STARTED + TEXT + DONE, holder.session_id, on_busy="steer")
        first, second = await runs.start(steer), await runs.start(steer)
        assert [(await run.log.result()).text for run in (first, second)] == ["hello", "hello"]
        assert holder.state == "cancelled"


async def test_steering_prompt_runs_at_once_if_its_session_is_idle() -> None:
    async with local_runs(MemoryStore()) as runs:
        async with runs.run(ask(STARTED + DONE)) as first:
            await first.log.result()
        async with runs.run(ask(STARTED + TEXT + DONE, first.session_id, on_busy="steer")) as run:
            assert (await run.log.result()).text == "hello"


async def test_run_whose_agent_has_not_started_cannot_be_steered(tmp_path: Path) -> None:
    async with local_runs(MemoryStore()) as runs:
        holder = await runs.start(ask(until_exists(tmp_path / "gate") + STARTED + DONE))
        with pytest.raises(SessionBusy, match="cannot be steered"):
            await runs.start(ask(DONE, holder.session_id, on_busy="steer"))
        (tmp_path / "gate").touch()
        assert (await holder.log.result()).error is None


async def test_run_of_another_process_cannot_be_steered(tmp_path: Path) -> None:
    async with (
        SqliteStore(tmp_path) as one,
        SqliteStore(tmp_path) as other,
        local_runs(one) as runs,
        local_runs(other) as further_runs,
    ):
        holder = await busy_session(runs, tmp_path / "gate")
        with pytest.raises(SessionBusy, match="cannot be steered"):
            await further_runs.start(ask(DONE, holder.session_id, on_busy="steer"))
        (tmp_path / "gate").touch()
        assert (await holder.log.result()).error is None


# Steering within the turn


async def steerable(scripted: Scripted, server: LiveServer, *, accepts: bool = True, **body: object) -> dict[str, str]:
    """Start a run of a Codex that waits for a steering prompt in the middle of its answer."""
    said = codex_streams("one ", "two")
    scripted.play(codex_streams("by itself"), when="by itself")
    scripted.play([*said[:3], receive_steering(accepts=accepts), *said[3:]], when="begin")
    run = await server.detached(backend="codex", prompt="begin", **body)
    await until(lambda: bool((live := server.runs.live(run["run_id"])) and live.log.text))
    return run


@pytest.mark.parametrize(("fallback", "max_queued_runs"), [((), 0), (("claude",), 1)])
async def test_codex_receives_a_steering_prompt_within_its_turn(
    scripted: Scripted, fallback: tuple[str, ...], max_queued_runs: int
) -> None:
    """The prompt needs no slot and no place in the queue."""
    backends = {"codex": BackendSettings(fallback=fallback)}
    async with serving(
        scripted.env, backends=backends, max_concurrent_runs=1, max_queued_runs=max_queued_runs
    ) as server:
        run = await steerable(scripted, server)
        steered = await server.prompt(backend="codex", prompt="more", session_id=run["session_id"], on_busy="steer")
        expected = {"run_id": run["run_id"], "session_id": run["session_id"], "state": "running", "steered": True}
        assert (steered.status_code, steered.json()) == (202, expected)
        assert steered.headers["location"] == f"/api/v1/runs/{run['run_id']}"
        lines = {"accept": "application/x-ndjson"}
        followed = await server.client.get(f"/api/v1/runs/{run['run_id']}/events", headers=lines)
        events = [(event["type"], event["content"]) for event in map(json.loads, followed.text.splitlines())]
        assert [kind for kind, _ in events] == ["init", "message", "user_message", "message", "token_usage", "done"]
        assert events[2][1] == {"text": "more", "role": "user"}
        assert await runs_of(server, run["session_id"]) == [("begin", "finished")]
        expected = [("user", "begin"), ("assistant", "one "), ("user", "more"), ("assistant", "two")]
        assert await messages_of(server, run["session_id"]) == expected
        session = (await server.client.get(f"/api/v1/sessions/{run['session_id']}")).json()
        assert session["turn_count"] == 2
    (params,) = scripted.steerings()
    assert (params["expectedTurnId"], params["input"]) == ("turn", [{"type": "text", "text": "more"}])


@pytest.mark.parametrize(
    ("accepts", "options"),
    [(False, {}), (True, {"timeout_secs": 77}), (True, {"effort": "high"}), (True, {"stop": ["END"]})],
)
async def test_prompt_that_codex_refuses_or_with_other_options_interrupts_the_run(
    scripted: Scripted, accepts: bool, options: dict[str, object]
) -> None:
    async with serving(scripted.env) as server:
        run = await steerable(scripted, server, accepts=accepts)
        body = {"session_id": run["session_id"], "on_busy": "steer", "prompt": "by itself", **options}
        answer = (await server.prompt(backend="codex", **body)).json()
        assert answer["output"] == "by itself"
        assert await runs_of(server, run["session_id"]) == [("begin", "cancelled"), ("by itself", "finished")]
    assert len(scripted.steerings()) == (not accepts)


async def test_prompt_of_another_environment_does_not_steer(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        run = await steerable(scripted, server)
        live = server.runs.live(run["run_id"])
        assert live
        steer = replace(live.request, prompt="more", session_id=run["session_id"], on_busy="steer")
        assert await server.runs.steer(steer, is_of_user=True) is None
        steered = await server.runs.steer(steer)
        assert steered
        assert (steered.run_id, steered.is_steered) == (run["run_id"], True)


class Replying(Shell):
    """A faulty plug-in, whose channel replies to a steering prompt that was not sent."""

    def channel(self, launch: Launch, host: Host) -> Channel:
        class Events(ShellEvents):
            def feed(self, line: bytes) -> Iterable[Report]:
                return (SteerReply(is_accepted=True), *super().feed(line))

        return OneShotChannel(Events(), lambda request: request.prompt.encode())


async def test_reply_to_a_steering_prompt_that_was_not_sent_is_ignored() -> None:
    async with (
        LocalRuns(Settings(), MemoryStore(), ENV, {"shell": Replying()}) as runs,
        runs.run(ask(STARTED + TEXT + DONE)) as run,
    ):
        assert (await run.log.result()).text == "hello"


# Over HTTP


async def busy_server_session(scripted: Scripted, server: LiveServer, gate: Path) -> dict[str, str]:
    """Start a run of a new session of `server` that waits for a file."""
    first = claude_says("one", session=HANDLE)
    scripted.play([*first[:1], wait_for(gate), *first[1:]], when="begin")
    scripted.play(claude_says("two", session=HANDLE), when="go on")
    run = await server.detached(prompt="begin")
    await until(lambda: bool((live := server.runs.live(run["run_id"])) and live.log.count))
    return run


async def runs_of(server: LiveServer, session_id: str) -> list[tuple[str, str]]:
    """Return prompt and state of the runs of a session, oldest first."""
    runs = (await server.client.get("/api/v1/runs", params={"session_id": session_id})).json()["runs"]
    return [(run["prompt"], run["state"]) for run in reversed(runs)]


async def messages_of(server: LiveServer, session_id: str) -> list[tuple[str, str]]:
    """Return role and text of the messages of a session, oldest first."""
    answer = (await server.client.get(f"/api/v1/sessions/{session_id}/messages")).json()
    return [(message["role"], message["text"]) for message in answer["messages"]]


async def test_conversation_is_in_the_order_in_which_its_prompts_ran(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("three", session=HANDLE), when="now")
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "never")
        queued = await server.detached(prompt="go on", session_id=run["session_id"], on_busy="queue")
        await server.prompt(prompt="now", session_id=run["session_id"], on_busy="steer")
        await server.ended(queued["run_id"])
        states = [("begin", "cancelled"), ("now", "finished"), ("go on", "finished")]
        assert await runs_of(server, run["session_id"]) == states
        assert [text for _, text in await messages_of(server, run["session_id"])] == [
            *("begin", "", "now", "three"),
            *("go on", "two"),
        ]


async def test_busy_session_is_refused_by_default(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "gate")
        for on_busy in ("reject", "", None):
            response = await server.prompt(prompt="go on", session_id=run["session_id"], on_busy=on_busy)
            assert (response.status_code, response.json()["code"]) == (409, "session_busy")
        assert (await server.prompt(prompt="go on", on_busy="later")).status_code == 400


async def test_queued_prompt_is_listed_and_answered_after_the_run(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "gate")
        accepted = await server.detached(prompt="go on", session_id=run["session_id"], on_busy="queue")
        assert (accepted["state"], accepted["queue_position"]) == ("queued", 1)
        assert await runs_of(server, run["session_id"]) == [("begin", "running"), ("go on", "queued")]
        prompt = server.prompt(prompt="go on", session_id=run["session_id"], on_busy="queue")
        answer = asyncio.create_task(prompt)
        await until(lambda: server.runs.queued == 2)
        (tmp_path / "gate").touch()
        assert (await answer).json()["output"] == "two"
        assert {state for _, state in await runs_of(server, run["session_id"])} == {"finished"}


async def test_steering_prompt_interrupts_the_run_and_is_answered(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "never")
        answer = (await server.prompt(prompt="go on", session_id=run["session_id"], on_busy="steer")).json()
        assert (answer["output"], answer["session_id"]) == ("two", run["session_id"])
        assert await runs_of(server, run["session_id"]) == [("begin", "cancelled"), ("go on", "finished")]


async def test_queued_prompt_can_be_cancelled(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "gate")
        accepted = await server.detached(prompt="go on", session_id=run["session_id"], on_busy="queue")
        response = await server.client.post(f"/api/v1/runs/{accepted['run_id']}/cancel")
        assert (response.status_code, response.json()["state"]) == (200, "cancelled")
        assert server.runs.queued == 0


async def test_client_that_disconnects_withdraws_its_queued_prompt(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "gate")
        prompt = server.prompt(prompt="go on", session_id=run["session_id"], on_busy="queue")
        answer = asyncio.create_task(prompt)
        await until(lambda: server.runs.queued == 1)
        answer.cancel()
        await until(lambda: server.runs.queued == 0)
        assert ("go on", "cancelled") in await runs_of(server, run["session_id"])


async def test_model_api_waits_for_its_session_with_a_header(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "gate")
        body = {"model": "claude", "messages": [{"role": "user", "content": "go on"}]}
        headers = {"x-clinvk-session-id": run["session_id"]}
        busy = await server.client.post("/openai/v1/chat/completions", json=body, headers=headers)
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
        headers["x-clinvk-on-busy"] = "queue"
        answer = asyncio.create_task(server.client.post("/openai/v1/chat/completions", json=body, headers=headers))
        await until(lambda: server.runs.queued == 1)
        (tmp_path / "gate").touch()
        assert (await answer).json()["choices"][0]["message"]["content"] == "two"


async def test_server_that_stops_refuses_a_queued_prompt(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env) as server:
        run = await busy_server_session(scripted, server, tmp_path / "gate")
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as client:
            body = {"backend": "claude", "prompt": "go on", "session_id": run["session_id"], "on_busy": "queue"}
            answer = asyncio.create_task(client.post("/api/v1/prompt", json=body))
            await until(lambda: server.runs.queued == 1)
            await server.runs.__aexit__()
            response = await answer
    assert (response.status_code, response.json()["code"]) == (503, "shutting_down")
