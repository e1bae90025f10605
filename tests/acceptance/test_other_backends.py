"""Backends that the settings define, on the command line and over HTTP."""

import json

import pytest

from acceptance.command import Clinvk
from acceptance.server import Server

SETTINGS = """\
backends:
  upper:
    command: [tr, a-z, A-Z]
  failing:
    command: sh -c "echo partly; echo first >&2; echo last >&2; exit 3"
"""


@pytest.fixture(autouse=True)
def defined(clinvk: Clinvk) -> None:
    clinvk.config.parent.mkdir()
    clinvk.config.write_text(SETTINGS)


def test_command_line_runs_a_defined_backend(clinvk: Clinvk) -> None:
    done = clinvk.run("-o", "text", "-b", "upper", "--", "hello")
    assert (done.returncode, done.stdout) == (0, "HELLO\n")
    assert "upper" in clinvk.run("backends").stdout
    assert "upper" in clinvk.run("__complete", "--backend", "u").stdout
    assert "usable: upper" in clinvk.run("doctor", "-b", "upper").stdout


def test_failed_program_fails_the_run_with_its_last_words(clinvk: Clinvk) -> None:
    done = clinvk.run("-o", "text", "-b", "failing", "--", "hello")
    assert done.returncode == 1
    assert done.stdout == "partly\n"
    assert "last" in done.stderr


def test_settings_commands_accept_a_defined_backend(clinvk: Clinvk) -> None:
    assert clinvk.run("config", "set", "backends.lower.command", "tr A-Z a-z").returncode == 0
    assert clinvk.run("-o", "text", "-b", "lower", "--", "HELLO").stdout == "hello\n"
    assert clinvk.run("config", "unset", "backends.lower.command").returncode == 0
    assert clinvk.run("-b", "lower", "--", "HELLO").returncode != 0


def test_server_offers_a_defined_backend_in_every_api(clinvk: Clinvk) -> None:
    with Server(clinvk.agent) as server:
        server.ready()
        client = server.client
        done = client.post("/api/v1/prompt", json={"backend": "upper", "prompt": "hello"})
        assert done.json()["output"] == "HELLO", done.text
        chat = client.post(
            "/openai/v1/chat/completions", json={"model": "upper", "messages": [{"role": "user", "content": "hello"}]}
        )
        assert chat.json()["choices"][0]["message"]["content"] == "HELLO", chat.text
        message = client.post(
            "/anthropic/v1/messages",
            json={"model": "upper", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]},
        )
        assert message.json()["content"][0]["text"] == "HELLO", message.text
        again = client.post(
            "/openai/v1/chat/completions",
            json={
                "model": "upper",
                "messages": [
                    {"role": "user", "content": "hello"},
                    {"role": "assistant", "content": "HELLO"},
                    {"role": "user", "content": "and more"},
                ],
            },
        )
        assert "AND MORE" in again.json()["choices"][0]["message"]["content"], again.text
        assert "upper" in [each["name"] for each in client.get("/api/v1/backends").json()["backends"]]
        assert '"upper"' in json.dumps(client.get("/openapi.json").json())
