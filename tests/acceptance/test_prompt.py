"""`clinvk PROMPT`: output and exit codes."""

import json
import os
import signal
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from acceptance.terminal import on_terminal
from scripted.steps import claude_says, die, exits, hang, line, pause, says, stderr, wait_for

CLAUDE_FAILED = json.dumps(
    {
        "type": "result",
        "subtype": "success",
        "is_error": True,
        "api_error_status": 429,
        "num_turns": 1,
        "result": "too many requests",
        "session_id": "1",
        "usage": {"input_tokens": 1, "output_tokens": 0},
    }
)


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
def test_text_output_is_the_answer_and_a_newline(clinvk: Clinvk, backend: str) -> None:
    clinvk.agent.play(says(backend, "two words"))
    done = clinvk.run("-o", "text", "-b", backend, "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "two words\n", "")
    assert clinvk.agent.calls()[0].name == backend


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
def test_json_output_is_one_object_with_the_documented_fields(clinvk: Clinvk, backend: str) -> None:
    clinvk.agent.play(says(backend, "answer"))
    done = clinvk.run("-b", backend, "hello")
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert list(result) == [
        "backend",
        "content",
        "session_id",
        "model",
        "duration_seconds",
        "exit_code",
        "usage",
        *(["cost_usd"] if backend == "claude" else []),
        "run_id",
        "stop_reason",
        "raw",
    ]
    assert (result["backend"], result["content"], result["exit_code"]) == (backend, "answer", 0)
    assert result["usage"] == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17, "cached_tokens": 2}
    assert result["raw"].get("type", result["raw"].get("method")) in ("result", "turn/completed")
    assert len(result["session_id"]) == 32
    assert 0 < result["duration_seconds"] < 15


def test_stream_json_prints_one_event_per_line_from_init_to_done(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("one ", "two"))
    done = clinvk.run("-o", "stream-json", "-w", str(clinvk.folder), "hello")
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "init"
    assert events[0]["content"]["working_dir"] == str(clinvk.folder)
    assert events[-1]["type"] == "done"
    assert "".join(event["content"]["text"] for event in events if event["type"] == "message") == "one two"


def test_output_format_flag_overrides_the_setting(clinvk: Clinvk) -> None:
    clinvk.settings("output: {format: text}")
    clinvk.agent.play(claude_says("x"))
    assert clinvk.run("hello").stdout == "x\n"
    assert json.loads(clinvk.run("hello", "--output-format=json").stdout)["content"] == "x"


def test_show_tokens_and_show_timing_print_on_stderr(clinvk: Clinvk) -> None:
    clinvk.settings("output: {format: text, show_tokens: true, show_timing: true}")
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("hello")
    assert done.stdout == "x\n"
    assert done.stderr.startswith("clinvk: 12 in (2 cached), 5 out tokens, ")


@pytest.mark.first(2)
@pytest.mark.parametrize("twice", [["-vv"], ["-v", "-v"], ["--verbose", "--verbose"]])
def test_verbose_given_twice_prints_the_agents_stderr(clinvk: Clinvk, twice: list[str]) -> None:
    clinvk.agent.play([stderr("a warning\n"), *claude_says("x")])
    done = clinvk.run("-o", "text", *twice, "hello")
    assert done.stdout == "x\n"
    assert "clinvk: claude: a warning\n" in done.stderr
    assert "a warning" not in clinvk.run("--new", "-v", "hello").stderr
    by_setting = clinvk.run("--new", "hello", env={"CLINVK_UNIFIED_FLAGS__VERBOSE": "true"})
    assert "clinvk: claude: a warning\n" in by_setting.stderr


def test_verbose_prints_tools_with_the_diff_of_an_edit(clinvk: Clinvk) -> None:
    edit = {"file_path": "/x.py", "old_string": "a = 1\nb = 1\n", "new_string": "a = 1\nb = \x1b2\n"}
    message = {"id": "m", "content": [{"type": "tool_use", "id": "t", "name": "Edit", "input": edit}]}
    first, *rest = claude_says("x")
    clinvk.agent.play([first, line(json.dumps({"type": "assistant", "message": message})), *rest])
    done = clinvk.run("-o", "text", "-v", "hello")
    assert done.stderr.removeprefix("clinvk: through the server of this home\n") == (
        "clinvk: Edit /x.py\n@@ -1,2 +1,2 @@\n a = 1\n-b = 1\n+b = ?2\n"
    )
    with on_terminal(clinvk, "-v", "--new", "hello there") as terminal:
        assert terminal.ended() == 0
    assert b"\x1b[31m-b = 1\x1b[m" in terminal.all_read


@pytest.mark.first(4)
@pytest.mark.parametrize(("own", "expected"), [(1, 1), (3, 1), (7, 1), (8, 8), (42, 42), (145, 145)])
def test_agent_exit_codes_from_8_are_passed_through(clinvk: Clinvk, own: int, expected: int) -> None:
    clinvk.agent.play([stderr("something broke\n"), exits(own)])
    done = clinvk.run("hello")
    assert done.returncode == expected
    assert json.loads(done.stdout)["exit_code"] == expected
    assert "something broke" in json.loads(done.stdout)["error"]
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("clinvk: ")


def test_verbose_strips_control_sequences_from_agent_stderr(clinvk: Clinvk) -> None:
    said = "\x1b[1;31merror:\x1b[0m \x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\\x1b(B, \x07bell \x1b[38;2;1;2;3mred\n"
    clinvk.agent.play([stderr(said), *claude_says("hi")])
    done = clinvk.run("-vv", "hello")
    assert "clinvk: claude: error: link, ?bell red\n" in done.stderr


STEERING = ("A\x1b", "]0;title\x07\r\n\tB\x9b2", "JC\u202e 漢\u3000字")
HARMLESS = "A?]0;title?\n\tB?2JC? 漢\u3000字"


@pytest.mark.parametrize("arguments", [["-o", "text"], ["-o", "json"], ["-o", "stream-json"]])
def test_control_characters_in_an_answer_are_escaped_on_a_terminal(clinvk: Clinvk, arguments: list[str]) -> None:
    """A sequence that is cut between two pieces of the answer is harmless too."""
    clinvk.agent.play(claude_says(*STEERING))
    with on_terminal(clinvk, *arguments, "--no-stdin", "--", "hello", env={"TERM": "dumb"}) as terminal:
        assert terminal.ended() == 0
    assert not set(terminal.all_read.decode()) & {"\x1b", "\x07", "\x9b", "\u202e"}
    if "text" in arguments:
        assert terminal.all_read.decode().replace("\r", "").startswith(f"{HARMLESS}\n\nclaude-")


def test_answer_is_unchanged_in_a_pipe(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says(*STEERING))
    assert clinvk.run("-o", "text", "hello").stdout == "".join(STEERING) + "\n"


def test_agent_killed_by_a_signal_exits_with_128_plus_the_signal_number(clinvk: Clinvk) -> None:
    clinvk.agent.play([die(signal.SIGKILL)])
    assert clinvk.run("hello").returncode == 128 + signal.SIGKILL


def test_failed_result_with_agent_code_0_exits_with_1_and_keeps_the_output(clinvk: Clinvk) -> None:
    clinvk.agent.play([*claude_says("half")[:-3], line(CLAUDE_FAILED)])
    done = clinvk.run("-o", "text", "hello")
    assert (done.returncode, done.stdout) == (1, "half\n")
    assert "too many requests" in done.stderr


def test_invalid_agent_output_and_early_exit_fail_the_run(clinvk: Clinvk) -> None:
    clinvk.agent.play([line("garbage"), line("{")])
    done = clinvk.run("hello")
    assert done.returncode == 1
    assert "before it reported a result" in done.stderr


@pytest.mark.first(2)
@pytest.mark.parametrize("by_flag", [True, False])
def test_timed_out_run_exits_with_6(clinvk: Clinvk, by_flag: bool) -> None:
    clinvk.agent.play([*claude_says("begun")[:4], hang()])
    if not by_flag:
        clinvk.settings("unified_flags: {command_timeout_secs: 1}")
    done = clinvk.run("-o", "json", "hello", *(["--timeout", "0.5"] if by_flag else []))
    result = json.loads(done.stdout)
    assert done.returncode == 6
    assert (result["exit_code"], result["content"]) == (6, "begun")
    assert clinvk.agent.alive() == []


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_flag_that_the_agent_does_not_support_is_rejected(clinvk: Clinvk, more: list[str]) -> None:
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("-b", "codex", "--allowed-tools", "Read", "hello", *more)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("clinvk: ")
    assert clinvk.agent.calls() == []


def test_agent_works_in_the_workdir_even_a_relative_one(clinvk: Clinvk) -> None:
    (clinvk.folder / "sub").mkdir()
    clinvk.agent.play(claude_says("x"))
    assert clinvk.run("-w", "sub", "hello").returncode == 0
    assert clinvk.run("hello").returncode == 0
    assert [call.cwd for call in clinvk.agent.calls()] == [str(clinvk.folder / "sub"), str(clinvk.folder)]


def test_dry_run_prints_the_command_even_without_the_cli(clinvk: Clinvk) -> None:
    done = clinvk.run("--dry-run", "-m", "opus", "hello", "-w", str(clinvk.folder), env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"# Would execute:\ncd {clinvk.folder} && ")
    assert "claude" in done.stdout
    assert "opus" in done.stdout
    assert "# prompt: 5 bytes on stdin" in done.stdout
    assert "hello" not in done.stdout
    assert clinvk.agent.calls() == []


def test_prompt_and_answer_of_megabytes_arrive_whole(clinvk: Clinvk) -> None:
    prompt, answer = "é" * 500_000, "ü" * 100_000
    clinvk.agent.play(claude_says(answer, answer))
    done = clinvk.run("-o", "text", stdin=prompt.encode())
    assert (done.returncode, done.stdout) == (0, answer * 2 + "\n")
    assert clinvk.prompts == [prompt]


def test_full_disk_is_an_error(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("hello", close_fds=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "clinvk: cannot write to stdout: No space left on device\n")


def test_closed_stderr_changes_nothing(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("-o", "text", "hello", close_fds="2>&-")
    assert (done.returncode, done.stdout) == (0, "x\n")


def test_prompt_leaves_no_unexpected_files(clinvk: Clinvk, served: bool) -> None:
    before = sorted(os.listdir(clinvk.folder))
    clinvk.agent.play([pause(0), *claude_says("x")])
    clinvk.run("hello")
    assert sorted(os.listdir(clinvk.folder)) == before
    of_server = {"serve.lock", "serve.sock", "clinvk.db-shm", "clinvk.db-wal"} if served else set[str]()
    assert {*os.listdir(clinvk.config.parent)} - of_server == {"clinvk.db", "owners"}


def test_terminal_gets_text_a_status_line_and_a_footer(clinvk: Clinvk, tmp_path: Path) -> None:
    answer = claude_says("the answer")
    clinvk.agent.play([*answer[:2], wait_for(tmp_path / "go"), *answer[2:]])
    with on_terminal(clinvk, "--new", "say something") as terminal:
        terminal.until("claude · 0 s")
        (tmp_path / "go").touch()
        assert "the answer" in terminal.until(" · session ")
        assert terminal.ended() == 0
    assert '"content"' not in terminal.all_read.decode()
