"""How `codex app-server` is called for a request: pure, no process."""

import tomllib

import pytest
from msgspec.structs import replace

from clinvk.backends import shared
from clinvk.backends.base import PRIVATE, Host, Launch
from clinvk.backends.codex import Codex
from clinvk.backends.codex.prompt_schema import full_prompt, is_strict
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES, ApprovalMode, SandboxMode
from clinvk.types.errors import InvalidRequest, NotResumable, Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

THREAD = "01a211ec-d7c5-7781-8ba4-a81b539a5c93"
HELLO = RunRequest(prompt="hello", backend="codex", workdir="/p")


def host(config: str = "", environ: dict[str, str] | None = None, at: str = "~/.codex/config.toml") -> Host:
    return Host(env={"HOME": "/h"} if environ is None else environ, read={at: config.encode()}.get)


def launched(request: RunRequest, resume: Resume | None = None, on: Host | None = None) -> Launch:
    return Codex().launch(request, resume, on or host())


def settings(launch: Launch) -> dict[str, str]:
    """Return the settings from `--config`."""
    pairs = zip(launch.argv, launch.argv[1:], strict=False)
    return dict(value.split("=", 1) for flag, value in pairs if flag == "--config")


def test_plain_prompt_leaves_the_sandbox_to_the_settings() -> None:
    launch = launched(HELLO)
    assert launch.argv == (
        *("codex", "app-server"),
        *("--config", "features.unbounded_connection_retries=false", "--config", "features.goals=false"),
    )
    assert launch.session_params == {"cwd": "/p", "approvalPolicy": "never"}


@pytest.mark.parametrize("sandbox", SANDBOX_MODES)
@pytest.mark.parametrize("resume", [None, Resume(THREAD)])
def test_goals_are_disabled(sandbox: SandboxMode, resume: Resume | None) -> None:
    launch = Codex().launch(replace(HELLO, sandbox_mode=sandbox), resume, host())
    for one in (launch, launch.warm):
        assert one
        assert settings(one)["features.goals"] == "false"


FULL, READ, WRITE = "danger-full-access", "read-only", "workspace-write"
MODES: dict[tuple[ApprovalMode, SandboxMode], tuple[str, str | None]] = {
    ("default", "default"): ("never", None),
    ("default", "read-only"): ("never", READ),
    ("default", "workspace"): ("never", WRITE),
    ("default", "full"): ("never", FULL),
    ("auto", "default"): ("never", WRITE),
    ("auto", "read-only"): ("never", READ),
    ("auto", "workspace"): ("never", WRITE),
    ("auto", "full"): ("never", FULL),
    ("ask", "default"): ("on-request", None),
    ("ask", "read-only"): ("never", READ),
    ("ask", "workspace"): ("never", WRITE),
    ("ask", "full"): ("untrusted", FULL),
    ("none", "default"): ("never", FULL),
    ("none", "read-only"): ("never", READ),
    ("none", "workspace"): ("never", WRITE),
    ("none", "full"): ("never", FULL),
}


@pytest.mark.parametrize("sandbox", SANDBOX_MODES)
@pytest.mark.parametrize("approval", APPROVAL_MODES)
def test_each_mode_pair_has_its_parameters_or_is_rejected(approval: ApprovalMode, sandbox: SandboxMode) -> None:
    request = replace(HELLO, approval_mode=approval, sandbox_mode=sandbox)
    if (approval, sandbox) not in MODES:
        with pytest.raises(Unsupported, match="read-only") as refused:
            launched(request)
        assert refused.value.field == "approval_mode"
        return
    params = launched(request).session_params
    assert (params["approvalPolicy"], params.get("sandbox")) == MODES[approval, sandbox]


@pytest.mark.parametrize("tools", [("shell",), ()])
def test_allowed_tools_are_rejected_with_an_alternative(tools: tuple[str, ...]) -> None:
    with pytest.raises(Unsupported, match="sandbox_mode") as refused:
        launched(replace(HELLO, allowed_tools=tools))
    assert refused.value.field == "allowed_tools"


def test_read_only_disables_everything_that_runs_outside_the_sandbox() -> None:
    config = settings(launched(replace(HELLO, sandbox_mode="read-only", workdir="/a/b.c")))
    assert config["notify"] == "[]"
    assert {key for key, value in config.items() if value == "false"} >= {
        "features.hooks",
        "features.plugins",
        "features.apps",
    }
    untrusted = {"trust_level": "untrusted"}
    assert tomllib.loads(f"x={config['projects']}")["x"] == dict.fromkeys(("/a/b.c", "/a", "/"), untrusted)


def test_read_only_distrusts_the_project_by_its_real_path() -> None:
    on = Host(env={"HOME": "/h"}, resolve={"/p": "/real/p"}.__getitem__)
    assert '"/real/p"' in settings(launched(replace(HELLO, sandbox_mode="read-only"), on=on))["projects"]


def test_read_only_disables_each_mcp_server_by_its_name() -> None:
    on = host('[mcp_servers.one]\ncommand = "x"\n[mcp_servers."two.é\\""]\nurl = "http://x"\n')
    config = settings(launched(replace(HELLO, sandbox_mode="read-only"), on=on))
    off = {"enabled": False}
    assert tomllib.loads(f"x={config['mcp_servers']}")["x"] == {"one": off, 'two.é"': off}


@pytest.mark.parametrize(
    ("home", "path"), [("/c", "/c/config.toml"), ("rel", "/p/rel/config.toml"), ("", "~/.codex/config.toml")]
)
def test_read_only_finds_mcp_servers_in_the_config_of_codex(home: str, path: str) -> None:
    on = host("[mcp_servers.one]\n", {"HOME": "/h", "CODEX_HOME": home}, path)
    assert "one" in settings(launched(replace(HELLO, sandbox_mode="read-only"), on=on))["mcp_servers"]


def test_read_only_finds_mcp_servers_in_the_system_config() -> None:
    on = host("[mcp_servers.one]\n", at="/etc/codex/config.toml")
    assert "one" in settings(launched(replace(HELLO, sandbox_mode="read-only"), on=on))["mcp_servers"]


@pytest.mark.parametrize("at", ["~/.codex/config.toml", "/etc/codex/config.toml"])
def test_read_only_sends_no_telemetry_with_headers_from_a_program(at: str) -> None:
    on = host('[otel]\nheaders_helper = "/bin/x"\n', at=at)
    read_only = replace(HELLO, sandbox_mode="read-only")
    for name in ("otel.exporter", "otel.trace_exporter", "otel.metrics_exporter"):
        assert settings(launched(read_only, on=on))[name] == '"none"'
        assert name not in settings(launched(replace(HELLO, sandbox_mode="workspace"), on=on))
        assert name not in settings(launched(read_only))


@pytest.mark.parametrize("name", ["connectors", "memory_tool"])
def test_read_only_disables_features_enabled_by_an_older_name(name: str) -> None:
    on = host(f"[features]\n{name} = true\n")
    read_only = replace(HELLO, sandbox_mode="read-only")
    assert settings(launched(read_only, on=on))[f"features.{name}"] == "false"
    assert f"features.{name}" not in settings(launched(read_only))


@pytest.mark.parametrize("config", ["x = [", "mcp_servers = 3", "\x00"])
def test_read_only_is_rejected_if_the_config_is_unreadable(config: str) -> None:
    with pytest.raises(Unsupported, match="cannot be promised") as refused:
        launched(replace(HELLO, sandbox_mode="read-only"), on=host(config))
    assert refused.value.field == "sandbox_mode"


@pytest.mark.parametrize(("home", "folder"), [("", "~/.codex"), ("/c", "/c")])
def test_read_only_is_rejected_if_other_environments_are_configured(home: str, folder: str) -> None:
    on = host(
        '[[environments]]\nid = "x"\nprogram = "/x"\n',
        {"HOME": "/h", "CODEX_HOME": home},
        f"{folder}/environments.toml",
    )
    with pytest.raises(Unsupported, match=r"environments\.toml") as refused:
        launched(replace(HELLO, sandbox_mode="read-only"), on=on)
    assert refused.value.field == "sandbox_mode"
    launch = launched(replace(HELLO, sandbox_mode="workspace"), on=on)
    assert launch.session_params["sandbox"] == "workspace-write"


def test_read_only_is_rejected_with_an_exec_server() -> None:
    on = host("", {"HOME": "/h", "CODEX_EXEC_SERVER_URL": "ws://127.0.0.1:1"})
    with pytest.raises(Unsupported, match="CODEX_EXEC_SERVER_URL"):
        launched(replace(HELLO, sandbox_mode="read-only"), on=on)
    launch = launched(replace(HELLO, sandbox_mode="workspace"), on=on)
    assert launch.session_params["sandbox"] == "workspace-write"


@pytest.mark.parametrize("config", ["x = [", "projects = 3"])
def test_unreadable_config_is_left_to_codex_without_read_only(config: str) -> None:
    assert "read-only" not in launched(HELLO, on=host(config)).argv


@pytest.mark.parametrize("words", [("auto", None), ("none", None), (None, "workspace"), (None, "full")])
def test_project_is_untrusted_unless_the_user_trusts_it(words: tuple[ApprovalMode | None, SandboxMode | None]) -> None:
    request = replace(HELLO, workdir="/a/b", approval_mode=words[0], sandbox_mode=words[1])
    on = host('[projects."/a"]\ntrust_level = "trusted"\n[projects."/"]\ntrust_level = "untrusted"\n')
    untrusted = {"trust_level": "untrusted"}
    assert tomllib.loads(f"x={settings(launched(request, on=on))['projects']}")["x"] == {
        "/a/b": untrusted,
        "/": untrusted,
    }


def test_trust_level_is_not_set_if_it_would_widen_the_sandbox() -> None:
    assert "projects" not in settings(launched(HELLO))
    assert "projects" in settings(launched(HELLO, on=host('sandbox_mode = "workspace-write"')))
    assert "projects" in settings(launched(HELLO, on=host('default_permissions = ":workspace"')))


def test_read_only_is_rejected_without_a_home_directory() -> None:
    with pytest.raises(Unsupported, match="HOME"):
        launched(replace(HELLO, sandbox_mode="read-only"), on=host(environ={}))


def test_workspace_has_the_requested_and_a_private_temporary_directory() -> None:
    launch = launched(replace(HELLO, sandbox_mode="workspace", add_dirs=("/d", "/e")))
    assert launch.session_params["runtimeWorkspaceRoots"] == ["/p", "/d", "/e"]
    config = settings(launch)
    assert config["sandbox_workspace_write.writable_roots"] == "[]"
    assert config["sandbox_workspace_write.exclude_slash_tmp"] == "true"
    assert launch.env["TMPDIR"].startswith(PRIVATE)
    assert any(f"{PRIVATE}/{name}".startswith(launch.env["TMPDIR"] + "/") for name in launch.files)


@pytest.mark.parametrize("text", ['a "b" \\ \n\r\t\b\f', "é 🙂 \x1f\x7f", "'''", "x = 1", ""])
def test_any_text_round_trips_through_toml(text: str) -> None:
    assert tomllib.loads(f"x = {shared.toml_string(text)}") == {"x": text}
    assert tomllib.loads(f"x = {shared.toml_table({text: '1'})}") == {"x": {text: 1}}


def test_system_prompt_effort_and_thinking_are_config_values() -> None:
    config = settings(launched(replace(HELLO, system_prompt='be "x"\n', effort="high", thinking=True)))
    assert config["developer_instructions"] == r'"be \"x\"\n"'
    assert config["model_reasoning_effort"] == '"high"'
    assert config["model_reasoning_summary"] == '"auto"'


def test_skills_named_in_a_literal_prompt_are_disabled() -> None:
    prompt = "$deploy the $PATH, $a:b-c $deploy [$x](skill:///s/SKILL.md) [$y] ( /t ) [$z](rel) $ 5$"
    assert "skills.config" not in settings(launched(replace(HELLO, prompt=prompt)))
    assert "skills.config" not in settings(launched(replace(HELLO, prompt="costs 5$", literal=True)))
    config = tomllib.loads(f"x = {settings(launched(replace(HELLO, prompt=prompt, literal=True)))['skills.config']}")
    assert config["x"] == [
        *({"name": name, "enabled": False} for name in ("deploy", "PATH", "a:b-c", "x", "y", "z")),
        {"path": "/s/SKILL.md", "enabled": False},
        {"path": "/t", "enabled": False},
    ]


def test_literal_prompt_with_too_many_skill_names_is_rejected() -> None:
    prompt = " ".join(f"$variable{number}" for number in range(10_000))
    assert launched(replace(HELLO, prompt=prompt))
    with pytest.raises(InvalidRequest, match="names too many skills") as refused:
        launched(replace(HELLO, prompt=prompt, literal=True))
    assert refused.value.field == "prompt"


CLOSED: dict[str, object] = {"type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({"type": "object"}, False),
        ({"type": "array", "items": CLOSED}, False),
        ({**CLOSED, "properties": {"a": {"type": "string"}}, "required": ["a"]}, True),
        ({**CLOSED, "properties": {"a": {"type": "string"}}}, False),
        ({**CLOSED, "properties": {"a": {"type": "string"}}, "required": "a"}, False),
        ({**CLOSED, "properties": {"a": {"anyOf": [CLOSED, {"type": "null"}]}}, "required": ["a"]}, True),
        ({**CLOSED, "properties": {"a": {"anyOf": [{"type": "object"}]}}, "required": ["a"]}, False),
        ({**CLOSED, "properties": {"a": {"items": {"properties": {}}}}, "required": ["a"]}, False),
        ({**CLOSED, "properties": {"a": {"type": "string", "minLength": 1}}, "required": ["a"]}, False),
        ({**CLOSED, "properties": {"a": True}, "required": ["a"]}, False),
        ({**CLOSED, "$defs": {"a": {"type": "object"}}}, False),
        ({**CLOSED, "anyOf": [CLOSED]}, False),
        ({**CLOSED, "properties": 5}, False),
    ],
)
def test_only_a_strict_schema_is_passed_to_codex(schema: dict[str, object], strict: bool) -> None:
    """The API refuses others; those are told in the prompt, and the answer may be asked for again."""
    assert is_strict(schema) is strict
    request = replace(HELLO, output_schema=schema)
    launch = launched(request)
    assert launch.retries_schema is not strict
    assert ("<json_schema>" in full_prompt(request, None, "")) is not strict
    assert launched(replace(request, ephemeral=True)).retries_schema is False


def test_ephemeral_run_has_an_ephemeral_thread() -> None:
    assert launched(replace(HELLO, ephemeral=True)).session_params["ephemeral"] is True


def test_turns_are_counted_by_the_channel() -> None:
    launch = launched(replace(HELLO, max_turns=3))
    assert launch.warm
    assert (launch.max_turns, launch.warm.max_turns) == (None, None)


@pytest.mark.parametrize("handle", ["--last", "x", "", THREAD + "0"])
def test_only_a_thread_id_can_be_resumed(handle: str) -> None:
    with pytest.raises(NotResumable):
        launched(HELLO, Resume(handle))


def test_resumed_thread_gets_the_system_prompt_before_the_prompt() -> None:
    """A thread keeps its first developer instructions, whatever a later turn sets."""
    request = replace(HELLO, system_prompt="be brief")
    for resume in (Resume(THREAD), Resume(THREAD, fork=True)):
        launch = launched(request, resume)
        assert not [argument for argument in launch.argv if argument.startswith("developer_instructions")]
        prompt = f"<system_prompt>\nbe brief\n</system_prompt>\n\n{HELLO.prompt}"
        assert full_prompt(request, resume, "") == prompt
    assert full_prompt(request, None, "") == HELLO.prompt


@pytest.mark.parametrize(
    "flag",
    [
        "-a", "-aon-request", "-a=on-request", "--ask-for-approval", "--ask-for-approval=on-request",
        "-s", "-sdanger-full-access", "--sandbox=danger-full-access", "-C/x", "--cd=/x", "--add-dir=/x",
        "-m", "-mx", "--model=x", "--json", "--ephemeral", "-i/x", "--image=/x", "-o", "-o/x",
        "--output-last-message=/x", "--output-schema=/x", "--ignore-rules", "--ignore-user-config",
        "--full-auto", "--yolo", "--approve-for-me",
        "--dangerously-bypass-hook-trust", "--trust", "--worktree", "-h", "--help", "-V", "--version", "--",
        "resume", "fork", "review", "help", "exec", "e", "--skip-git-repo-check",
    ],
)  # fmt: skip
@pytest.mark.parametrize("sandbox", ["read-only", "full"])
def test_extra_flag_managed_by_clinvk_is_rejected_in_every_spelling(flag: str, sandbox: SandboxMode) -> None:
    with pytest.raises(InvalidRequest) as refused:
        launched(replace(HELLO, sandbox_mode=sandbox, extra=("--strict-config", flag)))
    assert refused.value.field == "extra[1]"


@pytest.mark.parametrize("key", ["sandbox_mode", "approval_policy", '"sandbox_mode"', " projects.x", "permissions.a.b"])
@pytest.mark.parametrize("spelt", ["-c|{}", "-c{}", "-c={}", "--config|{}", "--config={}"])
@pytest.mark.parametrize("sandbox", ["read-only", "full"])
def test_extra_config_value_managed_by_clinvk_is_rejected(sandbox: SandboxMode, spelt: str, key: str) -> None:
    with pytest.raises(InvalidRequest):
        launched(replace(HELLO, sandbox_mode=sandbox, extra=tuple(spelt.format(f"{key}=1").split("|"))))


def passed_on(launch: Launch, count: int) -> tuple[str, ...]:
    """Return the position of the extra flags: before all restricting flags of clinvk."""
    return launch.argv[2 : 2 + count]


HARMLESS = (("--strict-config",), ("-c", 'model_verbosity="low"'), ("--config=web_search=live",))
HARMFUL = (
    ("--enable", "hooks"),
    ("--disable=x",),
    ("-c", "features.hooks=true"),
    ("-cnotify=['x']",),
    ("--config=mcp_servers.x.command='y'",),
    ("-c",),
)
UNKNOWN = (("-p", "x"), ("--profile=x",), ("--color=never",), ("--oss",), ("--of-the-future",), ("a word",))
"""Flags that `codex app-server` does not have."""


@pytest.mark.parametrize("extra", HARMLESS)
@pytest.mark.parametrize("sandbox", SANDBOX_MODES)
def test_harmless_extra_flags_are_passed_on(sandbox: SandboxMode, extra: tuple[str, ...]) -> None:
    assert passed_on(launched(replace(HELLO, sandbox_mode=sandbox, extra=extra)), len(extra)) == extra


@pytest.mark.parametrize("extra", HARMFUL + UNKNOWN)
@pytest.mark.parametrize("words", [("default", "read-only"), ("none", "workspace"), ("auto", None), (None, None)])
def test_other_extra_flags_are_rejected_in_a_sandbox(
    words: tuple[ApprovalMode | None, SandboxMode | None], extra: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidRequest, match="sandbox"):
        launched(replace(HELLO, approval_mode=words[0], sandbox_mode=words[1], extra=extra))


@pytest.mark.parametrize("extra", HARMFUL)
def test_other_extra_flags_are_passed_on_without_restrictions(extra: tuple[str, ...]) -> None:
    for request in (replace(HELLO, sandbox_mode="full"), replace(HELLO, approval_mode="none")):
        assert passed_on(launched(replace(request, extra=extra)), len(extra)) == extra


@pytest.mark.parametrize("extra", UNKNOWN)
def test_flags_that_the_server_does_not_have_are_rejected(extra: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"accepted: --strict-config, --config, --enable, --disable"):
        launched(replace(HELLO, sandbox_mode="full", extra=extra))


@pytest.mark.parametrize("field", ["prompt", "system_prompt"])
def test_text_that_is_not_unicode_is_rejected(field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        launched(replace(HELLO, **{field: "a\udcff"}))
    assert refused.value.field == field


def test_system_prompt_over_the_argument_limit_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="131071") as refused:
        launched(replace(HELLO, system_prompt="é" * 70_000))
    assert refused.value.field == "system_prompt"
    launched(replace(HELLO, system_prompt="é" * 65_000))


def test_prompt_over_the_limit_of_codex_is_rejected() -> None:
    """The limit counts characters, not bytes."""
    longest = replace(HELLO, prompt="🙂" * 1_048_576)
    launched(longest)
    with pytest.raises(InvalidRequest, match=r"^prompt .*1048577.*1048576") as refused:
        launched(replace(longest, prompt=longest.prompt + "x"))
    assert refused.value.field == "prompt"


def test_system_prompt_before_the_prompt_counts_towards_the_limit() -> None:
    request = replace(HELLO, prompt="x" * 1_048_576, system_prompt="y")
    launched(request)
    with pytest.raises(InvalidRequest, match=r"^prompt "):
        launched(request, Resume(THREAD))


def project(files: dict[str, str], config: str = "") -> Host:
    """A machine with files below `/p`, which has a git repository."""
    data = {path: text.encode() for path, text in files.items()}

    def part(path: str, start: int, size: int) -> bytes | None:
        return data[path][start : start + size] if path in data else None

    def find(folder: str, pattern: str) -> list[str]:
        return ["/p/.git"] if (folder, pattern) == ("/p", ".git") else []

    return Host(env={"HOME": "/h"}, read={"~/.codex/config.toml": config.encode()}.get, read_range=part, find=find)


BELOW = replace(HELLO, workdir="/p/a", sandbox_mode="workspace")


def instructions(files: dict[str, str], config: str = "") -> str:
    """Return the instructions of a run below `/p`, without the prompt."""
    given = settings(launched(BELOW, on=project(files, config))).get("developer_instructions", '""')
    return str(tomllib.loads(f"x={given}")["x"])


def test_instructions_are_read_from_the_repository_down_to_the_directory() -> None:
    files = {"/AGENTS.md": "0", "/p/AGENTS.md": "1", "/p/a/AGENTS.md": "no", "/p/a/AGENTS.override.md": "2"}
    assert instructions(files) == "# AGENTS.md instructions for /p/a\n\n<INSTRUCTIONS>\n1\n\n2\n</INSTRUCTIONS>"
    assert instructions({}) == instructions({"/p/AGENTS.md": " \n"}) == ""


def test_instructions_are_truncated_at_the_limit_of_codex() -> None:
    files = {"/p/AGENTS.md": "1" * 32_767, "/p/a/AGENTS.md": "23"}
    assert "1\n\n2\n</" in instructions(files)
    assert "\n1111\n</" in instructions(files, "project_doc_max_bytes = 4")
    assert instructions(files, "project_doc_max_bytes = 0") == ""


def test_project_in_a_trusted_repository_gets_no_overrides() -> None:
    on = project({"/p/AGENTS.md": "1"}, '[projects."/p"]\ntrust_level = "trusted"\n')
    assert not {"projects", "developer_instructions"} & set(settings(launched(BELOW, on=on)))


@pytest.mark.parametrize("model", ["gpt-6-astra", "GPT-4o", "o3", "o4-mini", "codex-mini", "chatgpt"[4:]])
def test_openai_models_are_claimed(model: str) -> None:
    assert Codex().claims_model(model)


@pytest.mark.parametrize("model", ["claude-opus", "gemini-3", "opus", "o", "ollama", "", "my-gpt"])
def test_other_models_are_not_claimed(model: str) -> None:
    assert not Codex().claims_model(model)
