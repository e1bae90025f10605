"""The modules that a command imports: most of the time of a short command is spent on imports."""

from acceptance.command import Clinvk
from acceptance.server import Server
from scripted import Scripted
from scripted.steps import claude_says

OF_COVERAGE = dict.fromkeys(("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"), "")
"""A measurement of coverage imports modules of its own."""

BACKENDS = {f"clinvk.backends.{name}" for name in ("base", "claude", "codex", "gemini")}
RUNTIME = {f"clinvk.runtime.{name}" for name in ("local", "slots", "run.task", "process.spawn")}
PLUGINS = {"clinvk.backends.plugins", "importlib.metadata"}
"""The search for plug-ins, which takes 30 ms."""

SERVER = {"clinvk.api", "clinvk.remote.socket_server", "psutil", "starlette", "uvicorn"}


def imported(clinvk: Clinvk, *arguments: str) -> set[str]:
    """Return the modules that a successful command imports."""
    done = clinvk.run(*arguments, env={"PYTHONPROFILEIMPORTTIME": "1", **OF_COVERAGE})
    assert done.returncode == 0
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def own(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("clinvk")}


def test_version_imports_only_the_command(clinvk: Clinvk) -> None:
    modules = imported(clinvk, "version")
    assert own(modules) == {"clinvk", "clinvk.cli"}
    assert not modules & {"argparse", "msgspec", "asyncio"}


def test_help_imports_only_the_parser(clinvk: Clinvk) -> None:
    modules = imported(clinvk, "--help")
    assert {name.rpartition(".")[0] for name in own(modules)} <= {
        *("", "clinvk", "clinvk.cli", "clinvk.cli.parse", "clinvk.cli.terminal", "clinvk.types")
    }
    assert not modules & {"msgspec", "asyncio", "inspect", "pathlib", "shutil", *PLUGINS}


def test_config_get_imports_neither_agents_nor_yaml(clinvk: Clinvk) -> None:
    modules = imported(clinvk, "config", "get", "server.port")
    assert "clinvk.config.load" in modules
    assert not modules & (BACKENDS | RUNTIME | SERVER | PLUGINS | {"asyncio", "yaml", "ruamel.yaml"})


def test_sessions_list_imports_no_agents(clinvk: Clinvk) -> None:
    modules = imported(clinvk, "sessions", "list")
    assert "clinvk.store.sqlite.sqlite" in modules
    assert not modules & (BACKENDS | RUNTIME | SERVER | PLUGINS | {"yaml"})


def test_prompt_imports_neither_the_server_nor_yaml(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    modules = imported(clinvk, "--no-server", "hello")
    assert "clinvk.cli.prompt.display" in modules
    assert not modules & (SERVER | PLUGINS | {"yaml", "clinvk.dialects.rest.rest"})


def test_prompt_through_the_server_imports_neither_agents_nor_the_runtime(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    with Server(scripted, {}) as server:
        server.ready()
        modules = imported(clinvk, "--new", "-o", "text", "say hello")
    assert "clinvk.remote.socket_client" in modules
    assert not modules & (BACKENDS | RUNTIME | SERVER | PLUGINS | {"sqlite3", "yaml"})
