"""What agents inherit, and the options that are refused before an agent starts."""

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Backend, Channel, Host, Launch
from clinvk.config.model import AgentSettings, BackendSettings, Settings
from clinvk.runtime.agent_environment import AgentEnvironment
from clinvk.runtime.process import executables
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.errors import InvalidRequest, NotResumable, Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import ClientTool, RunRequest

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
        *("CLINVK_CLUSTER_SECRET", "CLINVK_CLUSTER__URL", "CLINVK_CLUSTER__CREDENTIALS", "CLINVK_STORE__URL"),
    ],
)
def test_variables_reserved_for_clinvk_never_reach_agents(name: str) -> None:
    own = {"claude": BackendSettings(env={name: "b"})}
    found = executables.environment("claude", Settings(backends=own), {**ENVIRON, name: "a"})
    assert name not in found
    assert found == {**ENVIRON, "CLINVK_DEPTH": "1"}


@pytest.mark.parametrize(
    "name",
    [
        *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        *("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
        *("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLKEY"),
    ],
)
def test_logins_of_libraries_reach_an_agent_only_by_its_own_setting(name: str) -> None:
    environ = {**ENVIRON, name: "a"}
    settings = Settings(agents=AgentSettings(env_allow=("*",)))
    assert name not in executables.environment("claude", settings, environ)
    settings = Settings(backends={"claude": BackendSettings(env={name: "b"})})
    assert executables.environment("claude", settings, environ)[name] == "b"
    assert name not in executables.environment("codex", settings, environ)


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


class Plain(Backend):
    """A backend that states no capabilities, and checks nothing."""

    name = executable = install = "plain"

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        return Launch(argv=("plain",))

    def channel(self, launch: Launch, host: Host) -> Channel:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("approval_mode", mode) for mode in APPROVAL_MODES if mode != "default"),
        *(("sandbox_mode", mode) for mode in SANDBOX_MODES if mode != "default"),
        *(("allowed_tools", ()), ("add_dirs", ("/",)), ("own_tools", False), ("client_tools", (ClientTool("t"),))),
    ],
)
def test_launch_refuses_an_option_that_the_backend_does_not_state(field: str, value: object) -> None:
    environment = AgentEnvironment(Settings(), {"PATH": ""}, {})
    request = RunRequest(prompt="", backend="plain")
    assert environment.launch(Plain(), request, None).argv == ("plain",)
    with pytest.raises(Unsupported):
        environment.launch(Plain(), replace(request, **{field: value}), None)
    with pytest.raises(NotResumable):
        environment.launch(Plain(), request, Resume("x"))


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("model", "a\0b", "model"),
        ("workdir", "/\0", "workdir"),
        ("add_dirs", ("/ok", "/a\0b"), "add_dirs[1]"),
        ("extra", ("-c", "x=\0"), "extra[1]"),
        ("system_prompt", "\0", "system_prompt"),
        ("allowed_tools", ("Read", "\0"), "allowed_tools[1]"),
    ],
)
def test_launch_refuses_a_nul_character_in_an_argument(field: str, value: object, place: str) -> None:
    request = replace(RunRequest(prompt="", backend="plain"), **{field: value})
    with pytest.raises(InvalidRequest, match="NUL") as refused:
        AgentEnvironment(Settings(), {"PATH": ""}, {}).launch(Plain(), request, None)
    assert refused.value.field == place
