"""How the Gemini CLI is started for a request."""

import json
import re
import tomllib
from hashlib import sha256
from typing import get_args

import pytest
from msgspec import convert
from msgspec.structs import replace

from clinvk.backends.base import PRIVATE, Host, Launch
from clinvk.backends.gemini import MAX_PROMPT_BYTES, Gemini
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.errors import InvalidRequest, NotResumable, Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import Image, RunRequest

ASK = RunRequest(prompt="hello", backend="gemini", workdir="/project")
OPEN = replace(ASK, approval_mode="none")
HOME = "home/.gemini"
HANDLE = "11111111-2222-4333-8444-555555555555"


def _launch(request: RunRequest, resume: Resume | None = None, host: Host | None = None) -> Launch:
    return Gemini().launch(request, resume, host or Host())


def _prompt(request: RunRequest) -> bytes:
    return Gemini().channel(_launch(request), Host()).start("run", request, None)


def _settings(launch: Launch) -> dict[str, dict[str, object]]:
    return json.loads(launch.files[f"{HOME}/settings.json"])


def _rules(launch: Launch, file: str = "limits.toml") -> list[dict[str, object]]:
    return tomllib.loads(launch.files[file].decode())["rule"]


def _tools(value: object) -> set[str]:
    return set(convert(value, list[str]))


def test_default_launch_permits_only_tools_that_need_no_approval() -> None:
    launch = _launch(ASK)
    assert launch.argv == (
        "gemini",
        "--output-format=stream-json",
        "--approval-mode=default",
        f"--admin-policy={PRIVATE}/limits.toml",
    )
    assert launch.cwd == "/project"
    assert launch.env["GEMINI_CLI_NO_RELAUNCH"] == "true"
    assert launch.env["GEMINI_CLI_TRUST_WORKSPACE"] == "false"
    assert launch.env["GEMINI_CLI_HOME"] == f"{PRIVATE}/home"


def test_unrestricted_launch_uses_the_users_configuration() -> None:
    launch = _launch(OPEN, host=Host(read=lambda path: b'{"mcpServers": {"a": {"command": "b"}}}'))
    assert launch.argv == ("gemini", "--output-format=stream-json", "--approval-mode=yolo", "--skip-trust")
    assert set(launch.files) == {f"{HOME}/settings.json"}
    assert _settings(launch)["mcpServers"] == {"a": {"command": "b"}}
    assert launch.links[f"{HOME}/extensions"] == "~/.gemini/extensions"
    assert launch.links[f"{HOME}/tmp/"] == "~/.gemini/tmp"
    assert launch.links["home/.env"] == "~/.env"
    assert "GEMINI_CLI_TRUST_WORKSPACE" not in launch.env
    assert "TMPDIR" not in launch.env


@pytest.mark.parametrize("request_", [ASK, OPEN])
def test_launch_disables_session_retention(request_: RunRequest) -> None:
    """The default would delete resumed sessions, and sessions that begin at the same time."""
    asked = b'{"general": {"sessionRetention": {"enabled": true, "maxAge": "1d"}}}'
    settings = _settings(_launch(request_, host=Host(read=lambda path: asked)))
    retention = convert(settings["general"]["sessionRetention"], dict[str, object])
    assert retention["enabled"] is False


READS = {"read_file", "list_directory", "glob", "grep_search"}
EDITS = {"write_file", "replace"}


@pytest.mark.parametrize("approval", get_args(ApprovalMode))
@pytest.mark.parametrize("sandbox", get_args(SandboxMode))
def test_only_approval_none_with_an_open_sandbox_enables_yolo(approval: ApprovalMode, sandbox: SandboxMode) -> None:
    """Every pair of words is honoured, by the stricter of the two; plan mode is closed under all that are strict."""
    launch = _launch(replace(ASK, approval_mode=approval, sandbox_mode=sandbox))
    is_open = approval == "none" and sandbox in ("default", "full")
    assert ("--approval-mode=yolo" in launch.argv) == is_open
    if is_open:
        return
    assert _settings(launch)["general"]["plan"] == {"enabled": False}
    first, *others = _rules(launch)
    if approval == "always":
        assert first == {"toolName": ["*"], "decision": "ask_user", "priority": 999}
        assert not others
    elif sandbox in ("read-only", "workspace"):
        assert first == {"toolName": ["*"], "decision": "deny", "priority": 997}
        tools = READS if sandbox == "read-only" else READS | EDITS
        allow, *place = others
        assert (_tools(allow["toolName"]), allow["decision"]) == (tools, "allow")
        assert [rule["decision"] for rule in place] == ["deny"] * (sandbox == "workspace")
        assert _tools(_settings(launch)["tools"]["core"]) == tools
    else:
        assert first == {"toolName": ["enter_plan_mode", "exit_plan_mode"], "decision": "deny", "priority": 999}
        assert ("grants.toml" in launch.files) == (approval == "auto")


def test_only_restrictive_rules_override_the_users_policies() -> None:
    strict = _launch(replace(ASK, sandbox_mode="read-only")).argv
    assert f"--admin-policy={PRIVATE}/limits.toml" in strict
    assert f"--policy={PRIVATE}/limits.toml" in strict
    edits = _launch(replace(ASK, approval_mode="auto")).argv
    assert edits[-2:] == (f"--policy={PRIVATE}/grants.toml", f"--policy={PRIVATE}/home/.gemini/policies")


@pytest.mark.parametrize(
    ("approval", "sandbox", "left"),
    [
        ("none", "full", ["run_shell_command", "write_file", "glob"]),
        ("auto", "default", ["glob", "write_file"]),
        ("default", "default", ["glob"]),
        ("none", "workspace", ["glob", "write_file"]),
        ("none", "read-only", ["glob"]),
    ],
)
def test_allowed_tools_narrow_the_approval_and_sandbox_modes(
    approval: ApprovalMode, sandbox: SandboxMode, left: list[str]
) -> None:
    launch = _launch(
        replace(
            ASK, approval_mode=approval, sandbox_mode=sandbox, allowed_tools=("run_shell_command", "write_file", "glob")
        )
    )
    deny, allow, *others = _rules(launch)
    assert (deny["toolName"], deny["decision"]) == (["*"], "deny")
    assert allow["decision"] == "allow"
    assert {rule["decision"] for rule in others} <= {"deny"}
    assert _tools(allow["toolName"]) == set(left)
    assert f"--policy={PRIVATE}/limits.toml" in launch.argv


@pytest.mark.parametrize(
    ("request_", "is_checked"),
    [
        (replace(ASK, sandbox_mode="workspace"), True),
        (replace(ASK, sandbox_mode="workspace", allowed_tools=("glob",)), False),
        (replace(ASK, approval_mode="auto"), True),
        (replace(ASK, approval_mode="auto", allowed_tools=("replace",)), True),
        (replace(ASK, allowed_tools=("replace",)), False),
        (replace(ASK, sandbox_mode="read-only"), False),
        (replace(OPEN, allowed_tools=("replace",)), False),
        (ASK, False),
        (OPEN, False),
    ],
)
def test_edits_without_approval_have_checked_paths_and_no_symlinks(request_: RunRequest, is_checked: bool) -> None:
    """By rules of the strongest kind, whichever process carries the run; the CLI would let a link of ours through."""
    host = Host(env={"HOME": "/h"}, read={"~/.gemini/GEMINI.md": b"plums"}.get)
    launch = _launch(request_, host=host)
    for way in (launch, launch.warm) if launch.warm else (launch,):
        checked = tomllib.loads(way.files.get("limits.toml", b"").decode()).get("safety_checker", [])
        assert [(_tools(one["toolName"]), one["priority"]) for one in checked] == [(EDITS, 999)] * is_checked
        assert way.files.get(f"{HOME}/GEMINI.md") == (b"plums" if is_checked else None)
        assert (f"{HOME}/GEMINI.md" in way.links) == (not is_checked)
        assert not is_checked or {f"--{kind}={PRIVATE}/limits.toml" for kind in ("policy", "admin-policy")} <= {
            *way.argv
        }


@pytest.mark.parametrize(
    ("path", "is_denied"),
    [
        *((path, True) for path in ("@../x", "/p/.\0./x", 'a"/../.\0./x', "/p/%2e%2e/x", "/p/%2E./x")),
        *((path, False) for path in ("/p/x", "src/@x/y", "/p/100%/x", 'a"b', "../x")),
    ],
)
def test_path_that_tools_and_checker_read_differently_is_denied(path: str, is_denied: bool) -> None:
    """The CLI matches the arguments as JSON, each with a NUL before and after it; those of a text are not meant."""
    *_, rule = _rules(_launch(replace(ASK, sandbox_mode="workspace")))
    assert (_tools(rule["toolName"]), rule["decision"], rule["priority"]) == (EDITS, "deny", 999)
    given = {"content": '\0 \\u0000 %2e "file_path":"@', "file_path": path, "new_string": "\0%2e"}
    told = ",".join(f"\0{json.dumps(name)}:{json.dumps(value)}\0" for name, value in given.items())
    assert bool(re.search(str(rule["argsPattern"]), f"{{{told}}}")) == is_denied


def test_empty_allowed_tools_denies_every_tool() -> None:
    assert _rules(_launch(replace(OPEN, allowed_tools=()))) == [
        {"toolName": ["*"], "decision": "deny", "priority": 997}
    ]


@pytest.mark.parametrize("tool", ["*", "run_shell_command(git status)", "", "a b", 'x"]\ndecision="allow'])
def test_allowed_tools_must_be_plain_names(tool: str) -> None:
    with pytest.raises(Unsupported, match="plain names") as caught:
        _launch(replace(ASK, allowed_tools=("glob", tool)))
    assert caught.value.field == "allowed_tools[1]"


def test_resume_passes_the_session_handle() -> None:
    assert f"--resume={HANDLE}" in _launch(ASK, Resume(HANDLE)).argv


@pytest.mark.parametrize("handle", ["latest", "1", "", f"{HANDLE}0", "--yolo"])
@pytest.mark.parametrize("fork", [False, True])
def test_invalid_handle_is_not_resumable(handle: str, fork: bool) -> None:
    with pytest.raises(NotResumable):
        _launch(ASK, Resume(handle, fork=fork))


def test_fork_starts_from_the_parents_session_file() -> None:
    def find(folder: str, pattern: str) -> tuple[str, ...]:
        assert folder == "/moved/.gemini"
        return ("/large.jsonl", "/small.jsonl") if pattern == "tmp/*/chats/session-*-11111111.jsonl" else ()

    argv = _launch(ASK, Resume(HANDLE, fork=True), Host(env={"GEMINI_CLI_HOME": "/moved"}, find=find)).argv
    assert "--session-file=/large.jsonl" in argv
    assert not [argument for argument in argv if argument.startswith("--resume")]


def test_fork_supports_session_files_of_older_clis() -> None:
    def find(folder: str, pattern: str) -> tuple[str, ...]:
        return ("/old.json",) if pattern.endswith(".json") else ()

    assert "--session-file=/old.json" in _launch(ASK, Resume(HANDLE, fork=True), Host(find=find)).argv


def test_each_directory_has_its_own_flag() -> None:
    argv = _launch(replace(ASK, add_dirs=("/a b", "/c"))).argv
    assert "--include-directories=/a b" in argv
    assert "--include-directories=/c" in argv


@pytest.mark.parametrize("folder", ["/a,b", " /a", "/a "])
def test_directory_that_the_cli_would_split_or_misread_is_refused(folder: str) -> None:
    with pytest.raises(Unsupported) as caught:
        _launch(replace(ASK, add_dirs=("/ok", folder)))
    assert caught.value.field == "add_dirs[1]"


def test_max_turns_is_counted_by_clinvk() -> None:
    assert _launch(replace(ASK, max_turns=3)).max_turns == 3
    assert _launch(replace(ASK, max_turns=0)).max_turns is None


@pytest.mark.parametrize("request_", [ASK, OPEN])
def test_ephemeral_run_writes_only_to_the_private_directory(request_: RunRequest) -> None:
    launch = _launch(replace(request_, ephemeral=True))
    assert launch.env["GEMINI_CLI_HOME"] == f"{PRIVATE}/home"
    assert launch.env["TMPDIR"] == PRIVATE
    assert not {f"{HOME}/tmp/", f"{HOME}/history/"} & set(launch.links)
    assert launch.links[f"{HOME}/oauth_creds.json"] == "~/.gemini/oauth_creds.json"


def test_restricted_launch_keeps_login_records_and_context() -> None:
    links = _launch(ASK).links
    assert links[f"{HOME}/tmp/"] == "~/.gemini/tmp"
    assert links[f"{HOME}/oauth_creds.json"] == "~/.gemini/oauth_creds.json"
    assert links[f"{HOME}/GEMINI.md"] == "~/.gemini/GEMINI.md"
    assert links[f"{HOME}/project.md"] == "/project/GEMINI.md"
    assert not {name for name in links if name.rpartition("/")[2] in ("settings.json", "extensions", "skills")}


def _host(settings: str, **env: str) -> Host:
    return Host(env=env, read={"~/.gemini/settings.json": settings.encode()}.get)


def test_restricted_launch_keeps_only_harmless_user_settings() -> None:
    host = _host(
        """{ // the user's
        "security": {"auth": {"selectedType": "oauth-personal"}, "folderTrust": {"enabled": true}},
        "general": {"maxAttempts": 2, "defaultApprovalMode": "yolo", "plan": {"enabled": true}},
        "model": {"name": "x//y" /* kept */}, "hooks": {"SessionStart": []}, "mcpServers": {"a": {}},
        "tools": {"allowed": ["run_shell_command"], "exclude": ["glob"], "discoveryCommand": "rm"}
        }"""
    )
    assert _settings(_launch(ASK, host=host)) == {
        "security": {"auth": {"selectedType": "oauth-personal"}, "folderTrust": {"enabled": False}},
        "general": {"maxAttempts": 2, "plan": {"enabled": False}, "sessionRetention": {"enabled": False}},
        "model": {"name": "x//y"},
        "tools": {"exclude": ["glob"]},
        "advanced": {"ignoreLocalEnv": True},
        "hooksConfig": {"enabled": False},
        "skills": {"enabled": False},
        "context": {"fileName": ["GEMINI.md", "project.md"]},
    }


BASES = ("chat-base-3", "chat-base-2.5")


def _overrides(launch: Launch) -> list[dict[str, dict[str, object]]]:
    return convert(_settings(launch)["modelConfigs"]["customOverrides"], list[dict[str, dict[str, object]]])


@pytest.mark.parametrize("request_", [ASK, OPEN])
@pytest.mark.parametrize(
    ("effort", "level", "tokens"),
    [
        *(("none", "MINIMAL", 1024), ("minimal", "MINIMAL", 1024), ("low", "LOW", 1024), ("medium", "MEDIUM", 8192)),
        *(("high", "HIGH", 24576), ("xhigh", "HIGH", 24576), ("max", "HIGH", 24576)),
    ],
)
def test_effort_is_set_for_each_model_generation(request_: RunRequest, effort: str, level: str, tokens: int) -> None:
    thought = dict(zip(BASES, ({"thinkingLevel": level}, {"thinkingBudget": tokens}), strict=True))
    assert _overrides(_launch(replace(request_, effort=effort))) == [
        {"match": {"model": base}, "modelConfig": {"generateContentConfig": {"thinkingConfig": thought[base]}}}
        for base in BASES
    ]


def test_effort_overrides_follow_the_users_overrides() -> None:
    own = {"match": {"model": "chat-base-3"}, "modelConfig": {"generateContentConfig": {"topK": 1}}}
    host = _host(json.dumps({"modelConfigs": {"customOverrides": [own]}}))
    assert _overrides(_launch(ASK, host=host)) == [own]
    assert _overrides(_launch(replace(ASK, effort="low"), host=host))[0] == own
    assert len(_overrides(_launch(replace(ASK, effort="low"), host=host))) == 3


@pytest.mark.parametrize("text", [" ? why", "/x", "\ufeff\n<session_context>", "<hook_context>"])
def test_prompt_that_the_cli_would_omit_from_history_gets_a_prefix(text: str) -> None:
    """The CLI would omit the prompt from a conversation with further turns; other prompts stay unchanged."""
    for literal in (False, True):
        assert _prompt(replace(ASK, prompt=text, literal=literal)) == f"\u200b{text}".encode()
    kept = replace(ASK, prompt=text, literal=True, ephemeral=True, output_schema={})
    assert _prompt(kept).startswith(f"\u200b{text}".encode())
    assert "\u200b" not in str(_launch(replace(kept, output_schema=None)).files)


PICTURE = Image("image/png", b"a picture")
NAME = f"clinvk-{sha256(b'a picture').hexdigest()[:32]}.png"


def _command(launch: Launch) -> tuple[str, str]:
    """Return the name and the text of the command that holds the prompt."""
    ((path, text),) = ((path, text) for path, text in launch.files.items() if path.startswith(f"{HOME}/commands/"))
    return path.removeprefix(f"{HOME}/commands/").removesuffix(".toml"), tomllib.loads(text.decode())["prompt"]


@pytest.mark.parametrize("text", ["hello", "  a\n", "say !{x} @", "// no"])
def test_literal_prompt_without_special_characters_uses_stdin(text: str) -> None:
    request = replace(ASK, prompt=text.replace("@", "").replace("//", "\\"), literal=True)
    assert _prompt(request) == request.prompt.encode()
    assert not any(path.startswith(f"{HOME}/commands/") for path in _launch(request).files)


@pytest.mark.parametrize("request_", [ASK, OPEN])
@pytest.mark.parametrize("text", ["/init", "see @note", ' \t"@\\"\n\r\x1f\x7f é🙂 ', "//x"])
def test_literal_prompt_with_special_characters_becomes_a_custom_command(request_: RunRequest, text: str) -> None:
    request = replace(request_, prompt=text, literal=True, ephemeral=True)
    launch = _launch(request)
    name, told = _command(launch)
    assert _prompt(request) == f"/{name}".encode()
    assert told == text
    assert f"{HOME}/commands" not in launch.links
    assert not any(name.startswith("attached/") for name in launch.files)


@pytest.mark.parametrize("text", ["@ if (!{a}) @{b} !@{c} {{args}} {{{args}}} @!{{args}}", "@{{args}}", "@@{@{!{"])
def test_literal_prompt_is_escaped_without_loss(text: str) -> None:
    launch = _launch(replace(ASK, prompt=text, literal=True))
    _, command = _command(launch)
    assert launch.files["attached/clinvk-brace.txt"] == b"{"
    assert f"--include-directories={PRIVATE}/attached" in launch.argv
    rest = command.replace("@{clinvk-brace.txt}", " ")
    assert not any(mark in rest for mark in ("!{", "@{", "{{args}}"))
    assert command.replace("@{clinvk-brace.txt}", "{") == text


@pytest.mark.parametrize("request_", [ASK, replace(ASK, sandbox_mode="read-only"), OPEN])
def test_image_is_a_private_file_named_in_the_prompt(request_: RunRequest) -> None:
    request = replace(request_, images=(PICTURE,))
    launch = _launch(request)
    assert launch.files[f"attached/{NAME}"] == b"a picture"
    assert f"--include-directories={PRIVATE}/attached" in launch.argv
    assert _prompt(request) == f"hello\n@{NAME}".encode()
    literal = _launch(replace(request, literal=True))
    assert _command(literal)[1] == f"hello@{{{NAME}}}"
    assert literal.files[f"attached/{NAME}"] == b"a picture"


def test_schema_is_added_to_the_prompt_and_enables_a_retry() -> None:
    request = replace(ASK, output_schema={"type": "integer"})
    assert _launch(request).retries_schema
    told = _prompt(request).decode()
    assert told.startswith("hello\n\nAnswer with one JSON value")
    assert '<json_schema>\n{"type":"integer"}\n</json_schema>' in told


def test_malformed_settings_file_is_reported() -> None:
    with pytest.raises(InvalidRequest, match=r"~/\.gemini/settings\.json"):
        _launch(ASK, host=_host("{broken"))


def test_launch_follows_gemini_cli_home() -> None:
    launch = _launch(ASK, host=Host(env={"GEMINI_CLI_HOME": "/moved"}))
    assert launch.links[f"{HOME}/tmp/"] == "/moved/.gemini/tmp"


def test_prompt_is_sent_over_stdin_unchanged() -> None:
    assert _prompt(replace(ASK, prompt="-x @file\n ü ")) == "-x @file\n ü ".encode()
    assert "hello" not in " ".join(_launch(ASK).argv)


def test_system_prompt_precedes_the_prompt() -> None:
    request = replace(ASK, prompt="/help", system_prompt="Be short.")
    assert _prompt(request) == b"<system_prompt>\nBe short.\n</system_prompt>\n\n/help"


def test_prompt_that_the_cli_would_truncate_is_refused() -> None:
    _launch(replace(ASK, prompt="a" * MAX_PROMPT_BYTES))
    with pytest.raises(InvalidRequest) as caught:
        _launch(replace(ASK, prompt="a" * (MAX_PROMPT_BYTES + 1)))
    assert caught.value.field == "prompt"


@pytest.mark.parametrize(
    "extra",
    [
        *("--yolo", "-y", "-dy", "--no-yolo", "--approval-mode=yolo", "--approvalMode=yolo"),
        *("--output-format=text", "--outputFormat.x=text", "-ojson", "-p=x", "--prompt=x", "-i"),
        *("--promptInteractive=x", "--policy=/x", "--adminPolicy=/x", "--allowed-tools=*"),
        *("--include-directories=/", "--resume=latest", "--session-file=/x", "--skip-trust", "--skipTrust"),
        *("-w", "--worktree=x", "-m=x", "--acp", "--delete-session=1", "--record-responses=/x", "-h", "mcp"),
        *("--", "-", ""),
    ],
)
@pytest.mark.parametrize("request_", [ASK, OPEN])
def test_flags_managed_by_clinvk_are_refused_in_every_spelling(request_: RunRequest, extra: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _launch(replace(request_, extra=("--debug", extra)))
    assert caught.value.field == "extra[1]"


def test_unknown_flags_require_unrestricted_modes() -> None:
    assert _launch(replace(OPEN, extra=("--extensions=a", "--brand-new"))).argv[-2:] == (
        "--extensions=a",
        "--brand-new",
    )
    assert _launch(replace(ASK, extra=("--debug",))).argv[-1] == "--debug"
    with pytest.raises(InvalidRequest, match="approval_mode none"):
        _launch(replace(ASK, extra=("--extensions=a",)))
    with pytest.raises(InvalidRequest, match="approval_mode none"):
        _launch(replace(OPEN, sandbox_mode="workspace", extra=("--brand-new",)))


@pytest.mark.parametrize(
    ("model", "claimed"),
    [("gemini-2.5-pro", True), ("Gemini-3-Pro", True), ("auto-gemini-3", True), ("gpt-5", False), ("pro", False)],
)
def test_backend_claims_models_by_name(model: str, claimed: bool) -> None:
    assert Gemini().claims_model(model) is claimed
