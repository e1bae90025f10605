"""The sources of settings: their order, and the messages for mistakes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from clinvk.config.load import home, load
from clinvk.config.model import BackendSettings, Settings
from clinvk.config.setting_values import user_home
from clinvk.types.errors import ConfigError

BACKENDS = ("claude", "codex", "gemini")


class Sources:
    """A home with a settings file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / ".clinvk" / "config.yaml"
        self.file.parent.mkdir()
        self.env = {"HOME": str(folder)}

    def load(
        self, text: str | None = None, env: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
    ) -> Settings:
        if text is not None:
            self.file.write_text(text)
        return load(None, {**self.env, **(env or {})}, flags or {}, BACKENDS)

    def error(self, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(text, env)
        return caught.value.message.replace(str(self.file), "FILE")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_environment_overrides_file_and_flags_override_both(sources: Sources) -> None:
    text = "server: {port: 1, host: file}\noutput: {format: text}"
    settings = sources.load(text, {"CLINVK_SERVER__PORT": "2", "CLINVK_SERVER__HOST": "env"}, {"server.port": 3})
    assert (settings.server.port, settings.server.host, settings.output.format) == (3, "env", "text")


def test_short_variables_set_backend_and_models(sources: Sources) -> None:
    settings = sources.load(env={"CLINVK_BACKEND": "codex", "CLINVK_CLAUDE_MODEL": "opus", "CLINVK_GEMINI_MODEL": "g"})
    assert settings.default_backend == "codex"
    assert {name: own.model for name, own in settings.backends.items()} == {"claude": "opus", "gemini": "g"}


def test_long_variable_overrides_the_short_one(sources: Sources) -> None:
    settings = sources.load(env={"CLINVK_CLAUDE_MODEL": "short", "CLINVK_BACKENDS__CLAUDE__MODEL": "long"})
    assert settings.backends["claude"].model == "long"


@pytest.mark.parametrize(
    ("value", "expected"), [("--a, --b", ("--a", "--b")), ('["--a,b", "c"]', ("--a,b", "c")), ("one", ("one",))]
)
def test_list_variable_is_comma_separated_or_json(sources: Sources, value: str, expected: tuple[str, ...]) -> None:
    settings = sources.load(env={"CLINVK_BACKENDS__CODEX__EXTRA_FLAGS": value})
    assert settings.backends["codex"].extra_flags == expected


def test_agent_variables_keep_their_case_and_are_merged(sources: Sources) -> None:
    settings = sources.load(
        "backends: {claude: {env: {RETRIES: 0, FLAG: yes}}}",
        {"CLINVK_BACKENDS__CLAUDE__ENV__Base_URL": "x", "CLINVK_BACKENDS__CODEX__ENV": '{"A": "b"}'},
    )
    assert settings.backends["claude"].env == {"RETRIES": "0", "FLAG": "yes", "Base_URL": "x"}
    assert settings.backends["codex"].env == {"A": "b"}


@pytest.mark.parametrize(
    "name", ["*", "ANTHROPIC_*", "LC_?[A-Z]", "[!_]*", "_", "npm_config_a-b", "a.b", "BASH_FUNC_x%%"]
)
def test_env_allow_accepts_variable_names_and_patterns(sources: Sources, name: str) -> None:
    assert sources.load(f"agents: {{env_allow: ['{name}']}}").agents.env_allow == (name,)


def test_empty_variable_and_key_without_a_value_are_ignored(sources: Sources) -> None:
    assert sources.load("server:\noutput:\n  format:\n", {"CLINVK_SERVER__PORT": ""}) == Settings()


def test_unrelated_clinvk_variables_are_ignored(sources: Sources) -> None:
    """Kubernetes gives every pod variables named after its services; an agent's process carries a mark."""
    assert sources.load(env={"CLINVK_PORT": "tcp://10.0.0.1:80", "CLINVK_PROCESS_ID": "1-1"}) == Settings()


@pytest.mark.parametrize(
    ("written", "expected"), [("all", None), ('""', None), ("[]", ()), ("[Read, Bash]", ("Read", "Bash"))]
)
def test_allowed_tools_are_a_list_or_all(sources: Sources, written: str, expected: tuple[str, ...] | None) -> None:
    settings = sources.load(f"backends: {{claude: {{allowed_tools: {written}}}}}")
    assert settings.backends["claude"].allowed_tools == expected


def test_empty_mode_of_a_backend_falls_back_to_the_unified_one(sources: Sources) -> None:
    assert sources.load("backends: {codex: {approval_mode: '', model: 2024-01-01}}").backends == {
        "codex": BackendSettings(model="2024-01-01")
    }


def test_leading_tilde_of_a_path_expands_to_home(sources: Sources) -> None:
    server = sources.load("server: {blocked_workdir_prefixes: [~/secret, /etc], default_workdir: '~'}").server
    home_directory = sources.env["HOME"]
    assert server.blocked_workdir_prefixes == (f"{home_directory}/secret", "/etc")
    assert server.default_workdir == home_directory


def test_clinvk_home_moves_the_directory(sources: Sources, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "config.yaml").write_text("default_backend: gemini")
    assert sources.load("default_backend: codex", {"CLINVK_HOME": str(moved)}).default_backend == "gemini"
    assert home({"CLINVK_HOME": "/a"}) == Path("/a")


def test_empty_home_is_an_error() -> None:
    with pytest.raises(ConfigError, match="there is no home directory"):
        user_home({"HOME": ""})


def test_config_flag_overrides_the_config_variable(sources: Sources, tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("default_backend: codex")
    other.write_text("default_backend: gemini")
    env = {**sources.env, "CLINVK_CONFIG": str(one)}
    assert load(None, env, {}, BACKENDS).default_backend == "codex"
    assert load(str(other), env, {}, BACKENDS).default_backend == "gemini"


def test_leading_tilde_of_config_file_and_clinvk_home_expands_to_home(sources: Sources) -> None:
    sources.file.write_text("default_backend: codex")
    env = {**sources.env, "CLINVK_CONFIG": "~/.clinvk/config.yaml"}
    assert load(None, env, {}, BACKENDS).default_backend == "codex"
    assert home({"HOME": "/home/ana", "CLINVK_HOME": "~/c"}) == Path("/home/ana/c")


def test_inaccessible_config_file_is_an_error(sources: Sources) -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load(None, {"CLINVK_HOME": "/" + "x" * 300}, {}, BACKENDS)


@pytest.mark.parametrize("as_flag", [True, False])
def test_named_config_file_must_exist(sources: Sources, as_flag: bool) -> None:
    env = sources.env if as_flag else {**sources.env, "CLINVK_CONFIG": "/nowhere.yaml"}
    with pytest.raises(ConfigError, match=r"/nowhere\.yaml: cannot be read: No such file"):
        load("/nowhere.yaml" if as_flag else None, env, {}, BACKENDS)


MISTAKES = [
    ("a: 1", "FILE:1: unknown key 'a' (= '1'); allowed: default_backend, unified_flags"),
    ("server:\n  prot: 1", "FILE:2: unknown key 'server.prot' (= '1'); did you mean 'port'?"),
    ('server:\n  host: ""', "FILE:2: server.host = '': must be an address or a name, such as 127.0.0.1, or 0.0.0.0"),
    ("server:\n  port: abc", "FILE:2: server.port = 'abc': must be a whole number from 0 to 65535"),
    ("server: {port: 8080.0}", "FILE:1: server.port = '8080.0': must be a whole number"),
    ("server: {port: {a: 1}}", "FILE:1: server.port has no key 'a'; it must be a whole number"),
    ("server: 5", "FILE:1: server = '5': must be a section"),
    (
        "backends: {claude: {env: {'A=B': x}}}",
        "FILE:1: backends.claude.env.A=B = 'x': must be a variable: a name without",
    ),
    ('backends: {claude: {env: {A: "x\\0"}}}', "FILE:1: backends.claude.env.A = 'x\\x00': must be a variable"),
    ("backends: {claud: {model: x}}", "unknown backend 'backends.claud' (= 'x'); did you mean 'claude'? allowed: cl"),
    ("backends: {claude: {model: 4.5}}", "backends.claude.model = '4.5': must be a text (a number or a yes/no"),
    ("backends: {claude: {extra_flags: --a}}", "extra_flags = '--a': must be a list of texts"),
    ("backends: {claude: {env: {A: [1]}}}", "backends.claude.env.A = '[1]': must be a text"),
    ("agents: {env_allow: FOO BAR}", "FILE:1: agents.env_allow = 'FOO BAR': must be a list of texts"),
    ("agents:\n  env_allow: [A_*, FOO BAR]", "FILE:2: agents.env_allow = 'FOO BAR': must be names of variables"),
    ("session: {default_tags: [[a]]}", "default_tags = '[…]': must be a list of texts"),
    ("default_backend: cluade", "FILE:1: default_backend = 'cluade'; did you mean 'claude'? allowed: claude, codex"),
    ("server: {default_workdir: here}", "FILE:1: server.default_workdir = 'here': must be an absolute path"),
    ("server:\n  port: 1\n  port: 2", "FILE:3: 'server.port' is duplicated; first on line 2"),
    ("- x", "FILE:1: must be keys with values"),
    ("a: b: c", "FILE:1: is not valid YAML: mapping values are not allowed"),
    ("server:\n\tport: 1", "FILE:2: is not valid YAML: found character that cannot start any token; YAML is indented"),
    ("---\na: 1\n---\nb: 2", "FILE:3: is not valid YAML"),
    ("? [a]\n: 1", "FILE:1: a key must be a word"),
    ("server: {port: !!int abc}", "FILE:1: 'abc' cannot be read as tag:yaml.org,2002:int"),
    ("server: {host: !!python/name:os.system x}", "FILE:1: 'x' cannot be read as tag:yaml.org,2002:python/name"),
    ("server: *nowhere", "FILE:1: is not valid YAML: found undefined alias"),
    ("x: &x {y: *x}", "FILE:1: unknown key 'x'"),
    ("a: \x07", "FILE: is not valid YAML: unacceptable character"),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_file_error_names_line_key_value_and_allowed_values(sources: Sources, text: str, expected: str) -> None:
    assert expected in sources.error(text)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CLINVK_SERVER__PORT", "abc", "CLINVK_SERVER__PORT: server.port = 'abc': must be a whole number from 0"),
        ("CLINVK_SERVER__PROT", "1", "CLINVK_SERVER__PROT: unknown key 'server.prot' (= '1'); did you mean 'port'?"),
        ("CLINVK_BACKENDS__CLAUDE__ENV", "{", "backends.claude.env = '{': must be a section"),
        (
            "CLINVK_BACKENDS__CLAUDE__EXTRA_FLAGS",
            "[1",
            "must be texts with commas, or [a, b] where an item has a comma",
        ),
    ],
)
def test_environment_error_names_the_variable(sources: Sources, variable: str, value: str, expected: str) -> None:
    assert expected in sources.error(env={variable: value})


def test_unreadable_or_non_utf8_file_is_reported(sources: Sources) -> None:
    sources.file.write_bytes(b"default_backend: \xff")
    assert sources.error() == "FILE: is not UTF-8 text: invalid start byte at byte 17"
    sources.file.unlink()
    sources.file.mkdir()
    assert sources.error() == "FILE: cannot be read: Is a directory"
