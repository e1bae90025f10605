"""`clinvk parallel`: tasks of a file or of stdin, several at once."""

import json
import os
import re
import signal

import msgspec
import pytest

from acceptance.command import Clinvk, read_until, until
from acceptance.outcomes import ParallelOutcome, PartOutcome
from acceptance.server import in_both_ways
from acceptance.terminal import on_terminal
from clinvk.cli.terminal.table import width
from scripted.steps import claude_says, exits, hang, ignore, says, stderr, touch, wait_for

STYLE = re.compile(rb"\x1b\[[0-9;]*m")
TWO = [{"backend": "claude", "prompt": "one", "name": "first"}, {"backend": "codex", "prompt": "two", "id": "t-2"}]


@pytest.fixture(autouse=True)
def agents(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("answer of claude"), when="one")
    clinvk.agent.play(says("codex", "answer of codex"), when="two")
    clinvk.agent.play([stderr("boom\n"), exits(3)], when="bad")


def run_tasks(clinvk: Clinvk, tasks: object, *arguments: str, code: int = 0) -> ParallelOutcome:
    """Run tasks from stdin with --json; return the outcome."""
    return clinvk.json(ParallelOutcome, "parallel", *arguments, code=code, stdin=json.dumps(tasks).encode())


def task(prompt: str, **more: object) -> dict[str, object]:
    return {"backend": "claude", "prompt": prompt, **more}


def test_answers_and_table_go_to_stdout_and_progress_to_stderr(clinvk: Clinvk) -> None:
    file = clinvk.folder / "tasks.json"
    file.write_text(json.dumps({"tasks": TWO, "max_parallel": 1}))
    done = clinvk.run("parallel", "-f", "tasks.json")
    assert done.returncode == 0
    *answers, head, first, second, totals = done.stdout.splitlines()
    assert answers == ["── [1] claude first ──", "answer of claude", "", "── [2] codex t-2 ──", "answer of codex", ""]
    assert head.split() == ["#", "BACKEND", "STATE", "DURATION", "TITLE"]
    assert (first.split()[:3], first.split()[-1]) == (["1", "claude", "done"], "first")
    assert (second.split()[:3], second.split()[-1]) == (["2", "codex", "done"], "t-2")
    assert totals.startswith("2 tasks: 2 done in ")
    lines = [line.split(" after ")[0] for line in done.stderr.splitlines()]
    first, second = "clinvk: [1] claude first", "clinvk: [2] codex t-2"
    assert [line for line in lines if line.startswith(first)] == [f"{first}: started", f"{first}: done"]
    assert [line for line in lines if line.startswith(second)] == [f"{second}: started", f"{second}: done"]
    assert lines[0] == f"{first}: started"  # the next starts when the agent is gone, maybe before its end is told


def test_the_json_is_that_of_the_interface(clinvk: Clinvk) -> None:
    done = clinvk.run("parallel", "--json", stdin=json.dumps([*TWO, task("bad", meta={"a": 1})]).encode())
    assert done.returncode == 1
    outcome = json.loads(done.stdout)
    assert {name: outcome[name] for name in ("total_tasks", "completed", "failed")} == {
        "total_tasks": 3,
        "completed": 2,
        "failed": 1,
    }
    assert outcome["total_duration_seconds"] > 0
    first, second, third = outcome["results"]
    assert (first["index"], first["task_id"], first["task_name"], first["backend"]) == (0, "", "first", "claude")
    assert (second["index"], second["task_id"], second["task_name"], second["backend"]) == (1, "t-2", "", "codex")
    assert (first["output"], first["exit_code"], "error" in first) == ("answer of claude", 0, False)
    assert (third["exit_code"], third["meta"], "boom" in third["error"]) == (1, {"a": 1}, True)
    assert all(result["duration_seconds"] >= 0 for result in outcome["results"])
    assert done.stderr.startswith("clinvk: [3] claude: failed: ")


def test_quiet_prints_only_table_and_errors(clinvk: Clinvk) -> None:
    done = clinvk.run("parallel", "-q", stdin=json.dumps([task("one"), task("bad")]).encode())
    assert done.returncode == 1
    assert [line.split()[:3] for line in done.stdout.splitlines()[:3]] == [
        ["#", "BACKEND", "STATE"],
        ["1", "claude", "done"],
        ["2", "claude", "failed"],
    ]
    assert done.stderr.splitlines() == [
        "clinvk: [2] claude: failed: claude exited with code 3 before it reported a result: boom"
    ]


def test_without_aggregate_output_the_answers_are_left_out(clinvk: Clinvk) -> None:
    clinvk.settings("parallel: {aggregate_output: false}\n")
    done = clinvk.run("parallel", stdin=json.dumps(TWO).encode())
    assert done.returncode == 0
    assert done.stdout.startswith("#  BACKEND")


def test_flags_complete_tasks(clinvk: Clinvk) -> None:
    (clinvk.folder / "w" / "inner").mkdir(parents=True)
    tasks = [{"prompt": "one"}, {"prompt": "one", "workdir": "inner", "model": "opus"}]
    run_tasks(clinvk, tasks, "-w", "w", "-m", "haiku", "-b", "claude")
    calls = {call.cwd: " ".join(call.argv) for call in clinvk.agent.calls()}
    assert set(calls) == {str(clinvk.folder / "w"), str(clinvk.folder / "w" / "inner")}
    assert "haiku" in calls[str(clinvk.folder / "w")]
    assert "opus" in calls[str(clinvk.folder / "w" / "inner")]


def test_max_parallel_limits_the_agents_at_once(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "go"), *claude_says("x")], when="wait")
    clinvk.settings("server: {max_concurrent_runs: 2}\n")
    (clinvk.folder / "tasks.json").write_text(json.dumps([task("wait") for _ in range(6)]))
    with clinvk.started("parallel", "--json", "--max-parallel", "4", "-f", "tasks.json") as process:
        until(lambda: len(clinvk.agent.calls()) == 4)
        (clinvk.folder / "go").touch()
        stdout, _ = process.communicate()
    assert msgspec.json.decode(stdout, type=ParallelOutcome).completed == 6


@in_both_ways
def test_fail_fast_ends_the_running_and_cancels_the_waiting(clinvk: Clinvk) -> None:
    clinvk.agent.play([hang()], when="for ever")
    clinvk.agent.play([wait_for(clinvk.agent.folder / "calls.jsonl"), exits(3)], when="bad")
    tasks = [task("for ever"), task("bad"), task("one"), task("one")]
    outcome = run_tasks(clinvk, tasks, "--max-parallel", "2", "--fail-fast", code=1)
    assert [result.error_code for result in outcome.results] == ["cancelled", "agent_crashed", "cancelled", "cancelled"]
    assert (outcome.completed, outcome.failed, outcome.cancelled) == (0, 4, 3)
    assert clinvk.agent.alive() == []


def test_a_dry_run_shows_each_command_and_starts_none(clinvk: Clinvk) -> None:
    body = {"tasks": TWO, "output_dir": "out"}
    done = clinvk.run("parallel", "--dry-run", stdin=json.dumps(body).encode())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Would execute:\n── ")
    shown = [line for line in done.stdout.splitlines() if line.startswith(f"cd {clinvk.folder} && ")]
    assert len(shown) == 2
    assert " claude -p " in shown[0]
    assert " codex " in shown[1]
    assert done.stdout.count("# prompt: 3 bytes on stdin") == 2
    assert "BACKEND" not in done.stdout
    assert clinvk.agent.calls() == []
    assert not (clinvk.folder / "out").exists()


def test_the_output_folder_gets_a_file_a_task_and_a_summary(clinvk: Clinvk) -> None:
    tasks = [task("one", name="../../up & away"), task("bad", id=".hidden"), task("one")]
    outcome = run_tasks(clinvk, {"tasks": tasks, "output_dir": "out/deep"}, code=1)
    folder = clinvk.folder / "out" / "deep"
    assert sorted(path.name for path in folder.iterdir()) == [
        "0-up-away.json",
        "1-hidden.json",
        "2.json",
        "summary.json",
    ]
    assert msgspec.json.decode((folder / "summary.json").read_bytes(), type=ParallelOutcome) == outcome
    assert msgspec.json.decode((folder / "1-hidden.json").read_bytes(), type=PartOutcome) == outcome.results[1]


@pytest.mark.parametrize("path", ["..", "/tmp/elsewhere", "out/../../x", "link/x", "file", "~/out"])
def test_an_output_folder_elsewhere_is_refused_before_anything_runs(clinvk: Clinvk, path: str) -> None:
    (clinvk.folder / "link").symlink_to(clinvk.agent.folder)
    (clinvk.folder / "file").touch()
    done = clinvk.run("parallel", stdin=json.dumps({"output_dir": path, "tasks": [task("one")]}).encode())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"clinvk: stdin: output_dir: {path!r} ")
    assert clinvk.agent.calls() == []


@pytest.mark.parametrize("command", ["parallel", "chain"])
def test_file_for_another_node_is_refused_before_anything_runs(clinvk: Clinvk, command: str) -> None:
    parts = {"parallel": "tasks", "chain": "steps"}[command]
    done = clinvk.run(command, stdin=json.dumps({"node": "web", parts: [task("one")]}).encode())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("clinvk: stdin: node 'web' cannot be reached here: this machine is no node")
    assert clinvk.agent.calls() == []


def test_output_folder_cannot_be_redirected_by_an_agent(clinvk: Clinvk) -> None:
    out, elsewhere = clinvk.folder / "out", clinvk.folder / "elsewhere"
    elsewhere.mkdir()
    clinvk.agent.play([wait_for(clinvk.folder / "go"), *claude_says("x")], when="wait")
    (clinvk.folder / "tasks.json").write_text(json.dumps({"tasks": [task("wait")], "output_dir": "out"}))
    with clinvk.started("parallel", "-f", "tasks.json") as process:
        until(lambda: len(clinvk.agent.calls()) == 1)
        out.rename(clinvk.folder / "moved")
        out.symlink_to(elsewhere)
        (clinvk.folder / "go").touch()
        process.communicate()
    assert process.returncode == 0
    assert list(elsewhere.iterdir()) == []
    assert len(list((clinvk.folder / "moved").iterdir())) == 2


@pytest.mark.first(4)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"backend": "claude", "promt": "x"}]', "stdin: unknown field 'tasks[0].promt'; did you mean 'prompt'?"),
        ('[{"backend": "claude", "prompt": "x"},', "stdin:1:39: is not valid JSON: it ends too early"),
        (
            "- {backend: cluade, prompt: x}",
            "stdin: tasks[0]: unknown backend 'cluade' (available: claude, codex, gemini); did you mean 'claude'?",
        ),
        ("- {prompt: x, workdir: nowhere}", "stdin: tasks[0]: workdir: no directory "),
        ("- {backend: gemini, prompt: x, output_schema: {type: 3}}", "stdin: tasks[0]: "),
    ],
)
def test_invalid_file_exits_with_2_before_anything_runs(clinvk: Clinvk, text: str, said: str) -> None:
    done = clinvk.run("parallel", "--json", stdin=text.encode())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"clinvk: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert clinvk.agent.calls() == []


def test_wrong_usage_exits_with_1(clinvk: Clinvk) -> None:
    for arguments in (["--max-parallel", "0"], ["--isolation", "box"], ["a word"]):
        done = clinvk.run("parallel", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
    with on_terminal(clinvk, "parallel") as terminal:
        assert terminal.ended() == 1
    assert b"no tasks: use --file FILE, or --file - to type them here" in terminal.plain()


def test_a_session_is_continued_in_its_directory(clinvk: Clinvk) -> None:
    first = run_tasks(clinvk, [task("one")]).results[0]
    (clinvk.folder / "other").mkdir()
    again = run_tasks(clinvk, [{"prompt": "one", "session_id": str(first.session_id)[:12]}], "-w", "other").results[0]
    assert again.session_id == first.session_id
    assert clinvk.agent.calls()[-1].cwd == str(clinvk.folder)
    assert any(word.startswith("--resume") for word in clinvk.agent.calls()[-1].argv)


@in_both_ways
def test_stream_json_tags_each_event_and_ends_with_the_summary(clinvk: Clinvk) -> None:
    done = clinvk.run("parallel", "-o", "stream-json", stdin=json.dumps([*TWO, {"prompt": "bad"}]).encode())
    assert done.returncode == 1
    *events, summary = map(json.loads, done.stdout.splitlines())
    assert (summary["type"], summary["total_tasks"]) == ("summary", 3)
    for index, last in enumerate(("done", "done", "error")):
        own = [event for event in events if event["index"] == index]
        assert [event["sequence"] for event in own] == [*range(1, len(own) + 1)]
        assert own[-1]["type"] == last
    assert {event.get("id") for event in events if event["index"] == 1} == {"t-2"}


@in_both_ways
def test_closed_stdout_ends_all_agents(clinvk: Clinvk) -> None:
    clinvk.agent.play([*claude_says("x")[:3], wait_for(clinvk.folder / "go"), *claude_says("y" * 100_000)], when="long")
    (clinvk.folder / "t.json").write_text(json.dumps([task("long"), task("long"), task("one"), task("one")]))
    with clinvk.started("parallel", "-o", "stream-json", "--max-parallel", "2", "-f", "t.json") as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b'"init"')
        process.stdout.close()
        (clinvk.folder / "go").touch()
        assert process.wait() == 7
    assert clinvk.agent.alive() == []


@in_both_ways
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_all_agents_and_prints_the_results_so_far(clinvk: Clinvk, number: signal.Signals) -> None:
    clinvk.agent.play([*claude_says("x")[:2], hang()], when="for ever")
    tasks = [task("one"), task("for ever"), task("for ever"), task("one")]
    (clinvk.folder / "t.json").write_text(json.dumps({"tasks": tasks, "output_dir": "out"}))
    with clinvk.started("parallel", "--json", "--max-parallel", "2", "-f", "t.json") as process:
        until(lambda: len(clinvk.prompts) == 3 and clinvk.prompts.count("for ever") == 2)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert process.returncode == 7
    outcome = msgspec.json.decode(stdout, type=ParallelOutcome)
    assert [result.error_code for result in outcome.results] == [None, "cancelled", "cancelled", "cancelled"]
    assert outcome.results[0].output == "answer of claude"
    assert stderr.decode() == "clinvk: stopping all agents; press Ctrl-C again to kill them\n"
    assert clinvk.agent.alive() == []
    assert len(list((clinvk.folder / "out").iterdir())) == 5


def test_notes_are_printed_above_the_display(clinvk: Clinvk) -> None:
    names = ("one", "two")
    for name in names:
        steady = [ignore(signal.SIGINT), ignore(signal.SIGTERM), touch(clinvk.folder / name), hang()]
        clinvk.agent.play(steady, when=name)
    (clinvk.folder / "t.json").write_text(json.dumps([*map(task, names)]))
    with on_terminal(clinvk, "parallel", "-f", "t.json") as terminal:
        until(lambda: all((clinvk.folder / name).exists() for name in names))
        terminal.until("2 running")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("kill them")
        terminal.until("2 running")
        terminal.until("2 running")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 7
    assert terminal.screen() == ["clinvk: stopping all agents; press Ctrl-C again to kill them", "clinvk: cancelled"]


@in_both_ways
def test_a_second_signal_kills_agents_that_do_not_stop(clinvk: Clinvk) -> None:
    steady = [ignore(signal.SIGINT), ignore(signal.SIGTERM), touch(clinvk.folder / "up"), hang()]
    clinvk.agent.play(steady, when="for ever")
    (clinvk.folder / "t.json").write_text(json.dumps([task("for ever")]))
    with clinvk.started("parallel", "--json", "-f", "t.json") as process:
        until((clinvk.folder / "up").exists)
        process.send_signal(signal.SIGINT)
        assert process.stderr
        read_until(process.stderr.fileno(), b"kill them")
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"clinvk: cancelled\n")
    assert process.returncode == 7
    assert clinvk.agent.alive() == []


def test_display_is_cleared_before_the_table(clinvk: Clinvk) -> None:
    clinvk.agent.play([*claude_says("so far")[:4], wait_for(clinvk.folder / "go"), *claude_says("done")], when="wait")
    (clinvk.folder / "t.json").write_text(json.dumps([task("wait", name="slow"), task("one", name="n" * 100)]))
    with on_terminal(clinvk, "parallel", "-f", "t.json", "--max-parallel", "1", columns=60) as terminal:
        terminal.until("STATE")
        terminal.until("running")
        terminal.until("1 running, 1 queued")
        (clinvk.folder / "go").touch()
        assert terminal.ended() == 0
    shown = terminal.read.rpartition(b"\x1b[?25h")[2]
    assert b"\x1b[2K" in shown  # the drawing is taken away
    lines = terminal.read.rpartition(b"\x1b[2K")[2].decode().splitlines()
    assert lines[0] == "── [1] claude slow ──"
    assert [line.split()[0] for line in lines[-4:]] == ["#", "1", "2", "2"]
    assert max(map(width, lines[-4:-1])) <= 60 + len("\x1b[32m\x1b[0m")


@pytest.mark.parametrize(("env", "is_styled"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_display_respects_no_color(clinvk: Clinvk, env: dict[str, str], is_styled: bool) -> None:
    clinvk.agent.play([*claude_says("so far")[:4], wait_for(clinvk.folder / "go"), *claude_says("done")], when="wait")
    (clinvk.folder / "t.json").write_text(json.dumps([task("wait", name="slow")]))
    with on_terminal(clinvk, "parallel", "-f", "t.json", env=env) as terminal:
        terminal.until("so far")
        terminal.until("1 running")
        drawn = terminal.all_read
        (clinvk.folder / "go").touch()
        assert terminal.ended() == 0
    assert [bool(STYLE.search(read)) for read in (drawn, terminal.all_read)] == [is_styled, is_styled]


def test_stderr_on_a_dumb_terminal_gets_lines(clinvk: Clinvk) -> None:
    (clinvk.folder / "t.json").write_text(json.dumps(TWO))
    with on_terminal(clinvk, "parallel", "-f", "t.json", env={"TERM": "dumb"}) as terminal:
        assert terminal.ended() == 0
    assert b"\x1b" not in terminal.read
    assert b"clinvk: [1] claude first: started" in terminal.read


def test_neither_yaml_nor_the_server_is_imported_without_need(clinvk: Clinvk) -> None:
    done = clinvk.run("parallel", stdin=json.dumps(TWO).encode(), env={"PYTHONPROFILEIMPORTTIME": "1"})
    loaded = {text.rpartition("|")[2].strip().split(".")[0] for text in done.stderr.splitlines()}
    assert not loaded & {"starlette", "uvicorn", "yaml"}


def test_answers_cannot_steer_the_terminal_but_reach_a_pipe_as_they_are(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("a\x1b]0;title\x07b\tc"), when="steer")
    (clinvk.folder / "t.json").write_text(json.dumps([task("steer")]))
    assert "a\x1b]0;title\x07b\tc" in clinvk.run("parallel", "-f", "t.json").stdout
    with on_terminal(clinvk, "parallel", "-f", "t.json") as terminal:
        assert terminal.ended() == 0
    assert b"\x1b]0" not in terminal.read
    assert b"a?]0;title?b" in terminal.read


def test_concurrently_written_output_files_are_whole(clinvk: Clinvk) -> None:
    run_tasks(clinvk, {"tasks": [task("one") for _ in range(11)], "output_dir": ".", "max_parallel": 6})
    assert sorted(os.listdir(clinvk.folder)) == [*(f"{index:02}.json" for index in range(11)), "summary.json"]
