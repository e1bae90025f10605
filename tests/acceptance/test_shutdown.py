"""How a prompt on the command line is stopped: by the user, by a signal, by a reader who leaves."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from acceptance.command import Clinvk, read_until, until
from clinvk.runtime.run.execution import STOP_GRACE_S
from scripted.steps import claude_says, hang, ignore, pause, spawn, touch, wait_for

pytestmark = pytest.mark.slow

BEGUN = claude_says("begun ")[:4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_exits_with_7_after_all_agent_processes_ended(clinvk: Clinvk, number: signal.Signals) -> None:
    clinvk.agent.play([*BEGUN, spawn("all"), spawn("setsid"), hang()])
    with clinvk.started("-o", "text", "hello") as process:
        until(lambda: len(clinvk.agent.grandchildren()) == 2)
        assert process.stdout
        read_until(process.stdout.fileno(), b"begun ")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
        assert clinvk.agent.alive() == []
    assert (process.returncode, stdout, stderr) == (7, b"\n", b"clinvk: cancelled\n")


def test_second_ctrl_c_does_not_wait_for_an_agent_that_ignores_the_first(clinvk: Clinvk) -> None:
    """However busy the machine is, one of a few tries is faster than the agent's grace, which none is without it."""
    clinvk.agent.play([ignore(signal.SIGTERM), ignore(signal.SIGINT), *BEGUN, spawn("all"), hang()])
    assert any(_second_ctrl_c(clinvk, tries) < STOP_GRACE_S for tries in range(1, 5))


def _second_ctrl_c(clinvk: Clinvk, tries: int) -> float:
    """Stop a prompt with two signals; give the seconds from the first to the end."""
    with clinvk.started("-o", "json", "hello") as process:
        until(lambda: len(clinvk.agent.grandchildren()) == tries)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals at once would be one
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=30)
        took_s = time.monotonic() - began
        assert clinvk.agent.alive() == []
    assert process.returncode == 7
    assert b'"error":"cancelled"' in stdout
    return took_s


def test_ctrl_c_while_reading_stdin_exits_with_7(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    with clinvk.started(stdin=reading) as process:
        assert process.stderr
        read_until(process.stderr.fileno(), b"waiting")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 7
        assert process.stderr.read().endswith(b"clinvk: cancelled\n")
    os.close(reading)
    os.close(writing)


def test_signals_ignored_by_the_parent_stay_ignored(clinvk: Clinvk) -> None:
    """As under `nohup`, and as a shell starts its background jobs."""
    clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *claude_says("x")])
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with clinvk.started("-o", "text", "hello") as process:
            until((clinvk.folder / "up").exists)
            process.send_signal(signal.SIGHUP)
            (clinvk.folder / "go").touch()
            stdout, _ = process.communicate(timeout=30)
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert (process.returncode, stdout) == (0, b"x\n")


def test_closed_stdout_ends_the_agent_silently(clinvk: Clinvk) -> None:
    many = [step for _ in range(50) for step in (*claude_says("word\n" * 2000)[3:4], pause(0.01))]
    clinvk.agent.play([*claude_says("")[:3], *many, hang()])
    with clinvk.started("-o", "text", "hello") as process:
        assert process.stdout
        assert read_until(process.stdout.fileno(), b"word")
        process.stdout.close()
        assert process.wait(30) == 7
        assert process.stderr
        assert process.stderr.read() == b""
        assert clinvk.agent.alive() == []


def test_unread_stdout_does_not_delay_ctrl_c(clinvk: Clinvk) -> None:
    clinvk.agent.play([*claude_says("x" * 500_000)[:4], touch(clinvk.folder / "up"), hang()])
    with clinvk.started("-o", "text", "hello") as process:
        until((clinvk.folder / "up").exists)
        process.send_signal(signal.SIGINT)
        until(lambda: process.poll() == 7)
        assert clinvk.agent.alive() == []


def test_text_is_streamed_to_a_terminal(clinvk: Clinvk) -> None:
    go = clinvk.folder / "go"
    steps = claude_says("first ", "second")
    clinvk.agent.play([*steps[:4], wait_for(go), *steps[4:]])
    leader, follower = os.openpty()
    with clinvk.started("-o", "text", "hello", stdout=follower, env={"NO_COLOR": "1"}) as process:
        os.close(follower)
        seen = read_until(leader, b"first")
        assert b"second" not in seen
        go.touch()
        assert seen + read_until(leader, b"\n") == b"first second\r\n"
        assert process.wait(30) == 0
    os.close(leader)


def test_json_on_a_terminal_is_indented(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    leader, follower = os.openpty()
    with clinvk.started("-o", "json", "hello", stdout=follower) as process:
        os.close(follower)
        assert b'\r\n  "content": "x",' in read_until(leader, b"\r\n}")
        assert process.wait(30) == 0
    os.close(leader)


def test_error_on_a_terminal_is_colored_unless_color_is_disabled(clinvk: Clinvk) -> None:
    for env, expected in (
        ({}, b"\x1b[31mclinvk:\x1b[0m"),
        ({"NO_COLOR": "1"}, b"clinvk:"),
        ({"TERM": "dumb"}, b"clinvk:"),
    ):
        leader, follower = os.openpty()
        process = subprocess.run(
            [clinvk.command, "--nope"], stdin=follower, stderr=follower, env={**clinvk.agent.env, **env}, check=False
        )
        assert process.returncode == 1
        os.close(follower)
        assert read_until(leader, b"\n").startswith(expected)
        os.close(leader)


def test_serve_rejects_an_empty_host(clinvk: Clinvk) -> None:
    done = clinvk.run("serve", "--host", "", "--port", "0")
    assert done.returncode == 3
    assert "command line: server.host = '': must be an address or a name" in done.stderr


def test_serve_prints_its_address_and_stops_cleanly(clinvk: Clinvk) -> None:
    with clinvk.started("serve", "--port", "0", "-w", str(clinvk.folder)) as process:
        assert process.stdout
        greeting = read_until(process.stdout.fileno(), b"/health").decode()
        port = int(re.findall(r"http://127\.0\.0\.1:(\d+)", greeting)[0])
        assert "/api/v1/prompt" in greeting
        with clinvk.started("serve", "--port", str(port)) as second:
            assert second.wait(30) == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not Path(clinvk.folder / "workspace").exists()


def test_serve_rejects_invalid_settings(clinvk: Clinvk) -> None:
    assert clinvk.run("serve", "--port", "0", env={"CLINVK_SERVER__READ_TIMEOUT_SECS": "-1"}).returncode == 3
    assert clinvk.run("serve", "--port", "0", "-b", "nope").returncode == 2
    assert clinvk.run("serve", "--port", "0", env={"CLINVK_API_KEYS": ","}).returncode == 3
