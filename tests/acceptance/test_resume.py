"""Going on with a conversation: by itself, with -c, and with `clinvk resume`."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from acceptance.command import Clinvk, read_until, until
from acceptance.server import Server
from acceptance.sessions import FIRST, SECOND, age, begun, change
from acceptance.terminal import ENTER, ESCAPE, on_terminal
from scripted.steps import CODEX_THREAD, claude_says, hang, says, touch, wait_for

HANDLES = {"claude": f"--resume={FIRST}", "codex": CODEX_THREAD, "gemini": f"--resume={FIRST}"}


def handle_of_last(clinvk: Clinvk) -> str | None:
    """Return the conversation that the agent was told to go on with, the last time."""
    call = clinvk.agent.calls()[-1]
    if call.name == "codex":
        return CODEX_THREAD if b'"thread/resume"' in (call.stdin or b"") else None
    found = [word for word in call.argv if FIRST in word or SECOND in word]
    return found[-1] if found else None


class TestByItself:
    @pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
    def test_prompt_continues_the_session_of_its_directory_and_reports_it(self, clinvk: Clinvk, backend: str) -> None:
        session = begun(clinvk, backend=backend)
        done = clinvk.run("-b", backend, "second")
        assert (done.returncode, json.loads(done.stdout)["session_id"]) == (0, session)
        assert re.fullmatch(
            rf"clinvk: continuing session {session[:8]} \((just now|\d+ s ago)\); --new starts another\n", done.stderr
        )
        assert handle_of_last(clinvk) == HANDLES[backend]

    def test_comparison_sessions_are_continued_only_after_an_explicit_resume(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        clinvk.agent.play(claude_says("part", session=SECOND), when="ask")
        clinvk.agent.play(claude_says('{"best": "A", "reasons": "so"}', session=SECOND), when="Judge the answers")
        told = clinvk.run("compare", "--backends", "claude,claude", "--judge", "claude", "--json", "ask")
        assert told.returncode == 0
        parts = [result["session_id"] for result in json.loads(told.stdout)["results"]]
        assert len(json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"]) == 3
        assert json.loads(clinvk.run("second").stdout)["session_id"] == session
        assert clinvk.run("resume", parts[0], "third").returncode == 0
        assert json.loads(clinvk.run("fourth").stdout)["session_id"] == parts[0]

    def test_sessions_over_http_are_continued_only_after_an_explicit_resume(self, clinvk: Clinvk) -> None:
        clinvk.agent.play(claude_says("x"))
        with Server(clinvk.agent) as server:
            session = server.ready().prompt("over http", workdir=str(clinvk.folder)).json()["session_id"]
            assert json.loads(clinvk.run("--new", "first").stdout)["session_id"] != session
            assert server.prompt("more", session_id=session).json()["session_id"] == session
            assert json.loads(clinvk.run("second").stdout)["session_id"] != session
            assert json.loads(clinvk.run("resume", session, "third").stdout)["session_id"] == session
            assert json.loads(clinvk.run("fourth").stdout)["session_id"] == session

    def test_symbolic_link_to_a_directory_is_the_same_directory(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "real").mkdir()
        (clinvk.folder / "link").symlink_to("real")
        session = begun(clinvk, folder="real")
        done = clinvk.run("-w", "link", "second")
        assert json.loads(done.stdout)["session_id"] == session
        assert clinvk.agent.calls()[-1].cwd == str(clinvk.folder / "real")

    def test_other_directory_or_agent_starts_a_new_session(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "other").mkdir()
        begun(clinvk)
        for arguments in (["-w", "other"], ["-b", "codex"]):
            clinvk.agent.play(says(arguments[1] if "-b" in arguments else "claude", "x"))
            assert clinvk.run(*arguments, "second").stderr == ""
            assert handle_of_last(clinvk) is None

    def test_session_of_another_node_of_a_cluster_is_not_continued(self, clinvk: Clinvk) -> None:
        nodes = {name: {"CLINVK_CLUSTER__NODE": name} for name in ("one", "two")}
        clinvk.agent.play(says("claude", "x"))
        session = json.loads(clinvk.run("first", env=nodes["one"]).stdout)["session_id"]
        assert json.loads(clinvk.run("second", env=nodes["one"]).stdout)["session_id"] == session
        assert json.loads(clinvk.run("third", env=nodes["two"]).stdout)["session_id"] != session
        refused = clinvk.run("resume", session, "fourth", env=nodes["two"])
        assert (refused.returncode, "is on node 'one'; this is 'two'" in refused.stderr) == (1, True)

    @pytest.mark.parametrize("argument", ["--new", "--ephemeral"])
    def test_new_and_ephemeral_start_a_new_session(self, clinvk: Clinvk, argument: str) -> None:
        session = begun(clinvk)
        done = clinvk.run(argument, "second")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["session_id"] != session
        assert handle_of_last(clinvk) is None

    @pytest.mark.parametrize(("given", "is_continued"), [("24h", False), ("2d", True), ("yes", True), ("false", False)])
    def test_auto_resume_takes_a_maximum_age(self, clinvk: Clinvk, given: str, is_continued: bool) -> None:
        age(clinvk, begun(clinvk), 25 * 3600)
        clinvk.run("second", env={"CLINVK_SESSION__AUTO_RESUME": given})
        assert (handle_of_last(clinvk) is not None) == is_continued

    @pytest.mark.parametrize(
        ("last", "asked", "looser"),
        [
            ({"sandbox_mode": "read-only"}, [], "sandbox mode default is looser than read-only"),
            ({}, ["--sandbox-mode", "full"], "sandbox mode full is looser than default"),
            ({"approval_mode": "always"}, ["--approval-mode", "auto"], "approval mode auto is looser than always"),
            ({"approval_mode": "auto"}, ["--approval-mode", "default"], ""),
            ({}, ["--sandbox-mode", "workspace"], ""),
            ({}, ["--approval-mode", "ask"], ""),
            ({"approval_mode": "always"}, ["--approval-mode", "ask"], "approval mode ask is looser than always"),
        ],
    )
    def test_looser_modes_than_those_of_the_last_run_start_a_new_session(
        self, clinvk: Clinvk, last: dict[str, str], asked: list[str], looser: str
    ) -> None:
        session = begun(clinvk, **last)
        done = clinvk.run("--dry-run", *asked, "second")
        assert (f"--resume={FIRST}" in done.stdout) == (not looser)
        if looser:
            assert done.stderr == (
                f"clinvk: new session: {looser}, the mode of session {session[:8]}; "
                f"to continue that one: clinvk resume {session[:8]}\n"
            )
            assert f"--resume={FIRST}" in clinvk.run("--dry-run", "-c", *asked, "second").stdout
            assert f"--resume={FIRST}" in clinvk.run("--dry-run", "resume", session, *asked, "second").stdout

    def test_modes_of_the_settings_count_like_flags(self, clinvk: Clinvk) -> None:
        begun(clinvk, sandbox_mode="read-only")
        clinvk.settings("unified_flags: {sandbox_mode: read-only}\nbackends: {claude: {approval_mode: auto}}")
        assert "approval mode auto" in clinvk.run("--dry-run", "second").stderr
        clinvk.run("-c", "second")
        assert f"--resume={FIRST}" in clinvk.run("--dry-run", "third").stdout

    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 7)])
    def test_terminal_asks_before_a_session_of_another_directory_is_continued(
        self, clinvk: Clinvk, answer: bytes, code: int
    ) -> None:
        (clinvk.folder / "there").mkdir()
        session = begun(clinvk, FIRST, folder="there")
        with on_terminal(clinvk, "-c", "go on", columns=200) as terminal:
            question = terminal.until("Continue there? [y/N] ")
            assert "The newest conversation is “first” in " in question
            assert "/there. " in question
            terminal.type(answer)
            assert terminal.ended() == code
        runs = json.loads(clinvk.run("runs", "list", "--json").stdout)["runs"]
        assert [run["session_id"] for run in runs] == [session] * (1 if code else 2)

    @pytest.mark.parametrize("arguments", [["go on"], ["resume", "--last", "go on"]])
    def test_terminal_shows_the_title_of_the_continued_session(self, clinvk: Clinvk, arguments: list[str]) -> None:
        begun(clinvk)
        with on_terminal(clinvk, *arguments) as terminal:
            terminal.until("clinvk: continuing “first” (")
            assert terminal.ended() == 0

    def test_expired_session_is_not_continued(self, clinvk: Clinvk) -> None:
        age(clinvk, begun(clinvk), 31 * 86400)
        assert "(31 d ago)" in clinvk.run("--dry-run", "x", env={"CLINVK_SESSION__RETENTION_DAYS": "0"}).stderr
        assert clinvk.run("second").stderr == ""
        assert handle_of_last(clinvk) is None

    def test_newest_session_that_is_not_ephemeral_is_continued(self, clinvk: Clinvk) -> None:
        begun(clinvk, FIRST)
        begun(clinvk, SECOND)
        clinvk.run("--ephemeral", "between")
        clinvk.run("second")
        assert handle_of_last(clinvk) == f"--resume={SECOND}"

    def test_busy_session_is_left_alone_and_a_new_one_started(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *claude_says("x")], when="slow")
        with clinvk.started("slow") as process:
            until((clinvk.folder / "up").exists)
            done = clinvk.run("second")
            (clinvk.folder / "go").touch()
            assert process.wait(30) == 0
        assert done.returncode == 0
        assert re.fullmatch(
            rf"clinvk: session '{session[:8]}' is busy: run '\w{{8}}' is in progress; starting another session\n",
            done.stderr,
        )
        assert json.loads(done.stdout)["session_id"] not in (session, None)

    def test_session_lost_by_its_agent_is_reported_and_replaced(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        forget(clinvk)
        clinvk.agent.play(claude_says("fresh", session=SECOND))
        done = clinvk.run("-o", "text", "second")
        assert (done.returncode, done.stdout) == (0, "fresh\n")
        assert "starting another session" in done.stderr
        assert clinvk.prompts == ["first", "second"]
        forget(clinvk, False)
        assert f"continuing session {session[:8]}" not in clinvk.run("third").stderr
        assert handle_of_last(clinvk) == f"--resume={SECOND}"

    def test_dry_run_prints_the_resuming_command_and_stores_nothing(self, clinvk: Clinvk) -> None:
        begun(clinvk)
        done = clinvk.run("--dry-run", "second")
        assert f"--resume={FIRST}" in done.stdout
        assert done.stderr.startswith("clinvk: continuing session")
        assert json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"][0]["turn_count"] == 1


def forget(clinvk: Clinvk, is_lost: bool = True) -> None:
    """Make claude report every conversation as missing, as 2.1.197 does, or stop doing so."""
    scripted, claude = clinvk.agent.folder / "scripted-claude", clinvk.agent.folder / "claude"
    if is_lost:
        claude.rename(scripted)
        lost = f"*--resume=*) echo 'No conversation found with session ID: {FIRST}' >&2; exit 1;;"
        claude.write_text(f'#!/bin/sh\ncase "$*" in {lost} esac\nexec {scripted} "$@"\n')
        claude.chmod(0o755)
    else:
        scripted.replace(claude)


class TestContinue:
    def test_continue_resumes_the_newest_session_in_its_directory_and_reports_it(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "there").mkdir()
        begun(clinvk, FIRST, backend="codex")
        session = begun(clinvk, SECOND, folder="there")
        done = clinvk.run("-c", "go on")
        assert json.loads(done.stdout)["session_id"] == session
        assert handle_of_last(clinvk) == f"--resume={SECOND}"
        assert clinvk.agent.calls()[-1].cwd == str(clinvk.folder / "there")
        assert done.stderr.endswith(f" in {clinvk.folder}/there\n")

    def test_continue_reports_that_the_mode_has_changed(self, clinvk: Clinvk) -> None:
        begun(clinvk, sandbox_mode="read-only")
        assert clinvk.run("-c", "go on").stderr.endswith("), now with sandbox mode default instead of read-only\n")
        assert "now with" not in clinvk.run("-c", "go on").stderr

    def test_continue_filters_by_backend_and_workdir(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "there").mkdir()
        begun(clinvk, FIRST, folder="there")
        begun(clinvk, backend="codex")
        begun(clinvk, "cccccccc-3333-4333-8333-333333333333")
        assert f"--resume={FIRST}" in clinvk.run("-c", "-w", "there", "--dry-run", "x").stdout
        assert CODEX_THREAD in clinvk.run("--continue", "-b", "codex", "--dry-run", "x").stdout

    def test_continue_applies_prompt_flags_and_agent_settings(self, clinvk: Clinvk) -> None:
        begun(clinvk, backend="codex")
        clinvk.settings("backends: {codex: {model: gpt-5.5}}\noutput: {format: text}")
        done = clinvk.run("-c", "--sandbox-mode", "read-only", "go on")
        assert (done.returncode, done.stdout) == (0, "x\n")
        asked = clinvk.agent.calls()[-1].stdin or b""
        assert b'"model":"gpt-5.5"' in asked
        assert b'"sandbox":"read-only"' in asked

    def test_continue_without_a_session_exits_with_4(self, clinvk: Clinvk) -> None:
        done = clinvk.run("-c", "go on")
        assert (done.returncode, done.stdout, done.stderr) == (4, "", "clinvk: no session to resume\n")
        begun(clinvk)
        done = clinvk.run("-c", "-b", "gemini", "go on")
        assert (done.returncode, done.stderr) == (4, "clinvk: no session of gemini to resume\n")
        assert len(clinvk.agent.calls()) == 1


class TestResume:
    def test_resume_accepts_an_id_prefix_and_a_prompt_from_stdin(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, SECOND)
        begun(clinvk, FIRST)
        for reference in (session, session[:4], session[:9].upper()):
            assert json.loads(clinvk.run("resume", reference, "go on").stdout)["session_id"] == session
        assert clinvk.run("resume", session, stdin=b"typed").returncode == 0
        assert clinvk.prompts == ["first", "first", "go on", "go on", "go on", "typed"]
        assert f"--resume={SECOND}" in clinvk.agent.calls()[2].argv

    def test_last_and_here_take_the_prompt_as_their_only_argument(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "there").mkdir()
        begun(clinvk, FIRST, folder="there")
        begun(clinvk, SECOND)
        for arguments, handle in (
            (["resume", "--last"], SECOND),
            (["resume", "--here"], SECOND),
            (["resume", "--here", "-w", "there"], FIRST),
            (["resume", "--last", "-w", "there"], FIRST),
        ):
            assert f"--resume={handle}" in clinvk.run(*arguments, "--dry-run", "go on").stdout
            assert f"--resume={handle}" in clinvk.run(*arguments, "--dry-run", stdin=b"go on").stdout
        done = clinvk.run("resume", "--last", "1234abcd", "go on")
        assert (done.returncode, done.stdout) == (1, "")

    @pytest.mark.first(2)
    @pytest.mark.parametrize("reference", ["deadbeef", "abc", "no id", "g" * 32, "", "a" * 33])
    def test_unknown_id_exits_with_4(self, clinvk: Clinvk, reference: str) -> None:
        begun(clinvk)
        done = clinvk.run("resume", reference, "go on")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
        assert len(clinvk.agent.calls()) == 1

    def test_ambiguous_id_exits_with_4_and_lists_the_matches(self, clinvk: Clinvk) -> None:
        ids = [f"abcd{digit * 28}" for digit in "12"]
        for session, own in zip([begun(clinvk), begun(clinvk)], ids, strict=True):
            change(clinvk, "PRAGMA foreign_keys = OFF")
            change(clinvk, "UPDATE sessions SET id = ? WHERE id = ?", own, session)
        done = clinvk.run("resume", "abcd", "go on")
        assert (done.returncode, done.stdout) == (4, "")
        assert all(own in done.stderr for own in ids)
        assert clinvk.run("resume", "abcd1", "--dry-run", "go on").returncode == 0

    def test_resume_without_an_id_or_a_terminal_exits_with_4(self, clinvk: Clinvk) -> None:
        begun(clinvk)
        done = clinvk.run("resume")
        assert (done.returncode, done.stdout) == (4, "")
        assert "--last" in done.stderr

    def test_resume_rejects_another_directory_or_agent(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "other").mkdir()
        session = begun(clinvk)
        assert clinvk.run("resume", session, "-w", ".", "--dry-run", "x").returncode == 0
        for arguments in (["-w", "other"], ["-b", "codex"]):
            done = clinvk.run("resume", session, *arguments, "x")
            assert (done.returncode, done.stdout) == (1, "")
        assert len(clinvk.agent.calls()) == 1

    def test_resume_runs_in_the_session_directory_and_reports_when_it_is_gone(self, clinvk: Clinvk) -> None:
        there = clinvk.folder / "there"
        there.mkdir()
        session = begun(clinvk, FIRST, folder="there")
        done = clinvk.run("-o", "stream-json", "resume", session, "go on", before="cd /")
        assert clinvk.agent.calls()[-1].cwd == str(there)
        assert json.loads(done.stdout.splitlines()[0])["content"]["working_dir"] == str(there)
        there.rmdir()
        done = clinvk.run("resume", session, "go on")
        assert done.returncode == 4
        assert "no longer exists" in done.stderr

    def test_session_lost_by_its_agent_exits_with_4(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        forget(clinvk)
        done = clinvk.run("resume", session, "go on")
        assert done.returncode == 4
        assert "starting another" not in done.stderr

    def test_session_without_a_backend_session_id_exits_with_4(self, clinvk: Clinvk) -> None:
        clinvk.agent.play([hang()])
        with clinvk.started("hello") as process:
            until(lambda: len(clinvk.agent.calls()) == 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 7
        session = json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"][0]
        done = clinvk.run("resume", session["id"], "go on")
        assert (done.returncode, session["backend_session_id"]) == (4, None)
        assert clinvk.run("-c", "go on").returncode == 4

    def test_second_run_of_a_busy_session_exits_with_4_at_once(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *claude_says("x")], when="slow")
        with clinvk.started("resume", session, "slow") as process:
            until((clinvk.folder / "up").exists)
            for arguments in (["resume", session, "x"], ["-c", "x"], ["sessions", "delete", "--yes", session]):
                done = clinvk.run(*arguments)
                assert (done.returncode, done.stdout) == (4, "")
                assert "busy" in done.stderr
            (clinvk.folder / "go").touch()
            assert process.wait(30) == 0
        assert clinvk.run("resume", session, "x").returncode == 0

    @pytest.mark.parametrize("arguments", [["resume"], ["-c"], []])
    def test_queued_prompt_runs_after_the_run_of_its_session(self, clinvk: Clinvk, arguments: list[str]) -> None:
        session = begun(clinvk)
        slow = claude_says("x", session=SECOND)
        clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *slow], when="slow")
        if arguments == ["resume"]:
            arguments = ["resume", session]
        with clinvk.started("resume", session, "slow") as process:
            until((clinvk.folder / "up").exists)
            with clinvk.started("--on-busy", "queue", *arguments, "next") as waiting:
                until(lambda: "next" in clinvk.run("runs", "list", "--state", "queued", "--json").stdout)
                (clinvk.folder / "go").touch()
                assert (process.wait(30), waiting.wait(30)) == (0, 0)
        assert handle_of_last(clinvk) == f"--resume={SECOND}"

    def test_ctrl_c_withdraws_a_queued_prompt(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *claude_says("x")], when="slow")
        with clinvk.started("resume", session, "slow") as process:
            until((clinvk.folder / "up").exists)
            with clinvk.started("resume", session, "--on-busy", "queue", "next") as waiting:
                until(lambda: "next" in clinvk.run("runs", "list", "--state", "queued", "--json").stdout)
                waiting.send_signal(signal.SIGINT)
                assert waiting.wait(30) == 7
            (clinvk.folder / "go").touch()
            assert process.wait(30) == 0
        assert "next" in clinvk.run("runs", "list", "--state", "cancelled", "--json").stdout

    def test_ctrl_c_pauses_a_session_that_can_be_resumed(self, clinvk: Clinvk) -> None:
        clinvk.agent.play([*claude_says("begun", session=FIRST)[:4], hang()], when="slow")
        with clinvk.started("-o", "text", "slow") as process:
            assert process.stdout
            read_until(process.stdout.fileno(), b"begun")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 7
        kept = json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"][0]
        assert (kept["status"], kept["backend_session_id"]) == ("paused", FIRST)
        clinvk.agent.play(claude_says("x"))
        assert json.loads(clinvk.run("go on").stdout)["session_id"] == kept["id"]


class TestInteractive:
    @pytest.mark.parametrize(
        ("backend", "argv"),
        [
            ("claude", ("--model=opus", f"--resume={FIRST}")),
            ("codex", ("resume", "--model=gpt-6-astra", CODEX_THREAD)),
            ("gemini", ("--model=pro", f"--resume={FIRST}")),
        ],
    )
    def test_interactive_resume_replaces_clinvk_with_the_agents_program(
        self, clinvk: Clinvk, backend: str, argv: tuple[str, ...]
    ) -> None:
        (clinvk.folder / "there").mkdir()
        session = begun(clinvk, FIRST, backend, folder="there")
        clinvk.settings(f"backends: {{{backend}: {{env: {{OWN: set}}}}}}")
        clinvk.agent.play([touch(clinvk.folder / "up")], reads=False)
        env = {"CLINVK_API_KEYS": "secret", "KEPT": "1"}
        with on_terminal(clinvk, "resume", "-i", session, "-m", "best", env=env) as terminal:
            assert terminal.ended() == 0
        call = clinvk.agent.calls()[-1]
        assert (call.name, call.argv[-len(argv) :], call.cwd) == (backend, argv, str(clinvk.folder / "there"))
        assert (call.env.get("OWN"), call.env.get("KEPT"), call.env.get("CLINVK_API_KEYS")) == ("set", "1", None)
        assert call.pid == terminal.process.pid

    def test_interactive_dry_run_prints_the_agents_command(self, clinvk: Clinvk) -> None:
        begun(clinvk)
        done = clinvk.run("resume", "--last", "-i", "--dry-run")
        assert done.stdout == f"# Would execute:\ncd {clinvk.folder} && claude --resume={FIRST}\n"

    def test_interactive_requires_a_terminal_and_rejects_a_prompt_and_prompt_flags(self, clinvk: Clinvk) -> None:
        begun(clinvk)
        for arguments in (
            [],
            ["a prompt"],
            ["--timeout", "3"],
            ["--system-prompt", "x"],
            ["--sandbox-mode", "read-only"],
            ["--approval-mode", "none"],
        ):
            done = clinvk.run("resume", "-i", "--last", *arguments)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert len(clinvk.agent.calls()) == 1

    def test_interactive_refuses_to_drop_a_configured_sandbox_mode_without_a_flag(self, clinvk: Clinvk) -> None:
        begun(clinvk)
        clinvk.settings("unified_flags: {sandbox_mode: read-only}")
        done = clinvk.run("resume", "-i", "--last", "--dry-run")
        assert done.returncode == 1
        assert "--sandbox-mode default" in done.stderr
        assert clinvk.run("resume", "-i", "--last", "--dry-run", "--sandbox-mode", "default").returncode == 0

    def test_interactive_resume_of_a_fork_requires_a_prompt_first(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        fork = clinvk.run("sessions", "fork", session).stdout.strip()
        assert clinvk.run("resume", "-i", fork, "--dry-run").returncode == 4
        clinvk.agent.play(claude_says("x", session=SECOND))
        assert clinvk.run("resume", fork, "branch off").returncode == 0
        assert "--fork-session" in clinvk.agent.calls()[-1].argv
        assert f"--resume={SECOND}" in clinvk.run("resume", "-i", fork, "--dry-run").stdout


class TestPicker:
    @pytest.fixture
    def sessions(self, clinvk: Clinvk) -> list[str]:
        """Three sessions, the newest first, with titles."""
        titles = (("oldest", SECOND), ("middle one", FIRST), ("newest", SECOND))
        return [begun(clinvk, handle, title=title) for title, handle in titles][::-1]

    @pytest.mark.parametrize(
        ("searched", "key", "chosen"), [("", b"1", 0), ("", b"\x1b[B", 1), ("", b"\x1b[A", 2), ("OLD", ENTER, 2)]
    )
    def test_key_chooses_a_session_and_the_picker_asks_for_the_prompt(
        self, clinvk: Clinvk, sessions: list[str], searched: str, key: bytes, chosen: int
    ) -> None:
        with on_terminal(clinvk, "-o", "json", "resume") as terminal:
            terminal.until("q: leave")
            if searched:
                terminal.type(b"/")
                terminal.until("search: ")
                terminal.type(f"{searched}\r".encode())
                terminal.until("q: leave")
            terminal.type(key)
            if key.startswith(ESCAPE):
                terminal.until("q: leave")
                terminal.type(ENTER)
            terminal.until("prompt for claude")
            assert terminal.present_mode() == terminal.mode
            terminal.type(b"typed here\r")
            assert terminal.ended() == 0
        assert sessions[chosen] in terminal.plain().decode()
        assert clinvk.prompts[-1] == "typed here"

    @pytest.mark.parametrize("flags", [(), ("-o", "text")])
    def test_empty_prompt_opens_the_agents_program(
        self, clinvk: Clinvk, sessions: list[str], flags: tuple[str, ...]
    ) -> None:
        clinvk.agent.play([touch(clinvk.folder / "up")], reads=False)
        with on_terminal(clinvk, "resume", *flags) as terminal:
            terminal.until("q: leave")
            terminal.type(b"1")
            terminal.until("prompt for claude")
            terminal.type(ENTER)
            assert terminal.ended() == 0
        assert "-p" not in clinvk.agent.calls()[-1].argv

    @pytest.mark.first(3)
    @pytest.mark.parametrize("leave", [ESCAPE, b"q", signal.SIGINT, b"\x04", signal.SIGTERM, signal.SIGHUP])
    def test_leaving_the_picker_exits_with_7_and_restores_the_terminal(
        self, clinvk: Clinvk, sessions: list[str], leave: bytes | signal.Signals
    ) -> None:
        with on_terminal(clinvk, "resume") as terminal:
            terminal.until("q: leave")
            assert terminal.present_mode() != terminal.mode
            if isinstance(leave, bytes):
                terminal.type(leave)
            else:
                terminal.process.send_signal(leave)
            assert terminal.ended() == 7
            assert terminal.present_mode() == terminal.mode
        assert len(clinvk.agent.calls()) == 3

    def test_here_lists_only_sessions_of_this_directory_and_a_prompt_skips_the_list(
        self, clinvk: Clinvk, sessions: list[str]
    ) -> None:
        (clinvk.folder / "there").mkdir()
        begun(clinvk, FIRST, folder="there")
        with on_terminal(clinvk, "resume", "--here") as terminal:
            assert "there" not in terminal.until("q: leave")
            terminal.type(ESCAPE)
            assert terminal.ended() == 7
        with on_terminal(clinvk, "resume", "--here", "go on") as terminal:
            assert terminal.ended() == 0
        assert "continuing “newest” (" in terminal.plain().decode()
        assert f"session {sessions[0][:8]}" in terminal.plain().decode()

    def test_picker_without_sessions_exits_with_4(self, clinvk: Clinvk) -> None:
        with on_terminal(clinvk, "resume") as terminal:
            assert terminal.ended() == 4
        assert b"no session to resume" in terminal.read

    def test_dumb_terminal_exits_with_4(self, clinvk: Clinvk, sessions: list[str]) -> None:
        with on_terminal(clinvk, "resume", env={"TERM": "dumb"}) as terminal:
            assert terminal.ended() == 4


class TestStoreThatCannotBeUsed:
    @pytest.fixture
    def damaged(self, clinvk: Clinvk) -> Path:
        file = Path(clinvk.agent.env["HOME"]) / ".clinvk" / "clinvk.db"
        file.parent.mkdir()
        file.write_bytes(b"this is no database" * 1000)
        return file

    @pytest.mark.parametrize(
        "arguments", [["hello"], ["--new", "hello"], ["-c", "hello"], ["resume", "--last", "x"], ["sessions", "list"]]
    )
    def test_damaged_database_exits_with_1_and_starts_no_agent(
        self, clinvk: Clinvk, damaged: Path, arguments: list[str]
    ) -> None:
        done = clinvk.run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert str(damaged) in done.stderr
        assert damaged.read_bytes() == b"this is no database" * 1000
        assert clinvk.agent.calls() == []

    def test_ephemeral_prompt_runs_with_a_warning_despite_a_damaged_database(
        self, clinvk: Clinvk, damaged: Path
    ) -> None:
        clinvk.agent.play(claude_says("x"))
        done = clinvk.run("--ephemeral", "-o", "text", "hello")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "x\n", 1)
        assert "not recorded" in done.stderr
        assert len(clinvk.agent.calls()) == 1


def test_ephemeral_prompt_stores_none_of_its_text(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("an answer like no other"))
    assert clinvk.run("--ephemeral", "a question like no other").returncode == 0
    home = Path(clinvk.agent.env["HOME"]) / ".clinvk"
    kept = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert b"like no other" not in kept
    assert json.loads(clinvk.run("sessions", "list", "--json").stdout)["total"] == 0


def test_concurrent_commands_store_each_session_once(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    started = [
        subprocess.Popen(
            [clinvk.command, "--new", f"prompt {number}"],
            cwd=clinvk.folder,
            env=clinvk.agent.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(12)
    ]
    told = [process.communicate(timeout=50) for process in started]
    assert [(process.returncode, stderr) for process, (_, stderr) in zip(started, told, strict=True)] == [(0, b"")] * 12
    printed = sorted(json.loads(stdout)["session_id"] for stdout, _ in told)
    kept = json.loads(clinvk.run("sessions", "list", "--json", "-n", "0").stdout)["sessions"]
    assert sorted(session["id"] for session in kept) == printed
    assert {session["status"] for session in kept} == {"completed"}
    assert os.listdir(Path(clinvk.agent.env["HOME"]) / ".clinvk" / "owners") == []
