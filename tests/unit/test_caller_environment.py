"""The settings and variables that must agree for a command's run in a server, and those that are sent along."""

import os

import pytest

from clinvk.backends.registry import BACKENDS
from clinvk.config.model import (
    AgentSettings,
    BackendSettings,
    OutputSettings,
    ServerSettings,
    SessionSettings,
    Settings,
)
from clinvk.remote import environment

SERVER = {"PATH": "/bin", "HOME": "/home/ana", "TERM": "dumb", "EDITOR": "ed", "OPENAI_API_KEY": "k"}
VARIABLES = environment.decisive_variables(BACKENDS)


def difference(command: dict[str, str], settings: Settings | None = None, backend: str = "claude") -> str:
    """Say what differs between a command and a server with the built-in settings."""
    theirs = environment.caller_environment(Settings(), SERVER, VARIABLES, BACKENDS)
    mine = environment.caller_environment(settings or Settings(), command, VARIABLES, (backend,))
    return environment.environment_difference(mine, theirs)


@pytest.mark.parametrize(
    "more",
    [
        {"TERM": "xterm", "SHLVL": "3", "PWD": "/x", "SSH_TTY": "/dev/pts/1", "KITTY_WINDOW_ID": "2", "_": "clinvk"},
        {"DATABASE_URL": "x", "EDITOR": "vi", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "CLINVK_BACKEND": "codex"},
        {"CLINVK_OUTPUT__SHOW_TOKENS": "true", "CLINVK_SESSION__STORE_TOKEN_USAGE": "true"},
        {"CLINVK_SERVER__PORT": "1", "CLINVK_server__cors_allow_credentials": "1", "CLINVK_LOG__FORMAT": "json"},
        {"CLINVK_API_KEYS": "a", "NOTIFY_SOCKET": "/run/x", "CLINVK_PROCESS_ID": "1-2", "STARSHIP_SESSION_KEY": "1"},
    ],
    ids=["of the terminal", "goes along", "goes along as a setting", "of a server", "of clinvk alone"],
)
def test_these_variables_may_differ(more: dict[str, str]) -> None:
    assert difference({**SERVER, **more}) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "SHELL", "TMPDIR", "OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"),
        *("HTTPS_PROXY", "no_proxy", "CODEX_HOME", "CLAUDE_CONFIG_DIR", "GEMINI_CLI_HOME", "CLINVK_DEPTH"),
        *("CLINVK_BACKENDS__CLAUDE__ENV__MY_TOKEN", "CLINVK_backends__claude__env__MY_TOKEN"),
    ],
)
def test_these_variables_must_match(name: str) -> None:
    assert difference({**SERVER, name: "another"}) == f"{name} differs"


def test_variable_missing_from_the_command_is_a_difference() -> None:
    without = {name: value for name, value in SERVER.items() if name != "OPENAI_API_KEY"}
    assert difference(without) == "OPENAI_API_KEY differs"


def test_undecodable_variables_must_match() -> None:
    odd = os.fsdecode(b"caf\xe9")
    assert difference({**SERVER, "PLACE": odd, odd: "x"}) == "PLACE, caf\\udce9 differ"
    assert "PLACE" not in environment.own_variables({**SERVER, "PLACE": odd})


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (Settings(output=OutputSettings(format="text"), server=ServerSettings(port=1)), ""),
        (Settings(backends={"claude": BackendSettings(model="opus", system_prompt="x")}), ""),
        (Settings(backends={"codex": BackendSettings(executable="/x")}), ""),
        (Settings(backends={"claude": BackendSettings(executable="/x")}), "backends.claude.executable differs"),
        (Settings(backends={"claude": BackendSettings(extra_flags=("--x",))}), "backends.claude.extra_flags differs"),
        (Settings(agents=AgentSettings(env_allow=("X",))), "agents differs"),
        (Settings(session=SessionSettings(default_tags=("x",))), "session.default_tags differs"),
        (Settings(server=ServerSettings(no_progress_timeout_secs=1)), "server.no_progress_timeout_secs differs"),
    ],
)
def test_settings_missing_from_the_request_must_match(settings: Settings, what: str) -> None:
    assert difference(SERVER, settings) == what


def test_comparison_contains_no_values() -> None:
    told = environment.caller_environment(
        Settings(), {**SERVER, "OPENAI_API_KEY": "sk-very-secret"}, VARIABLES, BACKENDS
    )
    assert "very-secret" not in str(told)


def test_merged_environment_is_the_commands_except_for_the_terminal() -> None:
    command = {**SERVER, "TERM": "xterm", "EDITOR": "vi", "LANG": "C", "SHLVL": "2"}
    assert environment.merge_environment(SERVER, environment.own_variables(command)) == {
        **SERVER,
        "EDITOR": "vi",
        "LANG": "C",
    }
    fewer = {name: value for name, value in SERVER.items() if name != "EDITOR"}
    assert environment.merge_environment(SERVER, environment.own_variables(fewer)) == fewer


@pytest.mark.parametrize("section", ["SERVER", "POLICY", "WARM", "LOG", "TRACING"])
def test_merged_environment_keeps_the_servers_configuration(section: str) -> None:
    """Else its agents would be of another kind for a command than for a request over HTTP, and none be ready."""
    named = f"CLINVK_{section}__X"
    server = {**SERVER, named: "1"}
    assert environment.merge_environment(server, environment.own_variables(SERVER)) == server
    assert environment.merge_environment(server, environment.own_variables({**SERVER, named: "2"})) == server
    assert environment.merge_environment(SERVER, environment.own_variables(server)) == SERVER
