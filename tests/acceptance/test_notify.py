"""Notifications of the command line: local runs, test notifications, and what other commands show of targets."""

import base64
import json
import time

import pytest

from acceptance.command import Clinvk
from acceptance.server import Server
from receiver import Receiver
from scripted.steps import claude_says

SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
NOBODY = "http://127.0.0.1:9"


def with_target(clinvk: Clinvk, url: str, more: str = "") -> None:
    clinvk.settings(
        f"notifications: {{targets: {{ops: {{webhook: '{url}/secret-path', secret_env: OPS_SECRET}}{more}}}}}"
    )


def test_local_run_notifies_the_named_target_before_it_exits(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hello"))
    with Receiver().running() as receiver:
        with_target(clinvk, receiver.url)
        assert clinvk.run("--new", "hi there", env={"OPS_SECRET": SECRET}).returncode == 0
        assert receiver.received == []
        done = clinvk.run("--new", "--notify", "ops", "hi there", env={"OPS_SECRET": SECRET})
    assert done.returncode == 0
    body = json.loads(receiver.received[0].body)
    assert (body["type"], body["data"]["backend"], body["data"]["cost_usd"]) == ("run.done", "claude", 0.01)
    assert b"hi there" not in receiver.received[0].body


def test_failed_notification_of_a_local_run_is_reported(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hello"))
    clinvk.settings("notifications: {targets: {bad: {command: [no-such-program]}}}")
    done = clinvk.run("--new", "--notify", "bad", "hi there")
    assert (done.returncode, done.stderr) == (
        0,
        "clinvk: notification target bad failed: cannot start 'no-such-program': No such file or directory\n",
    )


def test_hanging_target_delays_the_exit_of_a_local_run_by_a_bounded_time(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hello"))
    with Receiver(0).running() as receiver:
        with_target(clinvk, receiver.url)
        began = time.monotonic()
        done = clinvk.run("--new", "--notify", "ops", "hi there", env={"OPS_SECRET": SECRET})
    assert done.returncode == 0
    assert time.monotonic() - began < 20


def test_unknown_target_is_refused(clinvk: Clinvk) -> None:
    done = clinvk.run("--notify", "phone", "hi there")
    assert (done.returncode, clinvk.agent.calls()) == (1, [])
    assert "unknown notification target 'phone' (available: none)" in done.stderr


def test_test_notification_reports_the_outcome_of_each_target(clinvk: Clinvk) -> None:
    with Receiver().running() as receiver, Receiver(403).running() as other:
        with_target(clinvk, receiver.url, f", phone: {{ntfy: '{other.url}/topic'}}")
        done = clinvk.run("notify", env={"OPS_SECRET": SECRET})
        assert (done.returncode, done.stdout) == (1, "ops: sent\nphone: HTTP status 403\n")
        assert clinvk.run("notify", "ops", env={"OPS_SECRET": SECRET}).returncode == 0
    assert json.loads(receiver.received[0].body)["type"] == "clinvk.test"
    assert other.received[0].headers["title"] == "clinvk sends a test"


@pytest.mark.parametrize("words", [(), ("phone",)])
def test_test_notification_without_targets_is_refused(clinvk: Clinvk, words: tuple[str, ...]) -> None:
    done = clinvk.run("notify", *words)
    assert done.returncode == 1
    assert "notification target" in done.stderr


def test_doctor_reports_a_missing_secret(clinvk: Clinvk) -> None:
    with_target(clinvk, NOBODY)
    found = json.loads(clinvk.run("doctor", "--json", "-b", "claude").stdout)["checks"]
    (check,) = [check for check in found if check["name"] == "notify"]
    message = "notification target ops: the variable OPS_SECRET is not set"
    assert (check["status"], check["message"]) == ("warning", message)


def test_doctor_reports_a_missing_program(clinvk: Clinvk) -> None:
    clinvk.settings("notifications: {targets: {bad: {command: [no-such-program]}, good: {command: [sh]}}}")
    found = json.loads(clinvk.run("doctor", "--json", "-b", "claude").stdout)["checks"]
    missing, present = [check for check in found if check["name"] == "notify"]
    assert (missing["status"], missing["message"]) == (
        "warning",
        "notification target bad: no program 'no-such-program'",
    )
    assert present["status"] == "ok"


def test_invalid_target_keeps_commands_and_the_server_from_running(clinvk: Clinvk) -> None:
    clinvk.settings("notifications: {targets: {ops: {on: [done]}}}")
    for words in (("hi there",), ("serve", "--port", "0"), ("notify",), ("doctor",)):
        done = clinvk.run(*words)
        assert done.returncode == 3, words
        assert "notifications.targets.ops must have exactly one of" in done.stdout + done.stderr


def test_config_shows_targets_without_the_path_of_their_address(clinvk: Clinvk) -> None:
    with_target(clinvk, NOBODY)
    shown = clinvk.run("config", "show", "--json").stdout
    assert json.loads(shown)["settings"]["notifications"]["targets"]["ops"]["webhook"] == f"{NOBODY}/********"
    assert "secret-path" not in shown
    assert f"{NOBODY}/secret-path" in clinvk.run("config", "get", "notifications.targets.ops.webhook").stdout


def test_key_names_an_existing_target(clinvk: Clinvk) -> None:
    with_target(clinvk, NOBODY)
    assert "unknown notification target" in clinvk.run("keys", "create", "ana", "--notify", "phone").stderr
    assert "notifies ops" in clinvk.run("keys", "create", "ana", "--notify", "ops").stderr


def test_prompt_through_a_server_is_notified_by_the_server(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hello"))
    with Receiver().running() as receiver:
        with_target(clinvk, receiver.url)
        with Server(clinvk.agent, env={"OPS_SECRET": SECRET}) as server:
            server.ready()
            done = clinvk.run("-v", "--new", "--notify", "ops", "hi there")
            assert "through the server of this home" in done.stderr
            receiver.wait_for(1)
