"""The last action of each agent in the live display of several agents."""

import json

from acceptance.command import Clinvk
from acceptance.terminal import on_terminal
from scripted.steps import Step, claude_says, exits, line, stderr, wait_for

RETRY = line(
    '{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"retry_delay_ms":600,"error_status":529,'
    '"error":"overloaded"}'
)


def shown_last(clinvk: Clinvk, told: list[Step], rest: list[Step], text: str) -> str:
    """Run a task whose agent prints a line and then waits; return the display once it shows the text."""
    go = clinvk.folder / "go"
    clinvk.agent.play([*told, wait_for(go), *rest])
    (clinvk.folder / "t.json").write_text(json.dumps([{"backend": "claude", "prompt": "one"}]))
    with on_terminal(clinvk, "parallel", "-f", "t.json", columns=100) as terminal:
        drawn = terminal.until(text)
        go.touch()
        assert terminal.ended() == 0
    return drawn


def test_display_shows_the_end_of_a_long_answer(clinvk: Clinvk) -> None:
    says = claude_says("It begins here " + "and goes on " * 20 + "to 日本語 so far")
    drawn = shown_last(clinvk, says[:4], says[4:], "to 日本語 so far")
    assert "…" in drawn
    assert "It begins here" not in drawn


def test_error_of_a_failed_agent_is_not_repeated_below_the_table(clinvk: Clinvk) -> None:
    clinvk.agent.play([stderr("boom\n"), exits(3)])
    with on_terminal(clinvk, "compare", "--backends", "claude", "one two") as terminal:
        assert terminal.ended() == 1
    assert terminal.screen()[-1].startswith("1 backend: 0 done, 1 failed")
    with on_terminal(clinvk, "compare", "--backends", "claude", "-q", "one two") as terminal:
        assert terminal.ended() == 1
    assert "claude: failed: " in terminal.plain().decode()


def test_display_shows_the_tokens_of_a_running_agent(clinvk: Clinvk) -> None:
    says = claude_says("one", "two")
    shown_last(clinvk, says[:-2], says[-2:], " 17  onetwo")


def test_display_shows_retries_of_the_model_api(clinvk: Clinvk) -> None:
    first, *rest = claude_says("x")
    shown_last(clinvk, [first, RETRY], rest, "retry: the model API answered 529")


def test_display_shows_the_beginning_of_a_tool_call(clinvk: Clinvk) -> None:
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "make " + "all " * 40}}
    first, *rest = claude_says("x")
    told = line(json.dumps({"type": "assistant", "message": {"id": "msg_0", "content": [call]}}))
    shown_last(clinvk, [first, told], rest, "Bash make all all")
