"""`codex app-server`: recordings of the CLI, and handwritten lines."""

from collections.abc import Iterable

import msgspec
import pytest
from msgspec.structs import replace

from clinvk.backends.base import Delivery, Host, Launch, ProtocolNotSupported, describe
from clinvk.backends.codex import Codex
from clinvk.types.choices import SANDBOX_MODES, SandboxMode
from clinvk.types.events import (
    Context,
    Event,
    PlanStep,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.record import Resume
from clinvk.types.request import Image, RunRequest
from recordings import RECORDINGS, expected_events

EXPECTED = expected_events("codex_server")
HELLO = RunRequest(prompt="hello", backend="codex", workdir="/p")
THREAD = "01a211ec-d7c5-7781-8ba4-a81b539a5c93"
HOST = Host(env={"HOME": "/h"})
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
NOISE = (
    b"not json",
    b"{",
    b"[]",
    b"null",
    b'{"method":"of/the/future","params":{"threadId":"x"}}',
    b'{"method":"item/completed","params":{"threadId":"x","item":{"type":"ofTheFuture","id":"y"}}}',
    b'{"method":"item/agentMessage/delta","params":{"threadId":"of-another","itemId":"m","delta":"not ours"}}',
    b'{"id":99,"result":{}}',
    b'{"id":"x","error":{"message":"m"}}',
    b"\xff\xfe",
    b'{"method":"error","x":' + b"[" * 100_000,
)


def launched(request: RunRequest, resume: Resume | None = None, host: Host = HOST) -> Launch:
    return Codex().launch(request, resume, host)


class Message(msgspec.Struct):
    """A message to the process."""

    id: int | str | None = None
    method: str = ""
    params: dict[str, object] = {}
    result: dict[str, object] | None = None
    error: dict[str, object] | None = None
    trace: dict[str, str] | None = None


class Process:
    """A channel and its output."""

    def __init__(self, request: RunRequest = HELLO, resume: Resume | None = None, runs: int = 1) -> None:
        self.channel = Codex().channel(launched(request, resume), Host())
        self.resumes = resume is not None
        self.events: list[tuple[str, Event]] = []
        self.sent = b"".join(self.channel.start(f"r{index}", request, resume) for index in range(runs))

    def receive(self, *lines: bytes) -> "Process":
        for line in lines:
            self.take(self.channel.receive(line))
        return self

    def take(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if isinstance(delivery, bytes):
                self.sent += delivery
            elif isinstance(event := delivery[1], Event):
                self.events.append((delivery[0], event))

    def begin_turn(self, *early: bytes) -> "Process":
        """It has answered, and begun a turn; `early` is said of the thread before that."""
        answers: list[object] = [{"thread": {"id": "t"}, "model": "m"}, {"turn": TURN}]
        if self.resumes:
            answers.insert(0, {"config": {}})
        *threads, turn = [answer(number, result) for number, result in enumerate(answers, 1)]
        return self.receive(answer(0), *threads, *early, turn, note("turn/started", turn=TURN))

    @property
    def told(self) -> list[Event]:
        return [event for _, event in self.events]

    @property
    def said(self) -> list[Message]:
        return [msgspec.json.decode(line, type=Message) for line in self.sent.splitlines()]

    def asked(self, method: str) -> dict[str, object]:
        """Return the parameters of a request."""
        return next(message.params for message in self.said if message.method == method)


TURN = {"id": "u", "status": "inProgress"}
STARTED = RunStarted("m", "t")


def answer(number: int, result: object = None) -> bytes:
    return msgspec.json.encode({"id": number, "result": result or {}})


def refusal(number: int, message: str) -> bytes:
    return msgspec.json.encode({"id": number, "error": {"code": -32600, "message": message}})


def note(method: str, **params: object) -> bytes:
    return msgspec.json.encode({"method": method, "params": {"threadId": "t", **params}})


def item(kind: str, **fields: object) -> bytes:
    return note(f"item/{kind}", item={"id": "i", **fields})


def ended(status: str = "completed", error: object = None) -> bytes:
    return note("turn/completed", turn={"id": "u", "status": status, "error": error})


def tokens(total: int, last: int) -> bytes:
    usage = {"total": {"inputTokens": total, "cachedInputTokens": 3}, "last": {"inputTokens": last}}
    return note("thread/tokenUsage/updated", tokenUsage=usage)


def played(case: str, request: RunRequest = HELLO, resume: Resume | None = None, noise: bool = False) -> list[Event]:
    """Feed a recording to a channel, with noise between its lines once it has answered."""
    process = Process(request, resume)
    first, *rest = (RECORDINGS / "codex_server" / f"{case}.stdout").read_bytes().splitlines()
    process.receive(first)
    for line in rest:
        process.receive(*(NOISE if noise else ()), line)
    return process.told


def text(*pieces: str) -> list[Event]:
    return [TextDelta(piece) for piece in pieces]


RESUMED = {"resume": Resume(THREAD), "fork": Resume(THREAD, fork=True), "resume_missing": Resume(THREAD)}


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("case", EXPECTED)
def test_recording_is_decoded_to_the_expected_events(case: str, noise: bool) -> None:
    request = replace(HELLO, output_schema=SCHEMA) if case == "schema" else HELLO
    assert played(case, request, RESUMED.get(case), noise) == EXPECTED[case]


def test_threads_of_one_process_are_kept_separate() -> None:
    process = Process(runs=2)
    process.receive(*(RECORDINGS / "codex_server" / "two_threads.stdout").read_bytes().splitlines())
    for run, usage in (("r0", Usage(100, 30, 20, 10)), ("r1", Usage(7, 5, 6, 4))):
        events = [event for of, event in process.events if of == run]
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "word1 word2 word3 word4"
        assert isinstance(events[0], RunStarted)
        assert events[-1] == RunFinished(usage=usage, turns=1, context=Context(usage.total_tokens, 258400))


def turned(*lines: bytes) -> list[Event]:
    """Return the events of a turn in progress, without its start."""
    first, *rest = Process().begin_turn().receive(*lines).told
    assert first == STARTED
    return rest


def delta(text: str, item: str = "i") -> bytes:
    return note("item/agentMessage/delta", itemId=item, delta=text)


def thought(text: str, part: int = 0, item: str = "i") -> bytes:
    return note("item/reasoning/summaryTextDelta", itemId=item, delta=text, summaryIndex=part)


def trouble(message: str, will_retry: bool, details: str | None = None, info: object = None) -> bytes:
    error = {"message": message, "additionalDetails": details, "codexErrorInfo": info}
    return note("error", error=error, willRetry=will_retry)


def test_message_without_deltas_is_emitted_in_full() -> None:
    assert turned(item("completed", type="agentMessage", text="all")) == [TextDelta("all")]


def test_full_message_adds_only_text_missing_from_its_deltas() -> None:
    full = item("completed", type="agentMessage", text="one two")
    assert turned(delta("one"), full) == [TextDelta("one"), TextDelta(" two")]


@pytest.mark.parametrize(
    ("fields", "events"),
    [
        (
            {"type": "mcpToolCall", "server": "s", "tool": "t", "arguments": [1], "status": "completed",
             "result": {"content": [], "structuredContent": {"a": 1}}},
            (ToolCall("i", "mcp__s__t", {"arguments": [1]}), ToolResult("i", '{"a":1}')),
        ),
        (
            {"type": "mcpToolCall", "server": "s", "tool": "t", "arguments": None, "status": "failed",
             "error": {"message": "needs approval"}},
            (ToolCall("i", "mcp__s__t", {}), ToolResult("i", "needs approval", is_error=True)),
        ),
        (
            {"type": "collabAgentToolCall", "tool": "spawnAgent", "prompt": "look", "receiverThreadIds": ["t1"],
             "agentsStates": {"t1": {"status": "running"}}, "status": "failed"},
            (
                ToolCall("i", "spawn_agent", {"prompt": "look", "receiver_thread_ids": ["t1"]}),
                ToolResult("i", '{"t1":{"status":"running"}}', is_error=True),
            ),
        ),
        (
            {"type": "webSearch", "query": "clinvk", "action": {"type": "search"}},
            (ToolCall("i", "web_search", {"query": "clinvk"}), ToolResult("i", '{"type":"search"}')),
        ),
        (
            {"type": "commandExecution", "command": "x", "aggregatedOutput": "", "status": "declined"},
            (ToolCall("i", "command_execution", {"command": "x"}), ToolResult("i", "declined", is_error=True)),
        ),
        (
            {"type": "commandExecution", "command": "x", "aggregatedOutput": "", "exitCode": 1, "status": "failed"},
            (ToolCall("i", "command_execution", {"command": "x"}), ToolResult("i", "exit code 1", is_error=True)),
        ),
    ],
)  # fmt: skip
def test_tool_without_a_start_is_reported_at_its_end(fields: dict[str, object], events: tuple[Event, ...]) -> None:
    assert turned(item("completed", **{"id": "i", **fields})) == [*events]


@pytest.mark.parametrize(
    ("exit_code", "stderr", "ending"),
    [
        (
            1,
            b"WARNING: proceeding, even though we could not create PATH aliases: x\nError finding codex home: y\n",
            RunFailed("agent_failed", "Error finding codex home: y", 1),
        ),
        (
            1,
            b"Could not create otel exporter: OTel headers helper requires x\nError: Model provider `x` not found",
            RunFailed("agent_failed", "Error: Model provider `x` not found", 1),
        ),
        (
            2,
            b"error: unrecognized subcommand 'app-server'\n\nUsage: codex [OPTIONS]\n",
            RunFailed("agent_failed", "error: unrecognized subcommand 'app-server'", 2),
        ),
        (1, b"Error: thread/fork failed: invalid paginated history lineage for 01a2: missing source rollout", None),
    ],
)
def test_exit_before_the_greeting_is_answered_fails_with_the_reason(
    exit_code: int, stderr: bytes, ending: RunFailed | None
) -> None:
    process = Process()
    [(_, told)] = [delivery for delivery in process.channel.closed(exit_code, stderr) if isinstance(delivery, tuple)]
    if ending:
        assert told == ending
    else:
        assert isinstance(told, RunFailed)
        assert told.code == "session_not_found"


def test_messages_are_separated_by_a_blank_line() -> None:
    first = item("completed", type="agentMessage", text="one")
    assert turned(delta("one"), first, delta("two", "j")) == [TextDelta("one"), TextDelta("\n\ntwo")]


def test_different_message_after_a_reconnect_is_separate() -> None:
    lines = (delta("one two"), trouble("Reconnecting... 1/5", will_retry=True), delta("one", "j"), delta(" three", "j"))
    assert [event for event in turned(*lines) if isinstance(event, TextDelta)] == text("one two", "\n\none three")


def test_message_after_a_reconnect_and_a_command_is_separate() -> None:
    cut = trouble("Reconnecting... 1/5", will_retry=True)
    command = item("completed", type="commandExecution", command="ls", exitCode=0, status="completed")
    told = turned(delta("Let me"), cut, command, delta("Let me see", "j"))
    assert [event for event in told if isinstance(event, TextDelta)] == text("Let me", "\n\nLet me see")


CUT_OFF = trouble("Reconnecting... 1/5", will_retry=True)


def said(text: str, item_id: str) -> tuple[bytes, bytes]:
    """A message in a piece, and in full."""
    return delta(text, item_id), note("item/completed", item={"type": "agentMessage", "id": item_id, "text": text})


def answered(*lines: bytes) -> str:
    return "".join(event.text for event in turned(*lines) if isinstance(event, TextDelta))


def test_complete_message_is_not_repeated_after_a_reconnect() -> None:
    assert answered(*said("one", "1"), CUT_OFF, *said("one", "2")) == "one"
    assert answered(*said("one", "1"), CUT_OFF, *said("one", "2")[1:]) == "one"
    assert answered(*said("one", "1"), CUT_OFF, *said("one", "2"), CUT_OFF, *said("one", "3")) == "one"


def test_several_complete_messages_are_not_repeated_after_a_reconnect() -> None:
    first = (*said("one", "1"), *said("two", "2"), delta("thr", "3"), CUT_OFF)
    assert answered(*first, *said("one", "4"), *said("two", "5"), *said("three", "6")) == "one\n\ntwo\n\nthree"
    assert answered(*first, *said("one", "4"), CUT_OFF, *said("one", "5"), *said("two", "6")) == "one\n\ntwo\n\nthr"
    assert answered(*first, *said("on", "4"), *said("two", "5")) == "one\n\ntwo\n\nthr"
    assert answered(*said("one", "1"), CUT_OFF, *said("one", "2"), *said("more", "3")) == "one\n\nmore"


def test_message_that_differs_from_a_complete_one_is_separate() -> None:
    assert answered(*said("one", "1"), CUT_OFF, *said("two", "2")) == "one\n\ntwo"


def test_same_text_from_a_later_request_is_not_a_repetition() -> None:
    lines = (*said("one", "1"), tokens(10, 10), CUT_OFF, *said("one", "2"))
    assert answered(*lines) == "one\n\none"


def test_complete_summary_is_not_repeated_after_a_reconnect() -> None:
    def whole(item_id: str) -> bytes:
        return note("item/completed", item={"type": "reasoning", "id": item_id, "summary": ["a", "b"]})

    lines = (thought("a", item="1"), thought("b", 1, item="1"), whole("1"), CUT_OFF, thought("a", item="2"), whole("2"))
    told = turned(*lines, thought("c", item="3"))
    assert [event.text for event in told if isinstance(event, ThinkingDelta)] == ["a", "\n\nb", "\n\nc"]


def test_summary_parts_are_separated_by_a_blank_line_and_emitted_once() -> None:
    whole = item("completed", type="reasoning", summary=["a b", "c"])
    lines = (thought("a "), thought("b"), thought("c", part=1), whole, thought("d", item="j"))
    assert turned(*lines) == [ThinkingDelta(text) for text in ("a ", "b", "\n\nc", "\n\nd")]


def test_summary_without_deltas_is_emitted_in_full() -> None:
    assert turned(item("completed", type="reasoning", summary=["a", "b"])) == [ThinkingDelta("a\n\nb")]


def test_warning_before_the_turn_is_emitted_after_run_started() -> None:
    process = Process().receive(answer(0), answer(1, {"thread": {"id": "t"}, "model": "m"}))
    process.receive(note("warning", message="odd"))
    assert process.told == []
    assert process.receive(note("turn/started", turn=TURN)).told == [STARTED, Progress("warning", "odd")]


def test_usage_excludes_earlier_turns_of_a_resumed_thread() -> None:
    process = Process().receive(answer(0), answer(1, {"thread": {"id": "t"}, "model": "m"}), tokens(100, 100))
    process.receive(note("turn/started", turn=TURN), tokens(130, 30), ended())
    assert process.told == [STARTED, RunFinished(usage=Usage(input_tokens=30), turns=1)]


def test_turn_without_a_start_notification_starts_with_its_first_delta() -> None:
    process = Process().receive(answer(0), answer(1, {"thread": {"id": "t"}, "model": "m"}))
    assert process.receive(delta("one")).told == [STARTED, TextDelta("one")]


def test_late_items_of_an_earlier_turn_are_not_part_of_the_next() -> None:
    """A command that the agent left running ends during the next turn, or before that is said to have begun."""
    process = again(staying().receive(ended()))
    late = item("completed", type="commandExecution", command="sleep 9", status="completed")
    of_the_former = late.replace(b'"threadId":"t"', b'"threadId":"t","turnId":"u"')
    process.receive(of_the_former, answer(3, {"turn": {"id": "v"}}), note("turn/started", turn={"id": "v"}))
    process.receive(of_the_former, delta("one").replace(b'"threadId":"t"', b'"threadId":"t","turnId":"v"'))
    assert process.events[2:] == [("r1", STARTED), ("r1", TextDelta("one"))]


def test_end_of_another_turn_is_ignored() -> None:
    other = note("turn/completed", turn={"id": "another", "status": "completed"})
    assert turned(other, delta("one"), ended()) == [TextDelta("one"), RunFinished()]


def test_plan_is_emitted_as_progress() -> None:
    steps = [{"step": "one", "status": "completed"}, {"step": "two", "status": "inProgress"}]
    assert turned(note("turn/plan/updated", plan=steps)) == [
        Progress("plan", "1/2 done; next: two", (PlanStep("one", "completed"), PlanStep("two", "in_progress")))
    ]


def test_last_line_of_the_output_of_a_running_command_is_emitted_as_progress() -> None:
    texts = ("one\ntwo\n", "\n", "3" * 300)
    printed = (note("item/commandExecution/outputDelta", itemId="i", delta=text) for text in texts)
    assert turned(*printed) == [Progress("output", "two"), Progress("output", "3" * 200)]


def test_web_search_is_emitted_once_its_query_is_known() -> None:
    empty = item("started", type="webSearch", query="")
    done = item("completed", type="webSearch", query="q", action={"type": "search"})
    assert turned(empty, done) == [ToolCall("i", "web_search", {"query": "q"}), ToolResult("i", '{"type":"search"}')]


def test_repeated_usage_notifications_count_once() -> None:
    told = (tokens(150, 50), tokens(150, 50), tokens(170, 20), ended())
    ending = Process(resume=Resume(THREAD)).begin_turn().receive(*told).told[-1]
    assert ending == RunFinished(usage=Usage(input_tokens=70, cached_tokens=0), turns=2)


def test_turn_without_usage_notifications_has_no_usage() -> None:
    assert turned(ended()) == [RunFinished()]


@pytest.mark.parametrize(
    ("message", "info", "code"),
    [
        ("odd", None, "agent_failed"),
        ("odd", "usageLimitExceeded", "agent_rate_limited"),
        ("flagged", "cyberPolicy", "agent_rejected"),
        ("flagged", "bioPolicy", "agent_rejected"),
        ("odd", "serverOverloaded", "agent_overloaded"),
        ("odd", "contextWindowExceeded", "agent_rejected"),
        ("odd", {"httpConnectionFailed": {"httpStatusCode": None}}, "agent_overloaded"),
        ("odd", {"ofTheFuture": {"httpStatusCode": 429}}, "agent_rate_limited"),
        ("odd", {"activeTurnNotSteerable": {"turnKind": "review"}}, "agent_failed"),
        ("odd", {"ofTheFuture": "x"}, "agent_failed"),
        ("odd", {}, "agent_failed"),
        ("unexpected status 429 Too Many Requests", "other", "agent_rate_limited"),
    ],
)
def test_failure_code_follows_message_or_kind(message: str, info: object, code: str) -> None:
    failure = {"message": message, "codexErrorInfo": info}
    assert turned(ended("failed", failure)) == [RunFailed(code, message, 1)]


@pytest.mark.parametrize("info", ["unauthorized", {"responseStreamConnectionFailed": {"httpStatusCode": 403}}])
def test_authentication_error_says_how_to_log_in(info: object) -> None:
    message = "codex is not logged in, or not allowed (run codex login, or set CODEX_API_KEY): odd"
    failure = {"message": "odd", "codexErrorInfo": info}
    assert turned(ended("failed", failure)) == [RunFailed("agent_unauthenticated", message, 1)]


def test_failure_keeps_token_usage() -> None:
    *_, ending = turned(tokens(30, 30), ended("failed", {"message": "odd"}))
    assert ending == RunFailed("agent_failed", "odd", 1, Usage(input_tokens=30, cached_tokens=3))


@pytest.mark.parametrize(("told", "reason"), [("max_output_tokens", "max_tokens"), ("content_filter", "refusal")])
def test_incomplete_response_ends_with_its_stop_reason(told: str, reason: str) -> None:
    failure = {"message": f"Incomplete response returned, reason: {told}", "codexErrorInfo": "other"}
    *said, ending = turned(delta("wo"), trouble(failure["message"], will_retry=False), ended("failed", failure))
    assert said == text("wo")
    assert isinstance(ending, RunFinished)
    assert ending.stop_reason == reason


def test_incomplete_response_with_an_unknown_reason_is_a_failure() -> None:
    message = "Incomplete response returned, reason: one of tomorrow"
    assert turned(ended("failed", {"message": message})) == [RunFailed("agent_failed", message, 1)]


@pytest.mark.parametrize(("resume", "used"), [(None, Usage(90, cached_tokens=3)), (Resume(THREAD), Usage(50))])
def test_usage_of_an_incomplete_response_comes_from_the_total(resume: Resume | None, used: Usage) -> None:
    """The reported last request is that of an earlier turn."""
    earlier = (tokens(40, 40),) if resume else ()
    told = Process(resume=resume).begin_turn(*earlier).receive(tokens(90, 25), ended()).told
    assert told[-1] == RunFinished(usage=used, turns=1)


def test_failed_turn_without_an_error_uses_the_last_reported_error() -> None:
    assert turned(trouble("odd", will_retry=False), ended("failed")) == [RunFailed("agent_failed", "odd", 1)]


COMMAND = (
    item("started", type="commandExecution", command="ls"),
    item("completed", type="commandExecution", command="ls", exitCode=0, status="completed"),
)
SEARCH = item("completed", type="webSearch", query="q", action={"type": "search"})
COMPACTION = (item("started", type="contextCompaction"), tokens(5, 5), item("completed", type="contextCompaction"))
INTERRUPTED = ended("interrupted")


def limited(most: int, *lines: bytes) -> tuple[list[Event], bool]:
    """Return the events of a turn with that number of requests, and whether the turn was interrupted."""
    process = Process(replace(HELLO, max_turns=most)).begin_turn().receive(*lines)
    assert [message.method for message in process.said].count("turn/interrupt") <= 1
    return process.told[1:], process.said[-1] == Message(3, "turn/interrupt", {"threadId": "t", "turnId": "u"})


@pytest.mark.parametrize(
    ("most", "lines"),
    [
        (1, (tokens(10, 10),)),
        (2, (tokens(10, 10), tokens(20, 10))),
        (2, (tokens(10, 10), *COMPACTION[:2], COMPACTION[2], tokens(25, 10))),
        (2, (tokens(10, 10), tokens(10, 10), tokens(20, 10))),
        (2, (*COMMAND, tokens(10, 10), tokens(20, 10))),
        (1, (delta("I look."), *COMMAND, tokens(10, 10))),
        (1, (COMMAND[0], tokens(10, 10), COMMAND[1])),
    ],
)
def test_turn_is_interrupted_when_a_request_beyond_max_turns_starts(most: int, lines: tuple[bytes, ...]) -> None:
    """Commands that the sandbox denies report only their tokens."""
    assert not limited(most, *lines[:-1])[1]
    told, is_interrupted = limited(most, *lines, delta("too much", "z"), INTERRUPTED)
    assert is_interrupted
    ending = told[-1]
    assert isinstance(ending, RunFinished)
    assert (ending.stop_reason, ending.turns) == ("max_turns", most)
    assert TextDelta("too much") not in told


@pytest.mark.parametrize("more", [delta("more", "z"), tokens(20, 10), thought("more"), COMMAND[0]])
def test_item_after_the_apparent_answer_ends_the_turn_at_max_turns(more: bytes) -> None:
    lines = (delta("I look."), tokens(10, 10))
    assert not limited(1, *lines)[1]
    told, is_interrupted = limited(1, *lines, more, INTERRUPTED)
    assert is_interrupted
    assert [type(event) for event in told] == [TextDelta, RunFinished]
    assert isinstance(told[-1], RunFinished)
    assert told[-1].stop_reason == "max_turns"


@pytest.mark.parametrize("lines", [(), (SEARCH,), COMPACTION])
def test_answer_of_the_last_allowed_request_is_emitted_in_full(lines: tuple[bytes, ...]) -> None:
    told, is_interrupted = limited(1, *lines, delta("one"), tokens(30, 10), ended())
    assert not is_interrupted
    assert told[-2:] == [TextDelta("one"), RunFinished(usage=Usage(30, cached_tokens=3), turns=1)]


def test_parallel_tools_of_one_request_count_as_one_turn() -> None:
    told, is_interrupted = limited(2, *COMMAND, *(line.replace(b'"i"', b'"j"') for line in COMMAND), tokens(10, 10))
    assert not is_interrupted
    assert [type(event) for event in told] == [ToolCall, ToolResult] * 2


def test_turn_that_ends_before_the_interrupt_finishes_normally() -> None:
    told, is_interrupted = limited(1, tokens(10, 10), ended())
    assert is_interrupted
    assert told == [RunFinished(usage=Usage(10, cached_tokens=3), turns=1)]


def test_turn_with_dropped_output_ends_with_max_turns() -> None:
    told, _ = limited(1, delta("I look."), tokens(10, 10), delta("more", "z"), tokens(20, 10), ended())
    assert told[1:] == [RunFinished("max_turns", usage=Usage(20, cached_tokens=3), turns=2)]


def test_without_usage_a_request_ends_at_the_first_item_after_its_tools() -> None:
    assert not limited(1, *COMMAND)[1]
    for more in (delta("more", "z"), item("started", id="j", type="commandExecution", command="ls")):
        told, is_interrupted = limited(1, *COMMAND, more, INTERRUPTED)
        assert is_interrupted
        assert told[2:] == [RunFinished("max_turns", turns=1)]
    assert limited(2, *COMMAND, delta("one"), ended()) == ([*turned(*COMMAND), TextDelta("one"), RunFinished()], False)


def test_thread_stays_open_after_max_turns() -> None:
    process = staying().receive(ended())
    process.sent = process.channel.start("r1", replace(HELLO, max_turns=1), Resume("t"))
    process.receive(answer(3, {"turn": TURN}), note("turn/started", turn=TURN), counted(7), INTERRUPTED)
    assert [message.method for message in process.said] == ["turn/start", "turn/interrupt"]
    assert isinstance(process.told[-1], RunFinished)
    assert process.channel.release_session("t")


def test_no_events_follow_the_ending() -> None:
    assert turned(ended(), delta("more"), ended("failed")) == [RunFinished()]


def test_no_request_is_sent_before_initialize_is_answered() -> None:
    process = Process()
    assert [message.method for message in process.said] == ["initialize"]
    process.receive(note("configWarning", summary="x"))
    assert [message.method for message in process.said] == ["initialize"]
    process.receive(answer(0))
    assert [message.method for message in process.said] == ["initialize", "initialized", "thread/start"]


def test_thread_start_has_the_launch_parameters_and_turn_start_the_prompt() -> None:
    request = replace(HELLO, model="fast", prompt="/x -é\n", ephemeral=True)
    process = Process(request).begin_turn()
    assert process.asked("thread/start") == launched(request).session_params
    assert process.asked("thread/start") == {
        "cwd": "/p",
        "approvalPolicy": "never",
        "model": "gpt-6-luna",
        "ephemeral": True,
    }
    assert process.asked("turn/start") == {"threadId": "t", "input": [{"type": "text", "text": "/x -é\n"}]}


@pytest.mark.parametrize(("fork", "method"), [(False, "thread/resume"), (True, "thread/fork")])
def test_resumed_thread_uses_the_configured_provider(fork: bool, method: str) -> None:
    """By which it has model and effort of the settings too, as with `exec`."""
    for config, provider in (({"model_provider": "own"}, "own"), ({"model_provider": None}, "openai"), ({}, "openai")):
        process = Process(replace(HELLO, system_prompt="sys"), Resume(THREAD, fork=fork)).receive(answer(0))
        assert process.asked("config/read") == {"cwd": "/p", "includeLayers": False}
        process.receive(answer(1, {"config": config}), answer(2, {"thread": {"id": "t"}}))
        params = process.asked(method)
        assert (params["threadId"], params["modelProvider"], params["cwd"]) == (THREAD, provider, "/p")
        assert process.asked("turn/start")["input"] == [
            {"type": "text", "text": "<system_prompt>\nsys\n</system_prompt>\n\nhello"}
        ]


def test_turn_start_has_images_before_the_prompt_and_the_schema() -> None:
    request = replace(HELLO, images=(Image("image/png", b"png"),), output_schema=SCHEMA)
    params = Process(request).begin_turn().asked("turn/start")
    assert params["input"] == [
        {"type": "image", "url": "data:image/png;base64,cG5n"},
        {"type": "text", "text": "hello"},
    ]
    assert params["outputSchema"] == SCHEMA
    assert launched(request).files == {}


def test_added_directories_are_writable_unless_read_only() -> None:
    request = replace(HELLO, add_dirs=("/d", "/e"), sandbox_mode="workspace")
    process = Process(request).begin_turn()
    assert process.asked("thread/start")["runtimeWorkspaceRoots"] == ["/p", "/d", "/e"]
    assert '"experimentalApi":true' in process.sent.decode()
    assert "experimentalApi" not in Process().sent.decode()
    assert "runtimeWorkspaceRoots" not in launched(replace(request, sandbox_mode="read-only")).session_params


@pytest.mark.parametrize("folder", ["~/.codex", "/p/.codex", "/.codex"])
@pytest.mark.parametrize("sandbox", SANDBOX_MODES)
def test_rules_cannot_leave_a_sandbox_that_denies_reading_them(folder: str, sandbox: SandboxMode) -> None:
    host = Host(env={"HOME": "/h"}, find=lambda place, pattern: [pattern] if place == f"{folder}/rules" else [])
    launch = Codex().launch(replace(HELLO, sandbox_mode=sandbox), None, host)
    is_confined = sandbox in ("read-only", "workspace")
    assert ('default_permissions="clinvk"' in launch.argv) == is_confined
    assert ("sandbox" in launch.session_params) == (sandbox == "full")
    profile = next((word for word in launch.argv if word.startswith("permissions.clinvk=")), "")
    assert ('"/h/.codex/rules" = "deny"' in profile) == is_confined


def test_workspace_with_rules_has_the_network_of_the_settings() -> None:
    config = b"[sandbox_workspace_write]\nnetwork_access = true\n"
    host = Host(
        env={"HOME": "/h"},
        read={"~/.codex/config.toml": config}.get,
        find=lambda place, pattern: [pattern] if place == "~/.codex/rules" else [],
    )
    profiles = {
        sandbox: next(
            word
            for word in Codex().launch(replace(HELLO, sandbox_mode=sandbox), None, host).argv
            if word.startswith("permissions.clinvk=")
        )
        for sandbox in ("read-only", "workspace")
    }
    assert '"network" = {enabled = true}' in profiles["workspace"]
    assert "network" not in profiles["read-only"]


def test_dry_run_shows_the_sandbox_parameters() -> None:
    shown = describe(launched(replace(HELLO, sandbox_mode="read-only"), Resume(THREAD)), HELLO)
    assert "codex app-server --config" in shown
    assert f'"sandbox":"read-only","threadId":"{THREAD}"}}' in shown
    assert shown.endswith("# prompt: 5 bytes on stdin")


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("item/commandExecution/requestApproval", {"decision": "decline"}),
        ("item/fileChange/requestApproval", {"decision": "decline"}),
        ("mcpServer/elicitation/request", {"action": "cancel"}),
    ],
)
@pytest.mark.parametrize("number", [0, 7, "a"])
def test_approval_requests_are_declined(method: str, result: dict[str, object], number: int | str) -> None:
    """The numbers of Codex's requests may equal the numbers of clinvk's."""
    process = Process().begin_turn()
    process.receive(msgspec.json.encode({"id": number, "method": method, "params": {"threadId": "t"}}))
    assert process.said[-1] == Message(id=number, result=result)


def test_unknown_server_request_gets_an_error_response() -> None:
    process = Process().begin_turn().receive(b'{"id":3,"method":"item/tool/call","params":{}}')
    assert process.said[-1].error == {"code": -32601, "message": "clinvk does not answer item/tool/call"}


def test_rejected_thread_fails_only_its_own_run() -> None:
    process = Process(runs=2).receive(answer(0), refusal(1, "failed to load configuration: x"))
    assert process.events == [("r0", RunFailed("agent_failed", "failed to load configuration: x", 1))]
    process.receive(answer(2, {"thread": {"id": "t"}}), note("turn/started", turn=TURN))
    assert process.events[-1] == ("r1", RunStarted(None, "t"))


def test_interrupt_uses_the_turn_id() -> None:
    process = Process().begin_turn()
    told = process.channel.interrupt("r0")
    assert told
    assert msgspec.json.decode(told, type=Message).params == {"threadId": "t", "turnId": "u"}
    assert process.channel.interrupt("another") is None


def test_run_interrupted_before_its_thread_starts_no_turn() -> None:
    process = Process()
    assert process.channel.interrupt("r0") == b""
    process.receive(answer(0), answer(1, {"thread": {"id": "t"}, "model": "m"}))
    assert process.told == [RunFailed("cancelled", "codex was interrupted before the turn", 1)]
    assert not [message for message in process.said if message.method == "turn/start"]


def test_interrupt_before_the_turn_id_is_known_is_sent_later() -> None:
    process = Process().receive(answer(0), answer(1, {"thread": {"id": "t"}, "model": "m"}))
    assert process.channel.interrupt("r0") == b""
    process.receive(answer(2, {"turn": {"id": "u"}}))
    assert process.asked("turn/interrupt") == {"threadId": "t", "turnId": "u"}


@pytest.mark.parametrize("answered_first", [True, False])
def test_interrupt_before_turn_started_is_sent_again_after_it(answered_first: bool) -> None:
    """Codex reports "no active turn to interrupt" until the turn has begun, sometimes before its answer."""
    process = Process().receive(answer(0), answer(1, {"thread": {"id": "t"}, "model": "m"}))
    process.channel.interrupt("r0")
    told = [answer(2, {"turn": TURN}), note("turn/started", turn=TURN)]
    first, last = told if answered_first else reversed(told)
    process.receive(first)
    process.sent = b""
    process.receive(refusal(3, "no active turn to interrupt"), last, ended("interrupted"))
    assert process.asked("turn/interrupt") == {"threadId": "t", "turnId": "u"}
    assert process.told == [STARTED, RunFailed("cancelled", "codex interrupted the turn", 1)]


def of_agent(method: str, status: str = "inProgress", turn: str = "w") -> bytes:
    """Return the messages about the turn of a sub-agent, which has a separate thread."""
    params = {"threadId": "a", "turn": {"id": turn, "rootTurnId": "u", "status": status}}
    return msgspec.json.encode({"method": f"turn/{method}", "params": params})


END_OF_AGENT = Message(3, "turn/interrupt", {"threadId": "a", "turnId": "w"})


def test_subagent_still_running_at_the_end_of_its_run_is_interrupted() -> None:
    process = staying().receive(of_agent("started"), ended())
    assert process.told == [STARTED, RunFinished()]
    assert process.said[-1] == END_OF_AGENT


def test_subagent_that_starts_a_turn_after_its_run_is_interrupted() -> None:
    process = staying().receive(of_agent("started"), of_agent("completed", "completed"), ended())
    assert process.said[-1].method == "turn/start"
    process.receive(of_agent("started"))
    assert process.said[-1] == END_OF_AGENT


def test_turns_without_a_run_or_subagent_are_not_interrupted() -> None:
    process = staying().receive(ended(), of_agent("started", turn="u"), of_agent("started").replace(b'"u"', b"null"))
    assert process.said[-1].method == "turn/start"


def test_turn_with_an_authentication_error_is_interrupted() -> None:
    """Codex would ask its model again, and the process may stay."""
    process = staying(ephemeral=True).receive(trouble("Reconnecting... 1/5", will_retry=True, details="status 401"))
    assert isinstance(process.told[-1], RunFailed)
    assert process.said[-1] == Message(3, "turn/interrupt", {"threadId": "t", "turnId": "u"})


@pytest.mark.parametrize("result", [{}, {"turn": {"id": 5}}, {"thread": {"id": "t"}, "model": 5}, []])
@pytest.mark.parametrize("number", [1, 2])
def test_invalid_response_fails_its_run(number: int, result: object) -> None:
    process = Process().receive(answer(0))
    if number == 2:
        process.receive(answer(1, {"thread": {"id": "t"}, "model": "m"}))
    process.receive(msgspec.json.encode({"id": number, "result": result}))
    assert process.told == [RunFailed("agent_failed", "codex gave an answer that makes no sense", 1)]


def test_error_response_without_a_message_fails_its_run() -> None:
    process = Process().receive(answer(0), b'{"id":1,"error":{"code":-32600,"message":null}}')
    assert isinstance(process.told[-1], RunFailed)


def test_tools_of_a_run_have_its_thread_id_in_the_environment() -> None:
    process = Process().begin_turn()
    assert process.channel.tool_variable("r0") == ("CODEX_THREAD_ID", "t")
    process.receive(ended())
    assert process.channel.tool_variable("r0") is None


def test_process_killed_before_it_answers_is_reported_as_crashed() -> None:
    process = Process()
    process.take(process.channel.closed(137, b""))
    assert [event.code for event in process.told if isinstance(event, RunFailed)] == ["agent_crashed"]


def test_refused_greeting_raises_not_spoken() -> None:
    with pytest.raises(ProtocolNotSupported):
        Process().receive(refusal(0, "no such method"))


def test_banner_is_ignored() -> None:
    assert Process().receive(b"Usage: codex [OPTIONS] [PROMPT]", b'"text"', b"").events == []


def test_killed_process_keeps_the_reported_usage() -> None:
    process = Process().begin_turn().receive(tokens(57, 57))
    process.take(process.channel.closed(143, b""))
    ending = process.told[-1]
    assert isinstance(ending, RunFailed)
    assert ending.usage == Usage(57, cached_tokens=3)


def test_exit_after_the_first_response_is_a_crash() -> None:
    process = Process().begin_turn()
    process.take(process.channel.closed(137, b""))
    (_, ending) = process.told
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code, ending.usage) == ("agent_crashed", 137, None)
    assert list(process.channel.closed(137, b"")) == []


@pytest.mark.parametrize(
    "noise",
    [
        b"\x1b[2m2026-01-02T03:04:05.678Z\x1b[0m \x1b[31mERROR\x1b[0m codex_app_server: x\n",
        b"/srv/a project is marked as untrusted in the effective configuration. To load project-local config, hooks,\n",
    ],
)
def test_complaint_is_the_last_stderr_line_that_is_not_noise(noise: bytes) -> None:
    assert Process().channel.stderr_message(b"the login is odd\n" + noise) == "the login is odd"


def staying(ephemeral: bool = False) -> Process:
    """A process that is kept, in the middle of a turn."""
    process = Process()
    kept = launched(replace(HELLO, ephemeral=ephemeral)).warm
    assert kept
    process.channel = Codex().channel(kept, Host())
    process.sent = process.channel.start("r0", HELLO, None)
    return process.begin_turn()


def failed() -> bytes:
    return note("turn/completed", turn={"id": "u", "status": "failed", "error": {"message": "no"}})


CLOSING = [Message(3, "thread/archive", {"threadId": "t"}), Message(4, "thread/unarchive", {"threadId": "t"})]
"""Both at once: a process that goes in between leaves the thread in the archive."""


def again(process: Process, fork: bool = False) -> Process:
    """Another run continues the thread."""
    process.sent = process.channel.start("r1", replace(HELLO, prompt="again"), Resume("t", fork=fork))
    return process


def counted(total: int) -> bytes:
    usage = {"total": {"inputTokens": total}, "last": {"inputTokens": 7}}
    return note("thread/tokenUsage/updated", tokenUsage=usage)


def test_thread_of_a_failed_turn_is_closed_before_the_run_ends() -> None:
    process = staying().receive(failed())
    assert process.told == [STARTED]
    assert process.said[-2:] == CLOSING
    process.receive(answer(3))
    assert process.told == [STARTED]
    process.receive(answer(4))
    (_, ending) = process.told
    assert isinstance(ending, RunFailed)
    assert process.channel.release_session("t") is None


@pytest.mark.parametrize("refused", [3, 4])
def test_run_ends_although_its_thread_cannot_be_closed(refused: int) -> None:
    process = staying().receive(failed())
    for number in (3, 4):
        process.receive(refusal(number, "no") if number == refused else answer(number))
    (_, ending) = process.told
    assert isinstance(ending, RunFailed)


def test_thread_opened_for_an_interrupted_run_is_closed_before_the_run_ends() -> None:
    process = staying().receive(ended())
    process.sent = process.channel.start("r1", HELLO, Resume(THREAD))
    assert process.channel.interrupt("r1") == b""
    process.receive(answer(3, {"config": {}}), answer(4, {"thread": {"id": THREAD}, "model": "m"}))
    assert [message.method for message in process.said[2:]] == ["thread/archive", "thread/unarchive"]
    assert process.events[2:] == []
    assert process.channel.release_session(THREAD) == b""
    process.receive(answer(5), answer(6))
    assert process.events[2:] == [("r1", RunFailed("cancelled", "codex was interrupted before the turn", 1))]
    assert process.channel.release_session(THREAD) is None


def test_thread_of_a_rejected_turn_is_closed_before_the_run_ends() -> None:
    process = again(staying().receive(ended())).receive(refusal(3, "no"))
    assert [message.method for message in process.said] == ["turn/start", "thread/archive", "thread/unarchive"]
    assert process.events[2:] == []
    process.receive(answer(4), answer(5))
    assert process.events[2:] == [("r1", RunFailed("agent_failed", "no", 1))]


def test_thread_that_failed_to_resume_is_not_closed() -> None:
    process = staying().receive(ended())
    process.sent = process.channel.start("r1", HELLO, Resume(THREAD))
    process.receive(answer(3, {"config": {}}), refusal(4, "no"))
    assert [message.method for message in process.said] == ["config/read", "thread/resume"]
    assert process.events[2:] == [("r1", RunFailed("agent_failed", "no", 1))]


def test_next_turn_of_an_open_thread_starts_without_resuming_it() -> None:
    process = again(staying().receive(counted(100), ended()))
    assert [message.method for message in process.said] == ["turn/start"]
    assert process.asked("turn/start")["threadId"] == "t"
    process.receive(answer(3, {"turn": TURN}), note("turn/started", turn=TURN), counted(150), ended())
    ending = RunFinished(usage=Usage(input_tokens=50, output_tokens=0), turns=1)
    assert process.events[2:] == [("r1", STARTED), ("r1", ending)]


def test_fork_of_an_open_thread_leaves_it_open() -> None:
    process = staying().receive(ended())
    process.sent = process.channel.start("r1", HELLO, Resume("t", fork=True))
    assert [message.method for message in process.said] == ["config/read"]
    assert process.channel.release_session("t")


def test_thread_is_closed_on_request() -> None:
    process = staying().receive(ended())
    assert process.told == [STARTED, RunFinished()]
    process.sent = process.channel.release_session("t") or b""
    assert process.said == CLOSING
    assert process.channel.release_session("t") == b"", "it is at it"
    process.receive(answer(3))
    assert process.channel.release_session("t") == b""
    process.receive(answer(4))
    assert process.channel.release_session("t") is None


def test_thread_with_a_running_turn_is_not_closed() -> None:
    assert staying().channel.release_session("t") is None


@pytest.mark.parametrize("fork", [False, True])
def test_a_run_waits_until_its_thread_is_closed(fork: bool) -> None:
    process = staying().receive(ended())
    assert process.channel.release_session("t")
    again(process, fork)
    process.receive(answer(3))
    assert process.sent == b""
    process.receive(answer(4))
    assert [message.method for message in process.said] == ["config/read"]


ARCHIVED = f"session {THREAD} is archived. Run `codex unarchive {THREAD}` to unarchive it first."
"""What Codex 0.169.0 says of one."""


def refused(number: int, *, runs: int = 1, fork: bool = False) -> Process:
    """A process that was asked to go on with a thread in the archive, and says so."""
    process = Process(resume=Resume(THREAD, fork=fork), runs=runs).receive(answer(0))
    for index in range(runs):
        process.receive(answer(1 + index, {"config": {}}))
    process.sent = b""
    return process.receive(*(refusal(number + index, ARCHIVED) for index in range(runs)))


@pytest.mark.parametrize("found", [answer(3, {"thread": {"id": THREAD}}), refusal(3, "no archived rollout found")])
@pytest.mark.parametrize(("fork", "method"), [(False, "thread/resume"), (True, "thread/fork")])
def test_archived_thread_is_unarchived_and_requested_again(fork: bool, method: str, found: bytes) -> None:
    """Another process may have unarchived the thread meanwhile."""
    process = refused(2, fork=fork)
    assert process.said == [Message(3, "thread/unarchive", {"threadId": THREAD})]
    process.receive(found, answer(4, {"thread": {"id": "t"}, "model": "m"}))
    assert [message.method for message in process.said] == ["thread/unarchive", method, "turn/start"]
    assert process.told == []


def test_thread_that_cannot_be_unarchived_fails_its_run() -> None:
    process = refused(2).receive(refusal(3, "the disk is full"), refusal(4, ARCHIVED))
    assert process.told == [RunFailed("agent_failed", ARCHIVED, 1)]


def test_archived_thread_is_unarchived_once_for_concurrent_runs() -> None:
    process = refused(3, runs=2, fork=True)
    assert process.said == [Message(5, "thread/unarchive", {"threadId": THREAD})]
    process.receive(answer(5))
    assert [message.method for message in process.said[1:]] == ["thread/fork", "thread/fork"]


def test_run_interrupted_during_unarchive_starts_no_turn() -> None:
    process = refused(2)
    assert process.channel.interrupt("r0") == b""
    process.receive(answer(3), answer(4, {"thread": {"id": "t"}, "model": "m"}))
    assert process.told == [RunFailed("cancelled", "codex was interrupted before the turn", 1)]


def test_thread_unarchived_twice_ends_every_waiting_run() -> None:
    process = Process(resume=Resume(THREAD), runs=1)
    kept = launched(HELLO, Resume(THREAD)).warm
    assert kept
    process.channel = Codex().channel(kept, Host())
    for run, fork in (("r0", False), ("r1", True)):
        process.channel.start(run, HELLO, Resume(THREAD, fork=fork))
    process.receive(answer(0), answer(1, {"config": {}}), answer(2, {"config": {}}))
    process.receive(answer(3, {"thread": {"id": THREAD}}), refusal(4, ARCHIVED), refusal(5, "no"))
    process.receive(answer(6), answer(7), answer(8), refusal(9, "no"))
    assert [run for run, event in process.events if isinstance(event, RunFailed)] == ["r0", "r1"]


def test_ephemeral_thread_is_not_closed() -> None:
    process = staying(ephemeral=True).receive(ended())
    assert process.told == [STARTED, RunFinished()]


def test_crash_while_closing_a_thread_keeps_the_ending_of_the_run() -> None:
    process = staying().receive(failed())
    process.take(process.channel.closed(137, b""))
    (_, ending) = process.told
    assert isinstance(ending, RunFailed)
    assert ending.message == "no"


def test_turn_continues_the_trace_of_the_request() -> None:
    trace = {"traceparent": f"00-{1:032x}-{1:016x}-01", "tracestate": "a=1"}
    for given in ({}, trace):
        process = Process(replace(HELLO, trace=given)).begin_turn()
        assert {message.method: message.trace for message in process.said if message.trace} == (
            {"turn/start": trace} if given else {}
        )
