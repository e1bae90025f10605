"""Plug-ins of other packages: on the command line, over HTTP, in the settings, and installed."""

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from acceptance.server import Server
from clinvk.backends.registry import BUILT_IN
from plugin_site import ERRORS, EXAMPLES, install_broken, install_examples
from scripted import Scripted

REPOSITORY = EXAMPLES.parents[1]


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """The variables with which the command finds the templates and the broken plug-ins."""
    site = tmp_path / "site"
    install_examples(site)
    install_broken(site)
    return {"PYTHONPATH": str(site)}


def test_command_line_runs_a_plugin_with_its_settings(clinvk: Clinvk, environ: Mapping[str, str]) -> None:
    done = clinvk.run("-o", "text", "-b", "shout", "hello to all", env=environ)
    assert (done.returncode, done.stdout) == (0, "HELLO TO ALL\n")
    assert "shout\n" in clinvk.run("__complete", "--backend", "sh", env=environ).stdout
    for key, value in {"default_backend": "parrot", "backends.parrot.model": "macaw"}.items():
        assert clinvk.run("config", "set", key, value, env=environ).returncode == 0
    first = clinvk.run("-o", "json", "hello", env=environ)
    second = clinvk.run("-o", "json", "-c", "and again", env=environ)
    found = [json.loads(done.stdout) for done in (first, second)]
    assert [(each["content"], each["model"]) for each in found] == [
        ("hello (1) ", "macaw"),
        ("and again (2) ", "macaw"),
    ]
    assert found[0]["usage"]["input_tokens"] == 1


def test_option_that_a_plugin_does_not_state_is_refused(clinvk: Clinvk, environ: Mapping[str, str]) -> None:
    done = clinvk.run("-b", "shout", "--sandbox-mode", "read-only", "hello", env=environ)
    assert done.returncode != 0
    assert "shout has no sandbox_mode read-only" in done.stderr


def test_broken_plugins_are_reported_and_leave_the_others_alone(clinvk: Clinvk, environ: Mapping[str, str]) -> None:
    listed = json.loads(clinvk.run("backends", "--json", env=environ).stdout)["backends"]
    errors = {each["name"]: each["error"] for each in listed if each["error"]}
    assert errors.keys() == ERRORS.keys()
    assert all(ERRORS[name][1] in error for name, error in errors.items())
    assert {each["name"] for each in listed if each["available"]} == {*BUILT_IN, "parrot", "shout", "unhealthy"}
    report = json.loads(clinvk.run("doctor", "--json", env=environ).stdout)
    assert {"parrot", "shout"} <= {*report["agents"]}
    found = {check["name"]: check["message"] for check in report["checks"] if check["status"] == "problem"}
    assert ERRORS.keys() <= found.keys()
    assert found["unhealthy"].endswith("its check failed: ValueError: no luck")
    named = clinvk.run("-b", "old", "hello", env=environ)
    assert named.returncode != 0
    assert "the plug-in 'old' of bad 1.0 cannot be used: its api_version is 7" in named.stderr
    clinvk.settings("backends: {old: {model: x}}\n")
    assert clinvk.run("-o", "text", "-b", "shout", "--", "hello", env=environ).stdout == "HELLO\n"


def test_server_offers_plugins_in_every_api(scripted: Scripted, environ: Mapping[str, str]) -> None:
    with Server(scripted, environ).ready() as server:
        assert server.prompt("hello", "shout").json()["output"] == "HELLO"
        chat = {"model": "shout", "messages": [{"role": "user", "content": "hello"}]}
        answer = server.client.post("/openai/v1/chat/completions", json=chat).json()
        assert answer["choices"][0]["message"]["content"] == "HELLO"
        assert server.prompt("hello", "old").json()["code"] == "backend_unavailable"
        listed = server.client.get("/api/v1/backends").json()["backends"]
    assert {each["name"] for each in listed if "error" in each} == ERRORS.keys()
    assert {"parrot", "shout"} <= {each["name"] for each in listed if each["available"]}


def succeeded(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed; return its stdout."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with clinvk and both templates, and with the dependencies of the tests."""
    folder = tmp_path_factory.mktemp("fresh")
    python = folder / "venv" / "bin" / "python"
    sources = (REPOSITORY, *EXAMPLES.iterdir())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    succeeded(
        *pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *sources, cwd=folder
    )
    succeeded(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    succeeded(*pip, "--python", python, "install", "--no-index", "--no-deps", *folder.glob("*.whl"), cwd=folder)
    [site] = (folder / "venv").glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "name", "answer"), [("text", "shout", "HELLO"), ("json_lines", "parrot", "hello (1) ")]
)
def test_template_is_built_installed_and_used(
    scripted: Scripted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh: Path,
    folder: str,
    name: str,
    answer: str,
) -> None:
    monkeypatch.setattr(Clinvk, "command", str(fresh / "clinvk"))
    clinvk = Clinvk(scripted, tmp_path)
    assert clinvk.run("-o", "text", "-b", name, "--", "hello").stdout == f"{answer}\n"
    with Server(scripted).ready() as server:
        assert server.prompt("hello", name).json()["output"] == answer
    [test] = (EXAMPLES / folder).glob("test_*.py")
    copy = shutil.copy(test, tmp_path)
    env = {**scripted.env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    assert " passed" in succeeded(fresh / "python", "-m", "pytest", "-q", copy, cwd=tmp_path, env=env)
    program = "import sys, clinvk.backends.plugins; print(clinvk.__file__, *sys.path)"
    assert str(fresh.parent) in succeeded(fresh / "python", "-c", program, cwd=tmp_path, env=scripted.env).split()[0]
