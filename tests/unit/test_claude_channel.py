"""Warm `claude -p`: recordings of 2.1.197, and handwritten lines."""

from pathlib import Path

import msgspec
import pytest

from clinvk.backends.base import Delivery, Host
from clinvk.backends.claude import Claude
from clinvk.backends.claude.flags import message
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, TextDelta, ThinkingDelta, ToolCall, Usage
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

RECORDINGS = Path(__file__).parent / "recordings" / "claude_stream"
HELLO = RunRequest(prompt="hello", backend="claude", workdir="/p")
HANDLE = "01a211ec-d7c5-7781-8ba4-a81b539a5c93"


class Process:
    """A channel and its output."""

    def __init__(self) -> None:
        launch = Claude().launch(HELLO, None, Host()).warm
        assert launch
        self.channel = Claude().channel(launch, Host())
        self.events: list[tuple[str, Event]] = []
        self.sent: list[bytes] = []

    def receive(self, *lines: bytes) -> None:
        for line in lines:
            self.take(*self.channel.receive(line))

    def take(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            if isinstance(delivery, bytes):
                self.sent.append(delivery)
            elif isinstance(event := delivery[1], Event):
                self.events.append((delivery[0], event))

    def play(self, case: str, runs: int) -> None:
        """Receive a recording; each run starts when the previous one has ended."""
        numbers = iter(range(runs))
        self.channel.start(f"r{next(numbers)}", HELLO, None)
        for line in (RECORDINGS / f"{case}.stdout").read_bytes().splitlines():
            ended = len(self.endings)
            self.receive(line)
            if len(self.endings) > ended and (number := next(numbers, None)) is not None:
                self.channel.start(f"r{number}", HELLO, None)

    @property
    def endings(self) -> list[RunFinished | RunFailed]:
        return [event for _, event in self.events if isinstance(event, RunFinished | RunFailed)]

    def of(self, run: str) -> list[Event]:
        return [event for told, event in self.events if told == run]


def test_each_turn_has_its_own_events_tokens_and_cost() -> None:
    """The process counts from its start: 14823 tokens, then 29683."""
    process = Process()
    process.play("turns", 3)
    assert [type(event) for event in process.of("r0")] == [RunStarted, TextDelta, TextDelta, RunFinished]
    assert [type(event) for event in process.of("r1")] == [
        RunStarted,
        *[ThinkingDelta] * 2,
        *[TextDelta] * 2,
        RunFinished,
    ]
    assert process.endings[0].usage == Usage(14823, 2, 7)
    assert process.endings[1].usage == Usage(14860, 4, 7)
    assert process.endings[1].cost_usd == 0.0743685


def test_failed_turn_in_a_shared_process_reports_its_error_and_no_cost() -> None:
    process = Process()
    process.play("turns", 3)
    failed = process.endings[2]
    assert isinstance(failed, RunFailed)
    assert (failed.code, failed.exit_code, failed.cost_usd) == ("agent_rejected", 1, 0.0)


def test_interrupted_turn_does_not_affect_the_next_turn() -> None:
    process = Process()
    process.play("interrupted", 2)
    assert any(isinstance(event, ToolCall) for event in process.of("r0"))
    assert [ending.code if isinstance(ending, RunFailed) else "" for ending in process.endings] == ["cancelled", ""]
    assert not any(isinstance(event, ToolCall) for event in process.of("r1"))


def test_resumed_conversation_uses_the_system_prompt_of_the_process() -> None:
    """For a resumed conversation, 2.1.332 would send the first system prompt."""
    greeting = msgspec.json.decode(Process().channel.greet())
    assert greeting["request"] == {"subtype": "initialize", "systemPromptSnapshot": False}
    launch = Claude().launch(HELLO, Resume(HANDLE), Host())
    assert "--input-format=stream-json" in launch.argv
    sent = Claude().channel(launch, Host()).start("r0", HELLO, Resume(HANDLE)).splitlines()
    assert [msgspec.json.decode(line) for line in sent] == [greeting, msgspec.json.decode(message(HELLO))]


def test_interrupt_applies_only_to_the_current_run() -> None:
    process = Process()
    process.channel.start("r0", HELLO, None)
    told = process.channel.interrupt("r0")
    assert told
    assert msgspec.json.decode(told)["request"] == {"subtype": "interrupt"}
    assert process.channel.interrupt("another") is None


def test_permission_request_is_denied() -> None:
    process = Process()
    process.channel.start("r0", HELLO, None)
    process.receive(b'{"type":"control_request","request_id":"q","request":{"subtype":"can_use_tool","input":{}}}')
    answer = msgspec.json.decode(process.sent[0])["response"]
    assert (answer["request_id"], answer["response"]["behavior"]) == ("q", "deny")


def test_unknown_control_request_gets_an_error_response() -> None:
    process = Process()
    process.receive(b'{"type":"control_request","request_id":"q","request":{"subtype":"of_the_future"}}')
    assert msgspec.json.decode(process.sent[0])["response"]["subtype"] == "error"


def test_no_events_are_emitted_before_a_run_starts() -> None:
    process = Process()
    process.receive(
        b'{"type":"control_response","response":{}}', b'{"type":"system","subtype":"init","session_id":"x"}'
    )
    assert process.events == []


@pytest.mark.parametrize("line", [b"Welcome", b"[]", b"\xff"])
def test_noise_before_the_first_line_is_ignored(line: bytes) -> None:
    process = Process()
    process.channel.start("r0", HELLO, None)
    process.receive(line)
    assert process.endings == []


def test_exit_without_output_fails_with_stderr() -> None:
    process = Process()
    process.channel.start("r0", HELLO, None)
    process.take(*process.channel.closed(1, b"no such flag\n"))
    assert [ending.message for ending in process.endings if isinstance(ending, RunFailed)] == [
        "claude exited with code 1 before it reported a result: no such flag"
    ]


@pytest.mark.parametrize("heard", [(), (b'{"type":"control_response","response":{}}',)])
def test_killed_process_fails_its_run(heard: tuple[bytes, ...]) -> None:
    process = Process()
    process.channel.start("r0", HELLO, None)
    process.receive(*heard)
    process.take(*process.channel.closed(137, b""))
    assert [ending.code for ending in process.endings if isinstance(ending, RunFailed)] == ["agent_crashed"]


def test_result_with_an_invalid_field_ends_the_run() -> None:
    process = Process()
    process.channel.start("r0", HELLO, None)
    counts = {"m": {"inputTokens": 1, "cacheReadInputTokens": "many"}}
    told = {"type": "result", "subtype": "success", "num_turns": 1, "result": "x", "modelUsage": counts}
    process.receive(msgspec.json.encode(told))
    assert process.endings == [RunFinished(usage=Usage(), turns=1)]


def test_process_killed_between_runs_fails_no_run() -> None:
    process = Process()
    process.play("turns", 3)
    told = len(process.events)
    process.take(*process.channel.closed(137, b""))
    assert len(process.events) == told


def test_warm_launch_differs_only_in_the_input_format() -> None:
    request = msgspec.structs.replace(HELLO, sandbox_mode="read-only", system_prompt="s", model="opus")
    launch = Claude().launch(request, None, Host())
    assert launch.warm
    assert [word for word in launch.warm.argv if word not in launch.argv] == ["--input-format=stream-json"]
    assert [word for word in launch.argv if word not in launch.warm.argv] == []
    assert launch.warm.files == launch.files
    resumed = Claude().launch(request, Resume(HANDLE), Host())
    assert resumed.warm
    assert resumed.warm.argv == resumed.argv
    assert [word for word in resumed.argv if word not in launch.warm.argv] == [f"--resume={HANDLE}"]
    assert resumed.warm.resume_args == (f"--resume={HANDLE}",)


@pytest.mark.parametrize(
    "request_",
    [
        msgspec.structs.replace(HELLO, ephemeral=True),
        msgspec.structs.replace(HELLO, max_turns=3),
        msgspec.structs.replace(HELLO, output_schema={"type": "object"}),
    ],
)
def test_options_of_a_whole_process_limit_it_to_one_run(request_: RunRequest) -> None:
    launch = Claude().launch(request_, None, Host()).warm
    assert launch
    assert launch.max_runs == 1
