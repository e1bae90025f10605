"""Progress on stderr: more on a terminal than for a script."""

import json
import shlex

import pytest

from acceptance.command import Clinvk
from acceptance.server import in_both_ways
from acceptance.terminal import on_terminal
from scripted.steps import Step, claude_says, line, wait_for
from standin.document import JSON

RETRY = line(
    '{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"retry_delay_ms":600,"error_status":529,'
    '"error":"overloaded"}'
)
SUMMARIZED = line('{"type":"system","subtype":"compact_boundary"}')
AGAIN = "retry: the model API answered 529 (overloaded); retry 1 of 10 in 0.6 s"
DENIED = "clinvk: denied: Bash: pip install requests; echo"
HINT = 'clinvk: to be asked: clinvk resume {} --approval-mode ask "go on"'
DENIED_EVENT: JSON = {
    "stage": "denied",
    "message": "1 action was denied: Bash: pip install requests; echo",
    "advice": "approval_mode and sandbox_mode say what is allowed",
}


def denied() -> list[Step]:
    """Answer, and name a denial in the result."""
    *said, result = claude_says("Done.")
    denials: JSON = [
        {"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": {"command": "pip install requests; echo"}}
    ]
    return [*said, line(json.dumps({**json.loads(str(result["line"])), "permission_denials": denials}))]


def newest_session(clinvk: Clinvk) -> str:
    return json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"][0]["id"]


def played(clinvk: Clinvk) -> None:
    first, *rest = denied()
    clinvk.agent.play([first, RETRY, SUMMARIZED, *rest])


@in_both_ways
@pytest.mark.parametrize("form", ["text", "json"])
def test_terminal_shows_retries_warnings_and_denials(clinvk: Clinvk, form: str) -> None:
    played(clinvk)
    with on_terminal(
        clinvk, "-o", form, "--new", "--", "hello", env={"NO_COLOR": "1", "TERM": "dumb"}, columns=200
    ) as terminal:
        assert terminal.ended() == 0
    told = [line for line in terminal.plain().decode().splitlines() if line.startswith("clinvk: ")]
    assert told == [
        f"clinvk: {AGAIN}",
        "clinvk: warning: claude summarized the conversation so far",
        DENIED,
    ]  # without a hint: the agent could have asked


@in_both_ways
@pytest.mark.parametrize("form", ["text", "json"])
def test_script_sees_only_denials_on_stderr(clinvk: Clinvk, form: str) -> None:
    played(clinvk)
    done = clinvk.run("-o", form, "--new", "hello")
    assert (done.returncode, done.stderr) == (0, f"{DENIED}\n{HINT.format(newest_session(clinvk)[:8])}\n")


@pytest.mark.parametrize(
    ("modes", "flags"),
    [
        ((), "--approval-mode ask"),
        (("--sandbox-mode", "workspace"), "--sandbox-mode full --approval-mode ask"),
    ],
)
def test_hint_after_a_denial_continues_the_conversation(clinvk: Clinvk, modes: tuple[str, ...], flags: str) -> None:
    clinvk.agent.play(denied())
    hint = clinvk.run("--new", *modes, "hello").stderr.rpartition(": clinvk ")[2]
    session = json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"][0]
    assert hint == f'resume {session["id"][:8]} {flags} "go on"\n'
    done = clinvk.run("--dry-run", *shlex.split(hint))
    assert f"--resume={session['backend_session_id']}" in done.stdout, done.stderr


def test_hint_after_a_denial_without_a_session_is_a_flag(clinvk: Clinvk) -> None:
    played(clinvk)
    assert clinvk.run("--ephemeral", "hello").stderr.endswith("\nclinvk: to be asked: --approval-mode ask\n")


def test_stream_json_reports_a_denial_as_an_event(clinvk: Clinvk) -> None:
    played(clinvk)
    done = clinvk.run("-o", "stream-json", "--new", "hello")
    assert done.stderr == ""
    *_, denial, _, ending = map(json.loads, done.stdout.splitlines())
    assert (denial["type"], denial["content"]) == ("progress", DENIED_EVENT)
    assert ending["type"] == "done"


def test_note_stands_above_the_unfinished_block(clinvk: Clinvk) -> None:
    go = clinvk.folder / "go"
    says = claude_says("Unfinish", "ed")
    clinvk.agent.play([*says[:4], wait_for(go), RETRY, wait_for(clinvk.folder / "on"), *says[4:]])
    with on_terminal(clinvk, "--new", "hello world", columns=120) as terminal:
        terminal.until("Unfinish")
        go.touch()
        terminal.until("retry 1 of 10 in 0.6 s")
        terminal.until("Unfinish")
        (clinvk.folder / "on").touch()
        assert terminal.ended() == 0
    head, note, *_ = terminal.screen()
    assert (head.startswith("clinvk: retry: "), note) == (True, "Unfinished")
