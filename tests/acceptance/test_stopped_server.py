"""The message of a command whose server is stopped during the answer."""

import signal

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
