"""What commands and viewers notice when a server stops."""

import signal
import time

from acceptance.command import Clinvk, until
from acceptance.server import Server
from scripted import Scripted
from scripted.steps import hang, touch


def test_prompt_reports_that_its_server_is_stopping(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play([touch(clinvk.folder / "up"), hang()])
    with Server(scripted, {"CLINVK_SERVER__SHUTDOWN_GRACE_SECS": "0"}) as server:
        server.ready()
        with clinvk.started("-o", "text", "--new", "hello") as process:
            until((clinvk.folder / "up").exists)
            server.process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (7, b"", b"clinvk: the server is stopping\n")


def test_viewer_does_not_hold_up_the_end_of_a_server(scripted: Scripted) -> None:
    with Server(scripted, {"CLINVK_SERVER__SHUTDOWN_GRACE_SECS": "60"}) as server:
        with server.ready().client.stream("GET", "/api/v1/events") as response:
            lines = response.iter_lines()
            assert "event: reset" in (next(lines) for _ in range(5))
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line.startswith("event:")] == []
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 30
