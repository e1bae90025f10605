"""`clinvk config` as a user types it."""

import json
import subprocess

import pytest
import yaml

from acceptance.command import Clinvk

FILE = """\
# my settings
server:
  port: 80  # the web's
backends:
  claude:
    env: {ANTHROPIC_API_KEY: sk-1, REGION: eu, PROXY: "http://ana:secret@proxy:1"}
    extra_flags: [--api-key=abc, --fast]
"""


def test_show_prints_every_value_with_its_source(clinvk: Clinvk) -> None:
    clinvk.settings(FILE)
    env = {"CLINVK_SERVER__HOST": "::1", "CLINVK_CODEX_MODEL": "gpt"}
    done = clinvk.run("config", "show", "-b", "codex", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert f"# {clinvk.config}" in lines
    assert f"port: 80 # {clinvk.config}:3" in lines
    assert "host: ::1 # CLINVK_SERVER__HOST" in lines
    assert "model: gpt # CLINVK_CODEX_MODEL" in lines
    assert "default_backend: codex # command line" in lines
    assert "idle_timeout_secs: 120 # default" in lines


def test_variable_with_one_underscore_after_the_section_is_named_with_the_right_one(clinvk: Clinvk) -> None:
    valid = {"CLINVK_API_KEYS": "x", "CLINVK_CLUSTER_SECRET": "x"}
    variables = {"CLINVK_SERVER_PORT": "3", "CLINVK_SOMETHING_ELSE": "x", **valid}
    done = clinvk.run("--dry-run", "hello", env=variables)
    assert done.returncode == 0
    (warning,) = [line for line in done.stderr.splitlines() if "CLINVK_" in line]
    assert warning == "clinvk: warning: CLINVK_SERVER_PORT has no effect; did you mean CLINVK_SERVER__PORT?"


def test_show_output_is_an_equivalent_settings_file(clinvk: Clinvk) -> None:
    clinvk.settings(FILE.replace("API_KEY", "X").replace("secret", "").replace("--api-key", "--x"))
    shown = clinvk.run("config", "show")
    clinvk.settings(shown.stdout)
    again = clinvk.run("config", "show", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["settings"] == yaml.safe_load(shown.stdout)


@pytest.mark.parametrize("arguments", [["--json"], ["-o", "json"]])
def test_show_json_includes_settings_sources_file_and_home(clinvk: Clinvk, arguments: list[str]) -> None:
    clinvk.settings(FILE)
    done = clinvk.run("config", "show", *arguments)
    shown = json.loads(done.stdout)
    assert shown["file"] == str(clinvk.config)
    assert shown["home"] == str(clinvk.config.parent)
    assert shown["settings"]["server"]["port"] == 80
    assert shown["settings"]["backends"]["gemini"]["allowed_tools"] == "all"
    assert shown["sources"]["server.port"] == f"{clinvk.config}:3"
    assert shown["sources"]["backends.gemini.model"] == "default"


@pytest.mark.parametrize("command", [["show"], ["show", "--json"], ["get", "backends"], ["get", "backends.claude.env"]])
def test_show_and_get_mask_only_keys_and_passwords(clinvk: Clinvk, command: list[str]) -> None:
    clinvk.settings(FILE)
    shown = clinvk.run("config", *command).stdout
    assert "sk-1" not in shown
    assert "secret" not in shown
    assert "abc" not in shown
    assert "eu" in shown
    assert "ana:********@proxy:1" in shown


def test_get_prints_the_requested_value_even_a_key(clinvk: Clinvk) -> None:
    clinvk.settings(FILE)

    def get(*arguments: str) -> str:
        return clinvk.run("config", "get", *arguments).stdout

    assert get("server.port") == "80\n"
    assert get("output.color") == "true\n"
    assert get("backends.codex.model") == "\n"
    assert get("backends.claude.extra_flags") == "- --api-key=abc\n- --fast\n"
    assert get("backends.codex.extra_flags") == "[]\n"
    assert get("backends.codex.env") == "{}\n"
    assert get("backends.claude.env.ANTHROPIC_API_KEY") == "sk-1\n"
    assert get("session") == "auto_resume: true\nretention_days: 30\nstore_token_usage: true\ndefault_tags: []\n"
    assert json.loads(get("--json", "session"))["retention_days"] == 30
    assert json.loads(get("backends.claude.extra_flags", "--json")) == ["--api-key=abc", "--fast"]


@pytest.mark.first(4)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "server.prot"], "config get: unknown key 'server.prot'; did you mean 'port'?\n"),
        (["get", "backends.claud.model"], "config get: unknown backend 'backends.claud'; did you mean 'claude'?"),
        (["get", "backends.claude.env.NOT"], "config get: 'backends.claude.env.NOT' is not set"),
        (["set", "server.prot", "1"], "config set: unknown key 'server.prot' (= '1'); did you mean 'port'?"),
        (["set", "server.trusted_proxies", "foo"], "server.trusted_proxies[0] is 'foo'; a proxy is an address or a"),
        (["set", "cluster.url", "host:4222"], "config set: cluster.url = 'host:4222': must be an address such as nats"),
        (["set", "backends.zzz.model", "x"], "config set: unknown backend 'backends.zzz' (= 'x'); allowed: claude,"),
        (["set", "backends.qwen.model", "x"], "config set: backend 'qwen' is not in the settings; to enable it"),
        (["set", "backends.qwen", "{}"], "to enable it: clinvk config set backends.qwen.acp 'qwen --acp'"),
        (["set", "backends.claude.fallback", "codex,claude"], "backends.claude.fallback: claude cannot replace itself"),
        (["set", "backends.claude.acp", "x"], "not changed: backends.claude.acp: claude is built in; choose another"),
        (["set", "--config", "no/where.yaml", "server.port", "1"], "no/where.yaml: cannot be changed: No such file"),
    ],
)
def test_invalid_key_or_value_exits_with_3_and_changes_nothing(
    clinvk: Clinvk, arguments: list[str], message: str
) -> None:
    clinvk.settings(FILE)
    done = clinvk.run("config", *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert clinvk.config.read_text() == FILE


def test_set_changes_one_value_and_reports_it(clinvk: Clinvk) -> None:
    clinvk.settings(FILE)
    done = clinvk.run("config", "set", "server.port", "3000")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"clinvk: {clinvk.config}: server.port = 3000\n"
    assert clinvk.config.read_text() == FILE.replace("80  #", "3000  #")
    assert clinvk.run("config", "get", "server.port").stdout == "3000\n"


def test_set_writes_to_the_named_settings_file(clinvk: Clinvk) -> None:
    own = clinvk.folder / "own.yaml"
    assert clinvk.run("config", "set", "--config", "own.yaml", "output.color", "no").returncode == 0
    assert clinvk.run("config", "set", "output.format", "text", env={"CLINVK_CONFIG": str(own)}).returncode == 0
    assert own.read_text() == "output:\n  color: false\n  format: text\n"
    assert not clinvk.config.exists()


def test_set_rejects_values_that_only_the_server_would_reject(clinvk: Clinvk) -> None:
    clinvk.settings("server:\n  trusted_proxies: [foo]\n  cors_allowed_origins: ['*']\n")
    refused = clinvk.run("config", "set", "server.cors_allow_credentials", "yes")
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert "server.cors_allowed_origins has '*': name the origins instead" in refused.stderr
    assert clinvk.run("config", "set", "server.port", "1").returncode == 0, "what was wrong before stops nothing"
    assert clinvk.run("config", "set", "server.trusted_proxies", "bar").returncode == 3
    assert clinvk.run("config", "set", "server.trusted_proxies", "10.0.0.0/8").returncode == 0


def test_set_can_fix_one_of_several_errors_that_only_the_server_reports(clinvk: Clinvk) -> None:
    clinvk.settings("server: {cors_allowed_origins: [bad, '*'], cors_allow_credentials: true}\n")
    done = clinvk.run("config", "set", "server.cors_allowed_origins", "*")
    assert done.returncode == 0, done.stderr
    assert "still wrong: server.cors_allow_credentials is true, and server.cors_allowed_origins has '*'" in done.stderr
    clinvk.settings("server: {trusted_proxies: [foo, bar]}\n")
    done = clinvk.run("config", "set", "server.trusted_proxies", "bar")
    assert done.returncode == 0, "at another place it is no other mistake"
    assert clinvk.run("config", "set", "server.trusted_proxies", "bar,baz").returncode == 3


def test_set_accepts_values_that_depend_on_the_server_machine(clinvk: Clinvk) -> None:
    """The shell may lack the service's cgroup, and may not resolve the server's host names."""
    for key, value in (("agents.cgroup", "yes"), ("server.host", "elsewhere.invalid")):
        assert clinvk.run("config", "set", key, value).returncode == 0


def test_unset_restores_the_default(clinvk: Clinvk) -> None:
    clinvk.settings(FILE)
    assert clinvk.run("config", "unset", "server").returncode == 0
    assert clinvk.run("config", "get", "server.port").stdout == "8080\n"
    assert clinvk.config.read_text().startswith("# my settings\nbackends:\n")
    again = clinvk.run("config", "unset", "server")
    assert (again.returncode, again.stderr) == (0, f"clinvk: {clinvk.config}: server was not set\n")


def test_dry_run_validates_and_writes_nothing(clinvk: Clinvk) -> None:
    clinvk.settings(FILE)
    done = clinvk.run("config", "set", "--dry-run", "server.port", "1")
    assert (done.returncode, clinvk.config.read_text()) == (0, FILE)
    assert done.stderr == f"clinvk: dry run, nothing written: {clinvk.config}: server.port = 1\n"
    assert clinvk.run("config", "set", "--dry-run", "server.port", "x").returncode == 3


def test_set_warns_of_an_environment_variable_that_overrides_the_file(clinvk: Clinvk) -> None:
    done = clinvk.run("config", "set", "server.port", "1", env={"CLINVK_SERVER__PORT": "2"})
    assert done.returncode == 0
    assert "the variable CLINVK_SERVER__PORT overrides the file while it is set" in done.stderr


def test_set_does_not_echo_a_key(clinvk: Clinvk) -> None:
    done = clinvk.run("config", "set", "backends.claude.env.ANTHROPIC_API_KEY", "sk-2")
    assert "sk-2" in clinvk.config.read_text()
    assert "sk-2" not in done.stderr


def test_closed_stdout_causes_no_traceback(clinvk: Clinvk) -> None:
    line = f"{clinvk.command} config show | true"
    done = subprocess.run(["/bin/sh", "-c", line], env=clinvk.agent.env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


MAX_RUNS = "max_concurrent_runs"


def test_show_explains_the_default_of_max_concurrent_runs(clinvk: Clinvk) -> None:
    shown = clinvk.run("config", "show").stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("  max_concurrent_runs:")]
    number = int(line.split()[1])
    assert number >= 16
    assert "# default: " in line
    assert "MB of memory" in line
    settings = json.loads(clinvk.run("config", "show", "--json").stdout)["settings"]
    for other in (clinvk.run("config", "get", "server.max_concurrent_runs").stdout, settings["server"][MAX_RUNS]):
        assert abs(int(other) - number) <= 16, "the memory that is available changes between two commands"
    clinvk.settings("server: {max_concurrent_runs: 7}\n")
    assert f"max_concurrent_runs: 7 # {clinvk.config}:1" in " ".join(clinvk.run("config", "show").stdout.split())
