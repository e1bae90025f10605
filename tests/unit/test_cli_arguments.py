"""argv as typed flags."""

import pytest

from clinvk.cli.parse import arguments
from clinvk.cli.parse.flags import PromptFlags, ServeFlags
from clinvk.config.setting_values import split_list
from clinvk.types.errors import InvalidRequest


def prompt_flags(*argv: str) -> PromptFlags:
    command, flags = arguments.read(argv)
    assert command == ""
    assert isinstance(flags, PromptFlags)
    return flags


def test_without_flags_all_fields_have_defaults() -> None:
    assert prompt_flags() == PromptFlags(words=())


def test_flag_value_that_equals_a_command_name_is_a_value() -> None:
    assert prompt_flags("-m", "serve", "hello there").model == "serve"
    command, flags = arguments.read(["-m", "serve", "serve", "-p", "1"])
    assert command == "serve"
    assert isinstance(flags, ServeFlags)
    assert (flags.model, flags.port) == ("serve", 1)


@pytest.mark.parametrize(
    ("argv", "command", "given"),
    [
        (["--limit", "5", "sessions", "list"], "sessions list", {"limit": 5}),
        (["-n", "5", "sessions", "list", "--here"], "sessions list", {"limit": 5, "here": True}),
        (["sessions", "--limit", "5", "list"], "sessions list", {"limit": 5}),
        (["sessions", "--search", "x"], "sessions list", {"search": "x"}),
        (["sessions", "--search", "show"], "sessions list", {"search": "show"}),
        (["runs", "-n", "4"], "runs list", {"limit": 4}),
        (["-n", "4", "runs"], "runs list", {"limit": 4}),
        (["-f", "s.yaml", "chain"], "chain", {"file": "s.yaml"}),
        (["-f", "chain", "chain"], "chain", {"file": "chain"}),
        (["--judge", "claude", "compare", "go on"], "compare", {"judge": "claude", "words": ("go on",)}),
        (["--remove", "a", "sessions", "tag", "3f9c", "--", "b"], "sessions tag", {"words": ("3f9c", "b")}),
    ],
)
def test_command_flags_may_precede_the_command_and_follow_a_group(
    argv: list[str], command: str, given: dict[str, object]
) -> None:
    asked = arguments.read(argv)
    assert asked.command == command
    assert {name: getattr(asked.flags, name) for name in given} == given


@pytest.mark.parametrize(
    "argv", [["--json", "fix", "sessions", "list"], ["--modle", "x", "chain"], ["--limit", "5", "list the sessions"]]
)
def test_unknown_flag_does_not_turn_a_prompt_into_a_command(argv: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=f"unknown flag '{argv[0]}'"):
        arguments.read(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runs", "4"], "unknown command 'runs 4'"),
        (["sessions", "--bogus"], "sessions list has no flag '--bogus'"),
        (["approvals", "-n", "3"], "approvals list has no flag '-n'"),
        (["sessions", "--serach", "x"], "unknown flag '--serach'; did you mean --search?"),
        (["sessions", "-n", "four"], "'four' is not a whole number"),
        (["-vb", "claude", "runs", "list", "--state", "failed"], "unknown flag '--state' of a prompt"),
    ],
)
def test_flags_after_a_group_are_those_of_its_list(argv: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        arguments.read(argv)


SESSIONS = "list, search, show, delete, clean, archive, unarchive, fork, tag, rename, export"
WRONG = [
    (["--modle", "opus", "hello"], "unknown flag '--modle'; did you mean --model?"),
    (["hello", "--dry"], "unknown flag '--dry'; did you mean --dry-run?"),
    (["--tools", "Read", "hello"], "unknown flag '--tools'; did you mean --allowed-tools?"),
    (["--json", "hello"], "unknown flag '--json'; use -o json"),
    (
        ["--isolation", "worktree", "fix it"],
        "unknown flag '--isolation' of a prompt; it is a flag of parallel, compare",
    ),
    (["--port", "3", "hello"], "unknown flag '--port' of a prompt; it is a flag of serve, cluster up, open"),
    (
        ["--xyzzy", "hello"],
        "unknown flag '--xyzzy'; see clinvk help prompt; put -- before a prompt that begins with -",
    ),
    (["- a list"], "unknown flag '- a list'; see clinvk help prompt; put -- before a prompt that begins with -"),
    (["hello", "world"], "the prompt must be one argument, got 2; put it in quotes"),
    (["hello", "-m"], "--model/-m: expected one argument"),
    (["-o", "xml", "hello"], "--output-format/-o: 'xml' is not one of auto, text, json, stream-json"),
    (["--approval-mode", "never", "x"], "--approval-mode: 'never' is not one of default, auto, ask, none, always"),
    (["--max-turns", "-1", "x"], "--max-turns: '-1' is not a whole number of at least 0"),
    (["--timeout", "soon", "x"], "--timeout: 'soon' is not a number of seconds, 0 or more"),
    (["serv"], "'serv' is not a command; did you mean `clinvk serve`? To send it as a prompt: clinvk -- serv"),
    (["sessions", "lst"], f"unknown command 'sessions lst' (available: {SESSIONS}); did you mean 'list'?"),
    (["sessions", "list", "--status", "ok"], "--status: 'ok' is not one of running, done, failed, cancelled"),
    (["sessions", "delete"], "sessions delete needs ID...; usage: clinvk sessions delete [flags] ID..."),
    (["serve", "--port", "99999"], "--port/-p: '99999' is not a whole number from 0 to 65535"),
    (["serve", "--timeout", "1"], "serve has no flag '--timeout'; see clinvk help serve"),
    (["compare", "--fallback", "codex", "hi"], "compare has no flag '--fallback'; see clinvk help compare"),
    (
        ["config", "set", "backends.codex.extra_flags", "--strict-config"],
        "unknown flag '--strict-config'; put -- before a value that begins with -; did you mean --config?",
    ),
    (["config", "set", "server.port"], "config set needs VALUE; usage: clinvk config set [flags] KEY VALUE"),
    (["keys", "create", "a", "--rate", "-0.5"], "--rate: '-0.5' is not a number above 0"),
    (["keys", "create", "a", "--cost-per-day", "nan"], "--cost-per-day: 'nan' is not a number above 0"),
    (["keys", "create", "a", "--right", "everything"], "--right: 'everything' is not one of answer"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_usage_is_explained(argv: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        arguments.read(argv)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-p", "explain"], ("explain",)),
        (["explain", "-p"], ("explain",)),
        (["-p"], ()),
        (["-cp", "explain"], ("explain",)),
        (["-p", "--model", "serve", "explain"], ("explain",)),
        (["--print", "explain"], ("explain",)),
        (["-p", "version"], ("version",)),
        (["-p", "--", "- a list"], ("- a list",)),
    ],
)
def test_prompt_may_be_marked_as_for_other_agents(argv: list[str], words: tuple[str, ...]) -> None:
    assert prompt_flags(*argv).words == words


def test_mark_of_a_prompt_is_accepted_by_resume_and_is_the_port_of_a_server() -> None:
    for argv in (["resume", "3f9c", "-p", "go on"], ["resume", "-p", "3f9c", "go on"]):
        assert arguments.read(argv).flags.words == ("3f9c", "go on")
    for command in ("serve", "cluster up", "open"):
        for argv in ([*command.split(), "-p", "3000"], ["-p", "3000", *command.split()]):
            asked = arguments.read(argv)
            assert (asked.command, getattr(asked.flags, "port", None)) == (command, 3000)
    with pytest.raises(InvalidRequest, match="version has no flag '-p'"):
        arguments.read(["version", "-p"])


@pytest.mark.parametrize(
    ("argv", "given"),
    [
        (["runs", "list", "--state", "done"], {"state": "finished"}),
        (["runs", "list", "--state", "finished"], {"state": "finished"}),
        (["sessions", "list", "--status", "failed"], {"status": "error"}),
        (["sessions", "search", "a", "b", "--status", "running"], {"status": "active", "words": ("a", "b")}),
    ],
)
def test_states_are_accepted_as_lists_show_them_and_as_stored(argv: list[str], given: dict[str, object]) -> None:
    flags = arguments.read(argv).flags
    assert {name: getattr(flags, name) for name in given} == given


@pytest.mark.parametrize(
    "words", [["--", "-b"], ["--", "- a list"], ["--", "--"], ["--", "version"], ["explain"], ["-"]]
)
def test_prompt_may_look_like_a_flag_or_a_command(words: list[str]) -> None:
    assert prompt_flags(*words).words == (words[-1],)


@pytest.mark.parametrize("word", ["/help", "/resume", "/doctor"])
def test_word_with_a_leading_slash_is_a_prompt(word: str) -> None:
    assert prompt_flags(word).words == (word,)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Read,Bash"], ("Read", "Bash")),
        (["Read", " Bash "], ("Read", "Bash")),
        (["Bash(git log,git diff),Read"], ("Bash(git log,git diff)", "Read")),
        (["Bash(git"], ("Bash(git",)),
        (["a),b"], ("a)", "b")),
        ([""], ()),
    ],
)
def test_tools_are_split_at_commas_outside_parentheses(given: list[str], expected: tuple[str, ...]) -> None:
    assert split_list(given) == expected
