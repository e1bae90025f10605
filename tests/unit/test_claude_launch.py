"""A request becomes the command line of Claude Code, or is refused with what is possible instead."""

import itertools
import json

import msgspec
import pytest
from msgspec.structs import replace

from clinvk.backends.base import PRIVATE, Host, Launch, describe
from clinvk.backends.claude import Claude
from clinvk.backends.claude.flags import stdin
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.errors import InvalidRequest, NotResumable, Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import Image, RunRequest

USER = Host(env={"HOME": "/home/u"})
CONFINING = Host(commands=frozenset({"bwrap", "socat"}))
CONVERSATION = "6f04cebf-322e-4691-9daf-70c41d89f30c"
PLAIN = RunRequest(prompt="hello", approval_mode="default", sandbox_mode="default", workdir="/work dir")


def launch(host: Host = USER, resume: Resume | None = None, /, **words: object) -> Launch:
    return Claude().launch(replace(PLAIN, **words), resume, host)


def flags(launch: Launch) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for argument in launch.argv[1:]:
        flag, _, value = argument.partition("=")
        found.setdefault(flag, []).append(value)
    return found


def settings(launch: Launch) -> dict[str, object]:
    return msgspec.json.decode(flags(launch)["--settings"][0], type=dict[str, object])


def permissions(launch: Launch) -> dict[str, list[str]]:
    return msgspec.convert(settings(launch)["permissions"], dict[str, list[str]])


def test_the_plain_command_streams_json_and_reads_the_prompt_from_stdin() -> None:
    plain = launch()
    assert plain.argv[:5] == ("claude", "-p", "--output-format=stream-json", "--verbose", "--include-partial-messages")
    assert "hello" not in plain.argv
    assert plain.cwd == "/work dir"
    assert stdin(PLAIN) == b"hello"


@pytest.mark.parametrize(("approval", "sandbox"), [*itertools.product(APPROVAL_MODES, SANDBOX_MODES)])
@pytest.mark.parametrize("host", [USER, CONFINING])
def test_each_argument_is_a_single_flag_with_its_value(approval: str, sandbox: str, host: Host) -> None:
    made = launch(
        host,
        Resume(CONVERSATION),
        approval_mode=approval,
        sandbox_mode=sandbox,
        model="-x",
        add_dirs=("/a b", "/c,d"),
        allowed_tools=("Read", "Bash"),
        max_turns=3,
        effort="high",
        ephemeral=True,
        extra=("--betas=a", "--fallback-model", "haiku") if approval != "none" else (),
    )
    assert made.argv[1] == "-p"
    assert all(argument.startswith("--") for argument in made.argv[2:])


MODES = {
    ("default", "default"): "default",
    ("default", "full"): "default",
    ("auto", "default"): "acceptEdits",
    ("auto", "full"): "acceptEdits",
    ("none", "default"): "bypassPermissions",
    ("none", "full"): "bypassPermissions",
    ("always", "default"): "default",
    ("always", "full"): "default",
    **{(approval, "read-only"): "default" for approval in APPROVAL_MODES},
    **{(approval, "workspace"): "acceptEdits" for approval in APPROVAL_MODES},
}


@pytest.mark.parametrize(("approval", "sandbox"), MODES)
def test_permission_mode_is_always_set(approval: str, sandbox: str) -> None:
    given = flags(launch(approval_mode=approval, sandbox_mode=sandbox))["--permission-mode"]
    assert given == [MODES[approval, sandbox]]


def test_missing_modes_are_treated_as_default() -> None:
    assert launch(approval_mode=None, sandbox_mode=None) == launch()


@pytest.mark.parametrize("approval", APPROVAL_MODES)
@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
def test_sandbox_mode_loads_no_user_settings_or_mcp_servers(approval: str, sandbox: str) -> None:
    given = flags(launch(approval_mode=approval, sandbox_mode=sandbox))
    assert given["--setting-sources"] == [""]
    assert "--strict-mcp-config" in given
    assert "--disable-slash-commands" in given


@pytest.mark.parametrize("approval", ["default", "auto", "always"])
def test_without_a_sandbox_mode_only_user_settings_are_loaded(approval: str) -> None:
    assert flags(launch(approval_mode=approval))["--setting-sources"] == ["user"]


@pytest.mark.parametrize("approval", APPROVAL_MODES)
def test_read_only_has_no_write_tools(approval: str) -> None:
    assert flags(launch(approval_mode=approval, sandbox_mode="read-only"))["--tools"] == ["Read,Grep,Glob"]


@pytest.mark.parametrize(("approval", "sandbox"), [pair for pair in MODES if pair[0] == "always"])
def test_always_asks_for_each_tool(approval: str, sandbox: str) -> None:
    assert permissions(launch(CONFINING, approval_mode=approval, sandbox_mode=sandbox))["ask"] == ["*"]


def test_workspace_sandboxes_the_shell_with_bwrap_and_socat() -> None:
    made = launch(CONFINING, sandbox_mode="workspace")
    assert settings(made)["sandbox"] == {
        "enabled": True,
        "failIfUnavailable": True,
        "autoAllowBashIfSandboxed": True,
        "allowUnsandboxedCommands": False,
        "filesystem": {"denyWrite": ["~/.npm/_logs", "/tmp/claude"]},
    }
    assert "Bash" in flags(made)["--tools"][0].split(",")


@pytest.mark.parametrize("commands", [(), ("bwrap",), ("socat",)])
def test_workspace_has_no_shell_without_bwrap_or_socat(commands: tuple[str, ...]) -> None:
    made = launch(Host(commands=frozenset(commands)), sandbox_mode="workspace")
    assert flags(made)["--tools"] == ["Read,Grep,Glob,Write,Edit,NotebookEdit"]
    assert "sandbox" not in settings(made)


def test_workspace_with_always_does_not_auto_allow_sandboxed_commands() -> None:
    sandbox = settings(launch(CONFINING, approval_mode="always", sandbox_mode="workspace"))["sandbox"]
    assert isinstance(sandbox, dict)
    assert sandbox["autoAllowBashIfSandboxed"] is False


@pytest.mark.parametrize("approval", ["default", "auto", "always"])
def test_worktrees_memory_and_git_status_are_disabled(approval: str) -> None:
    own = settings(launch(approval_mode=approval))
    assert own["includeGitInstructions"] is False
    assert own["autoMemoryEnabled"] is False
    assert "WorktreeCreate" in str(own["hooks"])
    assert permissions(launch(approval_mode=approval))["deny"] == ["Edit(~/.claude/**)"]


@pytest.mark.parametrize(("approval", "sandbox"), MODES)
def test_messages_from_other_sessions_are_refused(approval: str, sandbox: str) -> None:
    assert settings(launch(approval_mode=approval, sandbox_mode=sandbox))["crossSessionInbound"] == "refuse"


@pytest.mark.parametrize("approval", ["default", "auto", "always"])
def test_tools_for_other_sessions_and_scheduling_are_disallowed(approval: str) -> None:
    denied = flags(launch(approval_mode=approval))["--disallowedTools"][0].split(",")
    assert {"SendMessage", "ListAgents", "Monitor", "CronCreate", "ScheduleWakeup", "EnterWorktree"} <= {*denied}


@pytest.mark.parametrize("sandbox", ["default", "full"])
def test_full_access_disallows_only_tools_that_start_turns_by_themselves(sandbox: str) -> None:
    """A warm process would work between its runs, and report the answer in the next run."""
    denied = flags(launch(approval_mode="none", sandbox_mode=sandbox))["--disallowedTools"][0].split(",")
    assert {*denied} == {"CronCreate", "CronDelete", "Monitor", "ScheduleWakeup", "Workflow"}


@pytest.mark.parametrize(("approval", "sandbox"), MODES)
def test_background_tasks_and_cron_are_disabled(approval: str, sandbox: str) -> None:
    made = launch(approval_mode=approval, sandbox_mode=sandbox)
    for name in ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "CLAUDE_CODE_DISABLE_CRON"):
        assert made.env[name] == "1"


def test_claude_config_dir_sets_the_protected_folder() -> None:
    made = launch(Host(env={"CLAUDE_CONFIG_DIR": "/srv/claude/"}))
    assert permissions(made)["deny"] == ["Edit(//srv/claude/**)"]


@pytest.mark.parametrize(
    ("data", "denied"),
    [
        (b'{"disableAllHooks":true}', True),
        (b'{"disableAllHooks":true,"model":"\xff"}', True),
        (b'\xef\xbb\xbf{"disableAllHooks":true}', True),
        (b'{"disableAllHooks":true,"model":"\\ud83d"}', True),
        (b"{}", False),
        (b"garbage", False),
    ],
)
def test_subagents_are_disallowed_if_hooks_are_disabled(data: bytes, denied: bool) -> None:
    host = Host(read={"~/.claude/settings.json": data}.get)
    assert ("Task" in flags(launch(host))["--disallowedTools"][0].split(",")) is denied


@pytest.mark.parametrize("sandbox", ["default", "full"])
def test_approval_none_as_root_is_rejected_with_alternatives(sandbox: str) -> None:
    with pytest.raises(Unsupported, match=r"as root; .*'auto'.*IS_SANDBOX=1") as refused:
        launch(Host(is_root=True), approval_mode="none", sandbox_mode=sandbox)
    assert refused.value.field == "approval_mode"


@pytest.mark.parametrize("env", [{"IS_SANDBOX": "1"}, {"CLAUDE_CODE_BUBBLEWRAP": "1"}])
def test_approval_none_as_root_is_allowed_with_is_sandbox(env: dict[str, str]) -> None:
    made = launch(Host(is_root=True, env=env), approval_mode="none")
    assert flags(made)["--permission-mode"] == ["bypassPermissions"]
    assert "IS_SANDBOX" not in made.env


@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
def test_approval_none_as_root_is_allowed_in_a_sandbox_mode(sandbox: str) -> None:
    assert launch(Host(is_root=True), approval_mode="none", sandbox_mode=sandbox)


def test_allowed_tools_limit_the_tools_and_start_no_mcp_server() -> None:
    given = flags(launch(allowed_tools=("Read", "Bash")))
    assert given["--tools"] == ["Read,Bash"]
    assert "--strict-mcp-config" in given
    assert "--allowedTools" not in given


@pytest.mark.parametrize(
    ("sandbox", "tools"), [("read-only", "Read"), ("workspace", "Read,Write"), ("full", "Read,Write,Bash")]
)
def test_allowed_tools_never_exceed_the_tools_of_the_sandbox_mode(sandbox: str, tools: str) -> None:
    assert flags(launch(sandbox_mode=sandbox, allowed_tools=("Read", "Write", "Bash")))["--tools"] == [tools]


def test_empty_allowed_tools_disables_all_tools() -> None:
    assert flags(launch(allowed_tools=()))["--tools"] == [""]


@pytest.mark.parametrize("name", ["default", "Bash(git *)", "mcp__x__y", "Read,Bash", "", "--x", "Ba\0sh"])
def test_allowed_tool_that_is_not_built_in_is_rejected(name: str) -> None:
    with pytest.raises(Unsupported, match="built-in tools by name") as refused:
        launch(allowed_tools=("Read", name))
    assert refused.value.field == "allowed_tools[1]"


def test_without_a_model_no_model_flag_is_passed() -> None:
    assert "--model" not in flags(launch())


def test_the_system_prompt_is_appended_from_a_private_file() -> None:
    made = launch(system_prompt="be brief " * 100_000)
    assert flags(made)["--append-system-prompt-file"] == [f"{PRIVATE}/system-prompt.md"]
    assert made.files == {"system-prompt.md": b"be brief " * 100_000}
    assert "$PRIVATE/system-prompt.md: 900000 bytes" in describe(made, PLAIN)


def test_fork_resumes_under_a_new_id() -> None:
    assert "--fork-session" in launch(USER, Resume(CONVERSATION, fork=True)).argv
    assert "--fork-session" not in launch(USER, Resume(CONVERSATION)).argv


@pytest.mark.parametrize("handle", ["a title", "", CONVERSATION + "0", "--continue"])
def test_only_a_conversation_id_can_be_resumed(handle: str) -> None:
    """Claude would search for a conversation with that title."""
    with pytest.raises(NotResumable):
        launch(USER, Resume(handle))


def test_options_become_flags() -> None:
    schema = {"type": "object"}
    made = launch(
        USER,
        Resume(CONVERSATION),
        max_turns=3,
        max_cost_usd=0.5,
        effort="low",
        ephemeral=True,
        output_schema=schema,
        thinking=True,
        add_dirs=("/a", "/b"),
    )
    given = flags(made)
    assert given["--max-turns"] == ["3"]
    assert given["--max-budget-usd"] == ["0.5"]
    assert given["--effort"] == ["low"]
    assert "--no-session-persistence" in given
    assert [json.loads(value) for value in given["--json-schema"]] == [schema]
    assert given["--thinking-display"] == ["summarized"]
    assert given["--resume"] == [CONVERSATION]
    assert given["--add-dir"] == ["/work dir", "/a", "/b"]


@pytest.mark.parametrize("turns", [0, None])
def test_unlimited_turns_pass_no_flag(turns: int | None) -> None:
    assert "--max-turns" not in flags(launch(max_turns=turns))


def test_unknown_effort_is_rejected() -> None:
    with pytest.raises(
        InvalidRequest, match=r"unknown effort 'ultra' \(available: none, minimal, low, medium"
    ) as refused:
        launch(effort="ultra")
    assert refused.value.field == "effort"


def test_output_schema_with_approval_always_is_rejected() -> None:
    with pytest.raises(Unsupported, match="use another approval_mode") as refused:
        launch(approval_mode="always", output_schema={"type": "object"})
    assert refused.value.field == "output_schema"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"add_dirs": ("relative",)}, "add_dirs[0]"),
        ({"output_schema": {"x": "y" * 200_000}}, "output_schema"),
        ({"model": "x" * 200_000}, "model"),
    ],
)
def test_value_that_cannot_be_an_argument_is_rejected(words: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        launch(**words)
    assert refused.value.field == field


@pytest.mark.parametrize("approval", ["default", "none"])
@pytest.mark.parametrize(
    "flag",
    [
        *("--permission-mode=bypassPermissions", "--dangerously-skip-permissions", "--permission-prompt-tool=x"),
        *("--allow-dangerously-skip-permissions", "--allowedTools=Bash", "--allowed-tools=Bash", "--tools=default"),
        *("--disallowedTools=Read", "--disallowed-tools=Read", "--settings={}", "--setting-sources=project"),
        *("--managed-settings={}", "--mcp-config=x", "--strict-mcp-config", "--add-dir=/", "--cwd=/"),
        *("--output-format=text", "--input-format=stream-json", "--print", "-p", "--verbose", "-r", "-rX", "-c"),
        *("--resume=x", "--continue", "--session-id=x", "--fork-session", "--no-session-persistence", "-pc"),
        *("--json-schema={}", "--max-turns=9", "--model=opus", "--append-system-prompt=x", "--", "mcp", "--worktree"),
        *("--rewind-files=x", "--init", "--bg", "--remote", "--sdk-url=x", "--help", "-v"),
        *("--desktop", "--environment=x", "--attach-serve=x", "--await-initialize", "--system-prompt-snapshot=on"),
        *("--permission-prompts=host", "--restricted", "--messaging-socket-path=/x", "--resume-drops-turn=x"),
    ],
)
def test_extra_flag_managed_by_clinvk_is_rejected_in_every_spelling(approval: str, flag: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        launch(approval_mode=approval, extra=("--effort=low", flag))
    assert refused.value.field == "extra[1]"


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"approval_mode": "auto"},
        {"approval_mode": "none", "sandbox_mode": "workspace"},
        {"approval_mode": "none", "allowed_tools": ("Read",)},
    ],
)
@pytest.mark.parametrize("flag", ["--plugin-dir=x", "--agents={}", "--agent=x", "--debug-file=/x", "--plugin-url=x"])
def test_restricted_modes_accept_only_harmless_extra_flags(words: dict[str, object], flag: str) -> None:
    with pytest.raises(InvalidRequest, match="accepted: --effort"):
        launch(**words, extra=(flag,))


def test_harmless_extra_flags_are_joined_with_their_values() -> None:
    made = launch(extra=("--fallback-model", "haiku", "--betas=a", "--exclude-dynamic-system-prompt-sections"))
    assert made.argv[-3:] == ("--fallback-model=haiku", "--betas=a", "--exclude-dynamic-system-prompt-sections")


def test_value_of_an_extra_flag_is_never_parsed_as_a_flag() -> None:
    made = launch(extra=("--fallback-model", "--dangerously-skip-permissions"))
    assert made.argv[-1] == "--fallback-model=--dangerously-skip-permissions"


def test_extra_flag_without_its_value_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="needs a value"):
        launch(extra=("--betas",))


def test_unrestricted_modes_pass_on_other_extra_flags() -> None:
    extra = ("--plugin-dir=/x", "--agents", "{}", "--brief")
    assert launch(approval_mode="none", extra=extra).argv[-4:] == extra


def test_images_are_sent_as_blocks_of_one_message_on_stdin() -> None:
    request = replace(PLAIN, images=(Image("image/png", b"\x89PNG"),))
    assert "--input-format=stream-json" in Claude().launch(request, None, USER).argv
    (message,) = [json.loads(line) for line in stdin(request).splitlines()]
    image, text = message["message"]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert text == {"type": "text", "text": "hello"}


@pytest.mark.parametrize("images", [(), (Image("image/png", b"\x89PNG"),)])
def test_literal_prompt_is_never_the_last_block(images: tuple[Image, ...]) -> None:
    """In the last one Claude Code looks for its commands, and for files to read."""
    request = replace(PLAIN, prompt="/cost @a\ud800", literal=True, images=images)
    assert "--input-format=stream-json" in Claude().launch(request, None, USER).argv
    content = json.loads(stdin(request))["message"]["content"]
    assert content[-2:] == [{"type": "text", "text": "/cost @a?"}, {"type": "text", "text": ""}]


@pytest.mark.parametrize("model", ["claude-opus-4-8", "Claude-X", "sonnet", "opus[1m]", "haiku", "opusplan"])
def test_claude_models_are_claimed(model: str) -> None:
    assert Claude().claims_model(model)


@pytest.mark.parametrize("model", ["gpt-5", "o3", "gemini-2.5-pro", "octopus", "sonnets", "", "fast"])
def test_other_models_are_not_claimed(model: str) -> None:
    assert not Claude().claims_model(model)


@pytest.mark.parametrize(
    "prompt", ["/config permissionMode=acceptEdits", "/settings", "/config\tmodel=opus", "/mcp disable x"]
)
def test_slash_command_that_changes_settings_is_rejected_in_restricted_modes(prompt: str) -> None:
    for approval in ("default", "auto", "always"):
        with pytest.raises(Unsupported, match=r"would run /\w+ itself") as refused:
            launch(prompt=prompt, approval_mode=approval)
        assert refused.value.field == "prompt"
    assert launch(prompt=prompt, approval_mode="none")
    assert launch(prompt=prompt, sandbox_mode="read-only"), "it is text there"
    assert launch(prompt=prompt, literal=True)
    assert launch(prompt=f" {prompt}")


@pytest.mark.parametrize("prompt", ["/configure it", "/mine", "/config-check", "What does /config do?"])
def test_other_slash_commands_and_text_are_passed_on(prompt: str) -> None:
    assert launch(prompt=prompt, approval_mode="default")
