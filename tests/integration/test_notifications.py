"""Notifications of runs: what is sent, to whom, and that no target delays or breaks anything."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.config.load import home
from clinvk.config.model import NotificationSettings, NotificationTarget, Settings
from clinvk.runtime import notifications
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.types.request import RunRequest
from polling import until
from receiver import Receiver
from serving import serving
from shell_backend import DONE, FAILED, TEXT, Shell

KEY = b"k" * 32
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
ENV = {"PATH": os.environ["PATH"], "OPS_SECRET": SECRET, "NTFY_TOKEN": "tk_private", "KEPT": "yes"}
PRIVATE = "the-private-prompt"
LIMITED = """echo '{"type":"run_failed","code":"agent_rate_limited","message":"no"}'\n"""
OVER_BUDGET = """echo '{"type":"run_finished","stop_reason":"max_budget"}'\n"""
REGISTRY = {"shell": Shell()}


def webhook(receiver: Receiver, **fields: object) -> NotificationTarget:
    return target(webhook=f"{receiver.url}/hook", secret_env="OPS_SECRET", **fields)


def target(**fields: object) -> NotificationTarget:
    return NotificationTarget(**fields)  # pyright: ignore[reportArgumentType]  # a wrong name or type fails the test


def settings_of(*, default: tuple[str, ...] = ("ops",), **targets: NotificationTarget) -> Settings:
    return Settings(notifications=NotificationSettings(targets=targets, default=default))


def local_runs(settings: Settings) -> LocalRuns:
    return LocalRuns(settings, MemoryStore(), ENV, REGISTRY)


def ask(script: str, **fields: object) -> RunRequest:
    prompt = f"# {PRIVATE}\n{script}"
    return RunRequest(prompt=prompt, backend="shell", **fields)  # pyright: ignore[reportArgumentType]


async def run_to_end(settings: Settings, request: RunRequest) -> str:
    """Run a prompt; return its id. The notifications are sent when this returns."""
    async with local_runs(settings) as runs, runs.run(request) as run:
        await run.log.result()
    return run.id


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """Verify a webhook as the specification says, without code of clinvk."""
    content = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
    expected = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 60
    return fresh and f"v1,{expected}" in headers["webhook-signature"].split(" ")


async def test_webhook_is_signed_and_has_the_run_without_prompt_and_answer() -> None:
    with Receiver().running() as receiver:
        run_id = await run_to_end(settings_of(ops=webhook(receiver)), ask(TEXT + DONE))
    (received,) = receiver.received
    assert is_signed(received.headers, received.body)
    body = json.loads(received.body)
    assert (received.path, received.headers["content-type"]) == ("/hook", "application/json")
    assert (body["type"], body["id"]) == ("run.done", received.headers["webhook-id"])
    data = body["data"]
    assert (data["run_id"], data["kind"], data["backend"], data["state"]) == (run_id, "prompt", "shell", "finished")
    assert len(data["session_id"]) == 32
    assert data["duration_s"] >= 0
    assert PRIVATE.encode() not in received.body
    assert b"hello" not in received.body


@pytest.mark.parametrize(("ephemeral", "answer"), [(False, "hello"), (True, None)])
async def test_answer_is_included_only_if_the_target_wants_it_and_the_run_is_recorded(
    ephemeral: bool, answer: str | None
) -> None:
    with Receiver().running() as receiver:
        settings = settings_of(ops=webhook(receiver, include_answer=True))
        await run_to_end(settings, ask(TEXT + DONE, ephemeral=ephemeral))
    assert json.loads(receiver.received[0].body)["data"].get("answer") == answer


@pytest.mark.parametrize(
    ("script", "event", "title", "priority"),
    [
        (DONE, "done", "shell is done", "default"),
        (FAILED, "failed", "shell has failed", "high"),
        (LIMITED, "limit", "shell has reached a limit", "high"),
        (OVER_BUDGET, "limit", "shell has reached a limit", "high"),
    ],
)
async def test_ntfy_gets_title_priority_and_token(script: str, event: str, title: str, priority: str) -> None:
    with Receiver().running() as receiver:
        phone = target(ntfy=f"{receiver.url}/topic", token_env="NTFY_TOKEN", on=(event,))
        run_id = await run_to_end(settings_of(default=("phone",), phone=phone), ask(TEXT + script))
    (received,) = receiver.received
    assert (received.path, received.headers["authorization"]) == ("/topic", "Bearer tk_private")
    assert (received.headers["title"], received.headers["priority"]) == (title, priority)
    assert received.body.decode().startswith(f"run {run_id[:8]}")
    assert PRIVATE not in received.body.decode()


async def test_target_gets_only_its_events_and_a_cancelled_run_is_none() -> None:
    with Receiver().running() as receiver:
        settings = settings_of(ops=webhook(receiver, on=("failed",)))
        async with local_runs(settings) as runs:
            for script in (DONE, LIMITED, FAILED):
                async with runs.run(ask(script)) as run:
                    await run.log.result()
            async with runs.run(ask("sleep 60")):
                pass
    assert [json.loads(received.body)["type"] for received in receiver.received] == ["run.failed"]


async def test_run_that_awaits_an_answer_notifies_without_what_is_asked() -> None:
    interaction = r"""{"id":"1","tool":"Ba\\nsh","title":"rm -rf hidden"}"""
    asked = f"""echo '{{"type":"interaction_requested","interaction":{interaction}}}'; sleep 60"""
    with Receiver().running() as receiver, Receiver().running() as phone:
        targets = {"ops": webhook(receiver), "phone": target(ntfy=f"{phone.url}/topic")}
        async with local_runs(settings_of(default=("ops", "phone"), **targets)) as runs, runs.run(ask(asked)) as run:
            await until(lambda: len(receiver.received) == len(phone.received) == 1)
            assert run.state == "waiting"
    (received,) = receiver.received
    id_ = json.loads(received.body)["data"]["interaction_id"]
    text = phone.received[0].body.decode()
    assert text == f"run {run.id[:8]}\n\nBa sh: clinvk approvals answer {id_[:8]} allow"
    body = json.loads(received.body)
    assert (body["type"], body["data"]["state"], body["data"]["tool"]) == ("run.waiting", "waiting", "Ba sh")
    assert b"hidden" not in received.body


async def test_command_gets_arguments_without_a_shell_json_on_stdin_and_no_secrets(tmp_path: Path) -> None:
    program = tmp_path / "notify"
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/args\ncat > {tmp_path}/stdin\nenv > {tmp_path}/env\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    desk = target(command=(str(program), "{title}", "$(id) {text}", "{event}"))
    unused = target(ntfy="https://ntfy.example/topic", token_env="NTFY_TOKEN", on=())
    run_id = await run_to_end(settings_of(default=("desk",), desk=desk, phone=unused), ask(TEXT + DONE))
    title, text, event = (tmp_path / "args").read_text().splitlines()
    assert (title, event) == ("shell is done", "done")
    assert text.startswith(f"$(id) run {run_id[:8]}")
    assert json.loads((tmp_path / "stdin").read_text())["data"]["run_id"] == run_id
    environment = (tmp_path / "env").read_text()
    assert "KEPT=yes" in environment
    assert "tk_private" not in environment


async def test_text_of_an_agent_cannot_control_what_shows_it(tmp_path: Path) -> None:
    desk = target(command=("/bin/sh", "-c", f'printf %s "$1" > {tmp_path}/text', "sh", "{text}"), include_answer=True)
    answer = """echo '{"type":"text_delta","text":"one\\u0000\\u001b[2J\\u202etwo\\\\nthree"}'\n"""
    await run_to_end(settings_of(default=("desk",), desk=desk), ask(answer + DONE))
    assert (tmp_path / "text").read_text().endswith("\n\none??[2J?two\nthree")


async def test_agents_do_not_inherit_the_secrets_of_targets() -> None:
    script = """echo "{\\"type\\":\\"text_delta\\",\\"text\\":\\"$KEPT,$OPS_SECRET\\"}"\n"""
    with Receiver().running() as receiver:
        async with local_runs(settings_of(ops=webhook(receiver))) as runs, runs.run(ask(script + DONE)) as run:
            assert (await run.log.result()).text == "yes,"


async def test_failed_webhook_is_retried_with_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", (0.01, 0.01))
    with Receiver(503, 429, 200).running() as receiver:
        await run_to_end(settings_of(ops=webhook(receiver)), ask(DONE))
    assert len(receiver.received) == 3
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    assert all(is_signed(received.headers, received.body) for received in receiver.received)


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (404, 1), (302, 1), (307, 1)])
async def test_attempts_are_bounded_and_redirects_are_not_followed(
    status: int, attempts: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", (0.01, 0.01))
    with Receiver(status).running() as receiver:
        settings = settings_of(ops=webhook(receiver))
        async with local_runs(settings) as runs:
            async with runs.run(ask(DONE)) as run:
                await run.log.result()
            assert runs.notifier
            counts = runs.notifier.counts
            await until(lambda: counts["ops", "failed"])
    assert [received.path for received in receiver.received] == ["/hook"] * attempts
    assert f"HTTP status {status}" in caplog.text
    assert receiver.url not in caplog.text
    assert SECRET not in caplog.text


async def test_hanging_target_delays_neither_runs_nor_other_targets_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "DRAIN_TIMEOUT_S", 1.0)
    with Receiver(0).running() as hanging, Receiver().running() as receiver:
        settings = settings_of(default=("slow", "ops"), slow=webhook(hanging), ops=webhook(receiver))
        async with local_runs(settings) as runs:
            for _ in range(3):
                async with asyncio.timeout(20), runs.run(ask(DONE)) as run:
                    await run.log.result()
            await until(lambda: len(receiver.received) == 3)
            began = time.monotonic()
        assert time.monotonic() - began < 10
        assert runs.notifier
        assert runs.notifier.counts == {("ops", "sent"): 3, ("slow", "dropped"): 3}
    assert "dropped notifications to 'slow': 3" in caplog.text


async def test_hanging_attempt_and_command_are_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That no child is left is checked after each test."""
    monkeypatch.setattr(notifications, "ATTEMPT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(notifications, "PAUSES_S", ())
    with Receiver(0).running() as hanging:
        desk = target(command=("sh", "-c", "setsid sleep 60 & yes"))
        await run_to_end(settings_of(default=("slow", "desk"), slow=webhook(hanging), desk=desk), ask(DONE))
    assert caplog.text.count("not done within 0.5 s") == 2


async def test_full_queue_drops_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "DRAIN_TIMEOUT_S", 0.1)
    monkeypatch.setattr(notifications, "_MAX_QUEUED", 1)
    with Receiver(0).running() as hanging:
        async with local_runs(settings_of(ops=webhook(hanging))) as runs:
            assert runs.notifier
            for _ in range(4):
                async with runs.run(ask(DONE)) as run:
                    await run.log.result()
            counts = runs.notifier.counts
            await until(lambda: counts["ops", "dropped"] >= 2)
    assert runs.notifier.counts == {("ops", "dropped"): 4}


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({}, "the variable OPS_SECRET is not set"),
        ({"OPS_SECRET": "plain"}, "the variable OPS_SECRET must have whsec_ and base64"),
        ({"OPS_SECRET": "whsec_c2hvcnQ="}, "the variable OPS_SECRET must have whsec_ and base64"),
    ],
)
async def test_webhook_without_a_valid_secret_is_not_sent(
    env: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver().running() as receiver:
        settings = settings_of(ops=webhook(receiver))
        runs = LocalRuns(settings, MemoryStore(), {"PATH": ENV["PATH"], **env}, REGISTRY)
        async with runs, runs.run(ask(DONE)) as run:
            await run.log.result()
    assert receiver.received == []
    assert why in caplog.text


async def test_refused_connection_fails_without_the_address_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", ())
    receiver = Receiver()
    with receiver.running():
        pass
    await run_to_end(settings_of(ops=webhook(receiver)), ask(DONE))
    assert "failed: Connection refused" in caplog.text
    assert receiver.url not in caplog.text


async def test_request_chooses_targets_by_name(tmp_path: Path) -> None:
    env = {**ENV, "HOME": str(tmp_path)}
    with Receiver().running() as one, Receiver().running() as other:
        chosen = NotificationSettings(targets={"one": webhook(one), "other": webhook(other)}, default=("one",))
        async with serving(env, REGISTRY, notifications=chosen, metrics_enabled=True) as server:
            await server.prompt(backend="shell", prompt=DONE)
            await until(lambda: len(one.received) == 1)
            await server.prompt(backend="shell", prompt=DONE, notify=["other"])
            await until(lambda: len(other.received) == 1)
            await server.prompt(backend="shell", prompt=DONE, notify=[])
            refused = await server.prompt(backend="shell", prompt=DONE, notify=["https://evil.example"])
            metrics = ""
            while 'clinvk_notifications_total{outcome="sent",target="other"} 1.0' not in metrics:
                metrics = (await server.client.get("/metrics")).text
    assert (refused.status_code, refused.json()["field"]) == (400, "notify")
    assert "unknown notification target 'https://evil.example' (available: one, other)" in refused.json()["detail"]
    assert (len(one.received), len(other.received)) == (1, 1)


async def test_key_limits_the_targets_of_its_requests(tmp_path: Path) -> None:
    env = {**ENV, "HOME": str(tmp_path)}
    file = KeyFile(home(env))
    key = await file.create("ana", KeyLimits(notify=("other",)))
    keys = ApiKeys((), await file.read())
    with Receiver().running() as one, Receiver().running() as other:
        chosen = NotificationSettings(targets={"one": webhook(one), "other": webhook(other)}, default=("one",))
        async with serving(env, REGISTRY, keys=keys, notifications=chosen) as server:
            server.client.headers["x-api-key"] = key
            await server.prompt(backend="shell", prompt=DONE)
            refused = await server.prompt(backend="shell", prompt=DONE, notify=["one"])
    assert (refused.status_code, refused.json()["field"]) == (403, "notify")
    assert (len(one.received), len(other.received)) == (0, 1)


async def test_several_agents_notify_once_when_all_have_ended(tmp_path: Path) -> None:
    env = {**ENV, "HOME": str(tmp_path)}
    with Receiver().running() as receiver, Receiver().running() as other:
        chosen = NotificationSettings(targets={"ops": webhook(receiver), "other": webhook(other)}, default=("ops",))
        async with serving(env, REGISTRY, notifications=chosen) as server:
            tasks = [{"backend": "shell", "prompt": DONE}, {"backend": "shell", "prompt": DONE, "notify": ["other"]}]
            answer = await server.client.post("/api/v1/parallel", json={"tasks": tasks})
    for each in (receiver, other):
        (received,) = each.received
        data = json.loads(received.body)["data"]
        assert (data["run_id"], data["kind"], data["state"]) == (answer.json()["run_id"], "parallel", "finished")
        assert is_signed(received.headers, received.body)


def test_program_that_posts_starts_without_the_packages_of_clinvk() -> None:
    source = Path(notifications._POST_PROGRAM).read_text()  # pyright: ignore[reportPrivateUsage]
    imported = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import", "from"))
    }
    assert imported <= sys.stdlib_module_names
