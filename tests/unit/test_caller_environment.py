"""What must agree for a command's run in a server, and the variables that are sent to the server."""

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


def difference(command: dict[str, str], settings: Settings | None = None, backend: str = "claude") -> str:
    """Say what differs between a command and a server with the built-in settings."""
    theirs = environment.environment_digests(Settings(), SERVER, BACKENDS)
    mine = environment.environment_digests(settings or Settings(), command, (backend,), sends_variables=True)
    return environment.environment_difference(mine, theirs)


def merged(command: dict[str, str], server: dict[str, str] = SERVER) -> dict[str, str]:
    """Return the environment of a command's agent in a server."""
    return environment.merge_environment(server, environment.own_variables(command))


def test_only_the_nesting_depth_must_match() -> None:
    assert difference({"PATH": "/other", "OPENAI_API_KEY": "another", "CLINVK_DEPTH": "0"}) == ""
    assert difference({**SERVER, "CLINVK_DEPTH": "1"}) == "CLINVK_DEPTH differs"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"EDITOR": "vi", "XDG_ACTIVATION_TOKEN": "x", "CLINVK_SESSION__STORE_TOKEN_USAGE": "true"}, ""),
        ({"PATH": "/other"}, "PATH, HOME or a key differs"),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "PATH, HOME or a key differs"),
    ],
)
def test_paths_and_keys_must_match_for_a_request_without_variables(more: dict[str, str], what: str) -> None:
    mine, theirs = (environment.environment_digests(Settings(), each, ()) for each in ({**SERVER, **more}, SERVER))
    assert environment.environment_difference(mine, theirs) == what


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


def test_another_version_is_the_only_difference_that_is_named() -> None:
    mine = {"the version of clinvk": "a", "umask": "a"}
    theirs = {"the version of clinvk": "b", "umask": "b"}
    assert environment.environment_difference(mine, theirs) == "the version of clinvk differs"


def test_comparison_contains_no_values() -> None:
    settings = Settings(backends={"claude": BackendSettings(env={"OPENAI_API_KEY": "sk-very-secret"})})
    assert "very-secret" not in str(environment.environment_digests(settings, SERVER, BACKENDS))


def test_agent_gets_the_environment_of_the_command_with_its_keys() -> None:
    more = {"PATH": "/venv/bin:/bin", "OPENAI_API_KEY": "mine", "https_proxy": "http://p", "LINES_": "a=b\nc", "E": ""}
    assert merged({**SERVER, **more}) == {**SERVER, **more}
    fewer = {name: value for name, value in SERVER.items() if name not in ("EDITOR", "OPENAI_API_KEY")}
    assert merged(fewer) == fewer
    assert merged({}) == {"TERM": "dumb"}


def test_undecodable_variables_are_sent() -> None:
    odd = os.fsdecode(b"caf\xe9")
    assert merged({**SERVER, "PLACE": odd, odd: "x"}) == {**SERVER, "PLACE": odd, odd: "x"}


@pytest.mark.parametrize(
    "more",
    [
        {"SHLVL": "3", "PWD": "/x", "SSH_TTY": "/dev/pts/1", "KITTY_WINDOW_ID": "2", "_": "clinvk"},
        {"_P9K_TTY": "/dev/pts/1", "ATUIN_SESSION": "1", "SHELL_SESSION_ID": "1", "GIO_LAUNCHED_DESKTOP_FILE_PID": "1"},
        {"CLINVK_SERVER__PORT": "1", "CLINVK_server__cors_allow_credentials": "1", "CLINVK_LOG__FORMAT": "json"},
        {"CLINVK_API_KEYS": "a", "NOTIFY_SOCKET": "/run/x", "CLINVK_PROCESS_ID": "1-2", "STARSHIP_SESSION_KEY": "1"},
    ],
    ids=["of the terminal", "of the shell", "of a server", "of clinvk alone"],
)
def test_these_variables_are_not_sent(more: dict[str, str]) -> None:
    assert merged({**SERVER, "TERM": "xterm", **more}) == SERVER


@pytest.mark.parametrize("section", ["SERVER", "POLICY", "WARM", "LOG", "TRACING"])
def test_agent_gets_the_settings_of_the_server(section: str) -> None:
    """Else the agents of each shell would be of another kind, and none be ready."""
    named = f"CLINVK_{section}__X"
    server = {**SERVER, named: "1"}
    assert merged(SERVER, server) == merged({**SERVER, named: "2"}, server) == server
    assert merged(server) == SERVER


@pytest.mark.parametrize("sent", [b"=x\0=\0\0PATH=/bin", b"PATH=/bin\0TERM=forged", b"PATH=/bin"])
def test_malformed_variables_are_ignored(sent: bytes) -> None:
    assert environment.merge_environment({"TERM": "dumb"}, sent) == {"TERM": "dumb", "PATH": "/bin"}
