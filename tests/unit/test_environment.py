"""Which variables agents inherit."""

import pytest

from clinvk.config.model import AgentSettings, BackendSettings, Settings
from clinvk.runtime.process import executables

ENVIRON = {
    "PATH": "/bin",
    "HOME": "/home/ana",
    "LC_ALL": "C",
    "CLINVK_HOME": "/h",
    "ANTHROPIC_API_KEY": "a",
    "DATABASE_PASSWORD": "d",
}


@pytest.mark.parametrize(
    "name",
    [
        *("CLINVK_API_KEYS", "CLINVK_API_KEYS_GOPASS_PATH", "CLINVK_SERVER__API_KEYS_GOPASS_PATH"),
        *("CLINVK_server__api_keys_gopass_path", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"),
    ],
)
def test_variables_reserved_for_clinvk_never_reach_agents(name: str) -> None:
    own = {"claude": BackendSettings(env={name: "b"})}
    found = executables.environment("claude", Settings(backends=own), {**ENVIRON, name: "a"})
    assert name not in found
    assert found == {**ENVIRON, "CLINVK_DEPTH": "1"}


def test_env_allow_limits_inherited_variables() -> None:
    settings = Settings(
        agents=AgentSettings(env_allow=("ANTHROPIC_*",)), backends={"claude": BackendSettings(env={"MINE": "m"})}
    )
    found = executables.environment("claude", settings, ENVIRON)
    kept = {name: value for name, value in ENVIRON.items() if name != "DATABASE_PASSWORD"}
    assert found == {**kept, "MINE": "m", "CLINVK_DEPTH": "1"}


def test_env_allow_cannot_expose_reserved_variables() -> None:
    settings = Settings(agents=AgentSettings(env_allow=("*",)))
    assert "CLINVK_API_KEYS" not in executables.environment("claude", settings, {**ENVIRON, "CLINVK_API_KEYS": "k"})


@pytest.mark.parametrize("told", ["", "x", "-1", "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT TWO}", "9" * 5000])
def test_invalid_depth_counts_as_zero(told: str) -> None:
    assert executables.environment("claude", Settings(), {**ENVIRON, "CLINVK_DEPTH": told})["CLINVK_DEPTH"] == "1"


def test_env_allow_keeps_the_nesting_depth() -> None:
    settings = Settings(agents=AgentSettings(env_allow=("X",)))
    assert executables.environment("claude", settings, {**ENVIRON, "CLINVK_DEPTH": "1"})["CLINVK_DEPTH"] == "2"
