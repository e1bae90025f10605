"""How flags, commands and prompts are told apart."""

import fcntl
import os

import pytest

from acceptance.command import Clinvk
from acceptance.terminal import on_terminal
from scripted.steps import claude_says


@pytest.fixture(autouse=True)
def answers(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "text", "-m", "opus", "a prompt"],
        ["a prompt", "-o", "text", "-m", "opus"],
        ["--output-format=text", "a prompt", "--model=opus"],
        ["-otext", "-mopus", "--", "a prompt"],
    ],
)
def test_flags_are_accepted_before_and_after_the_prompt(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert clinvk.prompts == ["a prompt"]
    assert any("opus" in word for word in clinvk.agent.calls()[0].argv)


@pytest.mark.parametrize("prompt", ["--help", "-b", "- a list", "--", "version", "serve", "sessions"])
def test_argument_after_two_dashes_is_the_prompt(clinvk: Clinvk, prompt: str) -> None:
    assert clinvk.run("--", prompt).returncode == 0
    assert clinvk.prompts == [prompt]


@pytest.mark.parametrize("prompt", ["hello", "version of python?", "serve the people", "explain", "Hi", "-"])
def test_argument_that_is_not_a_command_is_the_prompt(clinvk: Clinvk, prompt: str) -> None:
    assert clinvk.run(prompt, stdin=b"stdin").returncode == 0
    assert len(clinvk.prompts) == 1


SESSIONS = ("list", "show", "delete", "clean", "fork", "tag", "rename", "export")
WRONG = [
    (["--modle", "opus", "hello"], "unknown flag '--modle'; did you mean --model?"),
    (["hello", "--dry"], "unknown flag '--dry'; did you mean --dry-run?"),
    (["--tools", "Read", "hello"], "unknown flag '--tools'; did you mean --allowed-tools?"),
    (["--json", "hello"], "unknown flag '--json'; use -o json"),
    (
        ["--isolation", "worktree", "fix it"],
        "unknown flag '--isolation' of a prompt; it is a flag of parallel, compare",
    ),
    (
        ["--port", "3", "hello"],
        "unknown flag '--port' of a prompt; it is a flag of serve, cluster up, open",
    ),
    (
        ["--xyzzy", "hello"],
        "unknown flag '--xyzzy'; see clinvk help prompt; a prompt that begins with - stands after --",
    ),
    (["- a list"], "unknown flag '- a list'; see clinvk help prompt; a prompt that begins with - stands after --"),
    (["-5"], "unknown flag '-5'; see clinvk help prompt; a prompt that begins with - stands after --"),
    (["hello", "world"], "the prompt must be one argument, got 2; put it in quotes"),
    (["hello", "--", "world"], "the prompt must be one argument, got 2; put it in quotes"),
    (["hello", "-m"], "--model/-m: expected one argument"),
    (["-o", "xml", "hello"], "--output-format/-o: 'xml' is not one of auto, text, json, stream-json"),
    (["--approval-mode", "never", "x"], "--approval-mode: 'never' is not one of default, auto, ask, none, always"),
    (["--max-turns", "-1", "x"], "--max-turns: '-1' is not a whole number of at least 0"),
    (["--timeout", "soon", "x"], "--timeout: 'soon' is not a number of seconds, 0 or more"),
    (["--timeout", "inf", "x"], "--timeout: 'inf' is not a number of seconds, 0 or more"),
    (["serv"], "'serv' is not a command; did you mean `clinvk serve`? To send it as a prompt: clinvk -- serv"),
    (["Help"], "'Help' is not a command; did you mean `clinvk help`? To send it as a prompt: clinvk -- Help"),
    (
        ["paralel"],
        "'paralel' is not a command; did you mean `clinvk parallel`? To send it as a prompt: clinvk -- paralel",
    ),
    (
        ["sesions"],
        "'sesions' is not a command; did you mean `clinvk sessions`? To send it as a prompt: clinvk -- sesions",
    ),
    (["sessions", "lst"], f"unknown command 'sessions lst' (available: {', '.join(SESSIONS)}); did you mean 'list'?"),
    (["sessions", "list", "--status", "done"], "--status: 'done' is not one of active, completed, error, paused"),
    (["sessions", "delete"], "sessions delete needs ID...; usage: clinvk sessions delete [flags] ID..."),
    (["--continu", "hello"], "unknown flag '--continu'; did you mean --continue?"),
    (["-c", "--new", "hello"], "--continue and --new exclude each other"),
    (["-c", "--ephemeral", "hello"], "--continue and --ephemeral exclude each other"),
    (
        ["resume", "--last", "--ephemeral"],
        "resume has no --ephemeral: prompt and answer become part of the conversation",
    ),
    (["resume", "1234", "go", "on"], "resume takes no argument 'on'; see clinvk help resume"),
    (["serve", "--prot", "1"], "unknown flag '--prot'; did you mean --port?"),
    (["serve", "--port", "99999"], "--port/-p: '99999' is not a whole number from 0 to 65535"),
    (["serve", "--timeout", "1"], "serve has no flag '--timeout'; see clinvk help serve"),
    (["compare", "--fallback", "codex", "hi"], "compare has no flag '--fallback'; see clinvk help compare"),
    (["serve", "now"], "serve takes no argument 'now'; see clinvk help serve"),
    (["serve", "--ephemeral"], "a server has no --ephemeral: set it per request"),
    (
        ["config", "set", "backends.codex.extra_flags", "--strict-config"],
        "unknown flag '--strict-config'; a value that begins with - stands after --; did you mean --config?",
    ),
    (["version", "x"], "version takes no argument 'x'; see clinvk help version"),
    (["help", "me"], "unknown command or topic 'me'; see clinvk help"),
    (["help", "serve", "now"], "serve has no command 'now'"),
    (["doctr"], "'doctr' is not a command; did you mean `clinvk doctor`? To send it as a prompt: clinvk -- doctr"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_usage_exits_with_1_and_one_line(clinvk: Clinvk, arguments: list[str], message: str) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"clinvk: {message}\n")
    assert clinvk.agent.calls() == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hello"], 1, "the current directory is gone; change to another one"),
        (["--workdir", "x", "hello"], 1, "the current directory is gone; change to another one"),
        (["compare", "--backends", "claude", "hello"], 1, "the current directory is gone; change to another one"),
        (["resume", "--last", "hello"], 1, "the current directory is gone; change to another one"),
        (["config", "show", "--config", "x.yaml"], 3, "'x.yaml' is in the current directory, which is gone"),
    ],
    ids=["a prompt", "a directory in it", "compare", "resume", "a settings file in it"],
)
def test_deleted_current_directory_is_reported(clinvk: Clinvk, arguments: list[str], code: int, message: str) -> None:
    done = clinvk.run(*arguments, before="mkdir gone; cd gone; rmdir ../gone")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"clinvk: {message}\n")


@pytest.mark.parametrize(
    "arguments", [["version"], ["--version"], ["-b", "codex", "version"], ["version", "-o", "text"]]
)
def test_version_is_printed(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("clinvk 0.")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_lists_commands_common_flags_and_topics(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("--backend", "serve", "clinvk help prompt", "exit-codes"))


def test_help_page_exists_for_prompts_and_topics(clinvk: Clinvk) -> None:
    assert "--no-stdin" in clinvk.run("help", "prompt").stdout
    assert "Ctrl-C" in clinvk.run("help", "exit-codes").stdout
    unknown = clinvk.run("help", "exitcodes")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "clinvk: unknown command or topic 'exitcodes'; did you mean 'exit-codes'?\n"


@pytest.mark.parametrize(("env", "is_bold"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_help_has_bold_headings_on_a_terminal(clinvk: Clinvk, env: dict[str, str], is_bold: bool) -> None:
    with on_terminal(clinvk, "help", env=env) as terminal:
        assert terminal.ended() == 0
    assert (b"\x1b[1mrun agents and see what happened:\x1b[0m" in terminal.all_read) is is_bold
    assert (b"\x1b" in terminal.all_read) is is_bold


def test_help_is_utf_8_in_any_locale(clinvk: Clinvk) -> None:
    done = clinvk.run("help", "prompt", env={"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "low, … max" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["version"],
        ["help"],
        ["config", "show"],
        ["config", "get", "--json", "server"],
        ["completion", "bash"],
        ["sessions", "list", "--json"],
    ],
)
def test_every_command_reports_a_full_disk(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments, close_fds=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "clinvk: cannot write to stdout: No space left on device\n")


def test_closed_pipe_exits_with_7_and_no_message(clinvk: Clinvk) -> None:
    for arguments in (["version"], ["help"], ["completion", "zsh"]):
        reading, writing = os.pipe()
        os.close(reading)
        with clinvk.started(*arguments, stdout=writing) as process:
            os.close(writing)
            assert process.wait() == 7
            assert process.stderr
            assert process.stderr.read() == b""


def test_output_to_a_non_blocking_pipe_is_complete(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with clinvk.started("completion", "bash", stdout=writing) as process, open(reading, "rb") as pipe:
        os.close(writing)
        assert pipe.read().endswith(b"complete -F _clinvk clinvk\n")
        assert process.wait() == 0


@pytest.mark.parametrize("arguments", [["serve", "--help"], ["--help", "serve"], ["help", "serve"]])
def test_help_of_a_command_shows_its_flags(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: clinvk serve")
    assert "--port" in done.stdout
    assert "--max-turns" not in done.stdout
