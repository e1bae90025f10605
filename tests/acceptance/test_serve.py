"""`clinvk serve`: what its flags do."""

import re

import httpx

from acceptance.command import TIMEOUT_S, Clinvk, read_until


def test_dry_run_server_answers_each_request_with_its_command(clinvk: Clinvk) -> None:
    with clinvk.started("serve", "--port", "0", "--dry-run") as process:
        assert process.stdout
        url = re.search(rb"http://\S+", read_until(process.stdout.fileno(), b"/docs"))
        assert url
        body = {"prompt": "hello", "backend": "claude"}
        shown = httpx.post(f"{url[0].decode()}/api/v1/prompt", json=body, timeout=TIMEOUT_S)
    assert shown.status_code == 200
    assert shown.json()["output"].endswith("# prompt: 5 bytes on stdin")
    assert clinvk.agent.calls() == []
