"""How each backend reads its CLI's output without a prompt."""

from collections.abc import Mapping

import pytest

from clinvk.backends.base import Host
from clinvk.backends.checkup_base import Checkup, LoginProbe, LoginStatus, ProbeOutput, flags_in, launches
from clinvk.backends.registry import BACKENDS

HANDLE = "00000000-0000-4000-8000-000000000000"


def checkup(name: str, env: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> Checkup:
    backend = BACKENDS[name]
    there = {path: text.encode() for path, text in (files or {}).items()}
    return backend.checkup(Host(commands=frozenset({"bwrap", "socat"}), env=env or {}, read=there.get))


def login(name: str, env: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> LoginStatus:
    found = checkup(name, env, files).login
    assert isinstance(found, LoginStatus)
    return found


def answered(name: str, exit_code: int, text: str) -> LoginStatus:
    question = checkup(name).login
    assert isinstance(question, LoginProbe)
    return question.read(ProbeOutput(exit_code, text))


@pytest.mark.parametrize("name", ["claude", "codex"])
def test_trials_cover_every_flag_of_a_launch(name: str) -> None:
    used = {flag for launch in launches(BACKENDS[name], HANDLE) for flag in flags_in(launch.argv)}
    tried = {flag for trial in checkup(name).probes for flag in flags_in(trial.argv)}
    assert used
    assert used <= tried


@pytest.mark.parametrize("name", ["claude", "codex", "gemini"])
def test_trials_have_no_prompt(name: str) -> None:
    for trial in checkup(name).probes:
        words = [word for word in trial.argv[1:] if not word.startswith("-")]
        assert not {"-p", "--prompt"} & set(trial.argv) or name == "claude"
        assert all(word in ("app-server", "exec", "resume", "fork", HANDLE) or "=" in word for word in words)
        assert "--help" in trial.argv or name == "claude"


@pytest.mark.parametrize(
    ("name", "exit_code", "text", "lacking"),
    [
        ("claude", 1, "Error: Input must be provided either through stdin or …", ()),
        ("claude", 1, "No conversation found with session ID: 0", ()),
        ("claude", 1, "error: unknown option '--max-turns=1'\n(Did you mean …?)", ("--max-turns",)),
        ("claude", 127, "env: node: No such file or directory", None),
        ("codex", 0, "Run Codex non-interactively", ()),
        ("codex", 2, "error: unexpected argument '--ephemeral' found", ("--ephemeral",)),
        ("codex", 1, "Error: CODEX_HOME …", None),
        ("gemini", 1, "SyntaxError", None),
    ],
)
def test_trial_output_reveals_missing_flags(
    name: str, exit_code: int, text: str, lacking: tuple[str, ...] | None
) -> None:
    assert checkup(name).probes[0].missing_flags(ProbeOutput(exit_code, text)) == lacking


def test_gemini_help_reveals_missing_flags() -> None:
    used = {flag for launch in launches(BACKENDS["gemini"], HANDLE) for flag in flags_in(launch.argv)}
    text = "\n".join(f"  {flag}  what" for flag in sorted({*used, "--help"} - {"--policy"}))
    lacking = checkup("gemini").probes[0].missing_flags
    assert lacking(ProbeOutput(0, text)) == ("--policy",)
    assert lacking(ProbeOutput(0, f"{text}\n --policy  x")) == ()


@pytest.mark.parametrize(
    ("name", "exit_code", "text", "expected"),
    [
        ("claude", 0, '{"loggedIn": true, "authMethod": "claude.ai"}', LoginStatus(True, "logged in (claude.ai)")),
        ("claude", 0, '{"loggedIn": true, "authMethod": "third_party", "apiProvider": "bedrock"}',
         LoginStatus(True, "logged in (bedrock)")),
        ("claude", 1, 'note\n{"loggedIn": false}',
         LoginStatus(False, "not logged in; ANTHROPIC_API_KEY is not set", "claude /login")),
        ("claude", 1, "error: unknown command", LoginStatus(None, "claude auth status reports no login")),
        ("codex", 0, "WARNING: x\nLogged in using ChatGPT\n", LoginStatus(True, "Logged in using ChatGPT")),
        ("codex", 0, "API key configured - sk-abc***\nmore", LoginStatus(True, "API key configured")),
        ("codex", 1, "Not logged in\n", LoginStatus(False, "not logged in; CODEX_API_KEY is not set", "codex login")),
        ("codex", 2, "error", LoginStatus(None, "codex login status reports no login")),
    ],
)  # fmt: skip
def test_login_is_parsed_from_the_status_command(name: str, exit_code: int, text: str, expected: LoginStatus) -> None:
    assert answered(name, exit_code, text) == expected


OWN = 'model_provider = "own"\n[model_providers.own]\nname = "x"\n'
SETTINGS = "~/.gemini/settings.json"


@pytest.mark.parametrize(
    ("name", "env", "files", "there"),
    [
        ("codex", {"CODEX_API_KEY": "k"}, {}, True),
        ("codex", {}, {"~/.codex/config.toml": OWN}, None),
        ("codex", {}, {"~/.codex/config.toml": f'{OWN}env_key = "K"'}, False),
        ("codex", {"K": "k"}, {"~/.codex/config.toml": f'{OWN}env_key = "K"'}, True),
        ("codex", {"CODEX_HOME": "/c", "K": "k"}, {"/c/config.toml": f'{OWN}env_key = "K"'}, True),
        ("codex", {}, {"~/.codex/config.toml": "not = [toml"}, False),
        ("gemini", {}, {}, False),
        ("gemini", {"GEMINI_API_KEY": "k"}, {}, True),
        ("gemini", {}, {"~/.gemini/.env": "export GEMINI_API_KEY=k\n"}, True),
        ("gemini", {"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": "http://x"}, {}, False),
        ("gemini", {}, {SETTINGS: '{"security": {"auth": {"selectedType": "gemini-api-key"}}} // x'}, None),
        ("gemini", {}, {SETTINGS: '{"security": {"auth": {"selectedType": "oauth-personal"}}}'}, False),
        ("gemini", {}, {SETTINGS: '{"security": {"auth": {"selectedType": "oauth-personal"}}}',
                        "~/.gemini/oauth_creds.json": "{}"}, True),
        ("gemini", {}, {SETTINGS: '{"security": {"auth": {"selectedType": "of tomorrow"}}}'}, None),
        ("gemini", {"GOOGLE_GENAI_USE_VERTEXAI": "true"}, {}, False),
        ("gemini", {"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_API_KEY": "k"}, {}, True),
        ("gemini", {}, {SETTINGS: "{"}, False),
    ],
)  # fmt: skip
def test_login_is_found_in_environment_and_files(
    name: str, env: dict[str, str], files: dict[str, str], there: bool | None
) -> None:
    assert login(name, env, files).is_logged_in is there


def test_codex_login_is_queried_for_the_openai_provider() -> None:
    config = {"~/.codex/config.toml": 'model = "gpt"\n[model_providers]\n'}
    assert isinstance(checkup("codex", files=config).login, LoginProbe)


def test_claude_login_is_queried_in_the_home_only_if_configured_there() -> None:
    without, at_home = checkup("claude").login, checkup("claude", files={"~/.claude.json": "{}"}).login
    assert isinstance(without, LoginProbe)
    assert isinstance(at_home, LoginProbe)
    assert (without.in_user_home, at_home.in_user_home) == (False, True)


def test_claude_checkup_remarks_on_limits_as_root() -> None:
    backend = BACKENDS["claude"]
    assert len(backend.checkup(Host(is_root=True)).remarks) == 2
    assert checkup("claude").remarks == ()
