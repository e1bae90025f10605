"""Denied tools of Claude Code are reported once, right before the ending."""

from collections.abc import Iterable

import msgspec
import pytest

from clinvk.backends.base import Host
from clinvk.backends.claude import Claude
from clinvk.backends.claude.approvals import Approvals
from clinvk.backends.claude.channel import ConversationChannel
from clinvk.backends.claude.permissions import NO_SHELL
from clinvk.types.choices import SandboxMode
from clinvk.types.events import Event, Progress, RunFailed
from clinvk.types.request import RunRequest

INIT = b'{"type":"system","subtype":"init","session_id":"s","model":"m"}'
HOW = "approval_mode and sandbox_mode say what is allowed"


def result(*denials: object, **fields: object) -> bytes:
    told = {"type": "result", "subtype": "success", "num_turns": 1, "result": "Done.", "permission_denials": denials}
    return msgspec.json.encode({**told, **fields})


def denial(number: int, tool: str) -> dict[str, str]:
    return {"tool_use_id": f"toolu_{number}", "tool_name": tool}


def turns(*turns: Iterable[bytes]) -> list[list[Event]]:
    """Decode several turns of one process; return the events of each."""
    channel = ConversationChannel()
    told: list[list[Event]] = []
    for lines in turns:
        channel.start("run", RunRequest(prompt="x"), None)
        deliveries = [delivery for line in lines for delivery in channel.receive(line)]
        told.append([delivery[1] for delivery in deliveries if isinstance(delivery[1], Event)])
    return told


def denials_told(events: list[Event]) -> list[tuple[str, str]]:
    told = [event for event in events if isinstance(event, Progress) and event.stage == "denied"]
    return [(event.message, event.advice) for event in told]


def test_denial_report_names_each_tool_once_and_counts_actions() -> None:
    (events,) = turns([INIT, result(denial(1, "Write"), denial(2, "Bash"), denial(3, "Write"))])
    assert denials_told(events) == [("3 actions were denied: Write, Bash", HOW)]


def test_failed_run_reports_denials() -> None:
    (events,) = turns([INIT, result(denial(1, "Write"), subtype="error_during_execution", is_error=True)])
    assert len(denials_told(events)) == 1
    assert isinstance(events[-1], RunFailed)


@pytest.mark.parametrize("counts", ["the turn", "the process"])
def test_each_turn_reports_only_its_own_denials(counts: str) -> None:
    first, last = denial(1, "Write"), denial(2, "Bash")
    before = (first,) if counts == "the process" else ()
    told = turns([INIT, result(first)], [result(*before)], [result(*before, last)])
    assert [denials_told(events) for events in told] == [
        [("1 action was denied: Write", HOW)],
        [],
        [("1 action was denied: Bash", HOW)],
    ]


@pytest.mark.parametrize(("asked", "how"), [("toolu_1", ""), ("toolu_2", HOW)])
def test_action_that_the_user_was_asked_about_is_not_reported_as_denied_by_the_modes(asked: str, how: str) -> None:
    channel = ConversationChannel(approvals=Approvals(Host()))
    channel.start("run", RunRequest(prompt="x"), None)
    request: dict[str, object] = {"subtype": "can_use_tool", "tool_name": "Bash", "tool_use_id": asked}
    question = msgspec.json.encode({"type": "control_request", "request_id": "q", "request": request})
    lines = INIT, question, result(denial(1, "Bash"))
    deliveries = [delivery for line in lines for delivery in channel.receive(line)]
    told = [delivery[1] for delivery in deliveries if isinstance(delivery[1], Event)]
    assert denials_told(told) == [("1 action was denied: Bash", how)]


@pytest.mark.parametrize("denials", [(), ({"tool_use_id": "t"},), ("odd",), (None,)])
def test_denials_without_a_tool_name_are_not_reported(denials: tuple[object, ...]) -> None:
    (events,) = turns([INIT, result(*denials)])
    assert denials_told(events) == []


@pytest.mark.parametrize(
    ("sandbox", "commands", "is_warned"),
    [("workspace", (), True), ("workspace", ("bwrap", "socat"), False), ("read-only", (), False), (None, (), False)],
)
@pytest.mark.parametrize("is_warm", [False, True])
def test_run_in_workspace_without_a_shell_says_what_to_install(
    sandbox: SandboxMode | None, commands: tuple[str, ...], is_warned: bool, is_warm: bool
) -> None:
    host = Host(commands=frozenset(commands))
    request = RunRequest(prompt="x", sandbox_mode=sandbox)
    launch = Claude().launch(request, None, host)
    if is_warm:
        assert launch.warm
        launch = launch.warm
    channel = Claude().channel(launch, host)
    channel.start("run", request, None)
    _, *more = (delivery[1] for delivery in channel.receive(INIT) if not isinstance(delivery, bytes))
    install = "; install: apt install bubblewrap socat (Debian, Ubuntu), dnf install bubblewrap socat (Fedora)"
    assert more == ([Progress("hint", NO_SHELL + install)] if is_warned else [])
