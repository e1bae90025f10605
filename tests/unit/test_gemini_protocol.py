"""`gemini --acp`: recordings of 0.61.0, and handwritten lines."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from clinvk.backends.base import Delivery, Host, Launch, ProtocolNotSupported
from clinvk.backends.gemini import Gemini
from clinvk.types.errors import NotResumable
from clinvk.types.events import (
    Event,
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

RECORDINGS = Path(__file__).parent / "recordings" / "gemini_acp"
HOST = Host(env={"HOME": "/h"})
GREETED = b'{"id":0,"result":{"protocolVersion":1}}'
HELLO = RunRequest(prompt="hello", backend="gemini", workdir="/p", model="gemini-2.5-flash", thinking=True)
NOISE = (
    b"not json",
    b"{",
    b"[]",
    b"\xff",
    b'{"jsonrpc":"2.0","method":"of/the/future","params":{}}',
    b'{"id":99,"result":{}}',
)


def kept(request: RunRequest, resume: Resume | None = None, host: Host = HOST) -> Launch | None:
    return Gemini().launch(request, resume, host).warm


class Process:
    """A channel and its output; `record` is the CLI's record of its only conversation."""

    def __init__(self, record: bytearray | None = None) -> None:
        launch = kept(HELLO)
        assert launch
        self._record = bytearray() if record is None else record
        self.most_read = self.reads = 0
        host = Host(find=lambda folder, pattern: ["/record"], read_range=self._part)
        self.channel = Gemini().channel(launch, host)
        self.events: list[tuple[str, Event]] = []
        self.sent = self.channel.greet()

    def _part(self, path: str, start: int, size: int) -> bytes:
        self.most_read = max(self.most_read, len(self._record[start : start + size]))
        self.reads += 1
        return bytes(self._record[start : start + size])

    def start(self, run: str, handle: str | None = None, request: RunRequest = HELLO) -> None:
        self.sent += self.channel.start(run, request, Resume(handle) if handle else None)

    def receive(self, *lines: bytes) -> "Process":
        for line in lines:
            self.take(*self.channel.receive(line))
        return self

    def take(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            if isinstance(delivery, bytes):
                self.sent += delivery
            elif isinstance(event := delivery[1], Event):
                self.events.append((delivery[0], event))

    def play(self, case: str, runs: int, noise: bool = False) -> "Process":
        """Receive a recording; each run continues the conversation of the previous run after its end."""
        numbers = iter(range(runs))
        self.start(f"r{next(numbers)}")
        for line in (RECORDINGS / f"{case}.stdout").read_bytes().splitlines():
            ended = len(self.endings)
            self.receive(*(NOISE if noise else ()), line)
            if len(self.endings) > ended and (number := next(numbers, None)) is not None:
                self.start(f"r{number}", self.session)
        return self

    def begin_session(self) -> "Process":
        """The process has answered, and begun a session."""
        self.start("r0")
        return self.receive(GREETED, b'{"id":1,"result":{"sessionId":"s","models":{"currentModelId":"m"}}}')

    @property
    def session(self) -> str:
        return next(event.backend_session_id or "" for _, event in self.events if isinstance(event, RunStarted))

    @property
    def endings(self) -> list[RunFinished | RunFailed]:
        return [event for _, event in self.events if isinstance(event, RunFinished | RunFailed)]

    @property
    def asked(self) -> list[str]:
        return [msgspec.json.decode(line).get("method", "") for line in self.sent.splitlines()]

    def of(self, run: str) -> list[Event]:
        return [event for told, event in self.events if told == run]


@pytest.mark.parametrize("noise", [False, True])
def test_each_turn_has_its_own_events(noise: bool) -> None:
    process = Process().play("turns", 4, noise)
    assert [type(event) for event in process.of("r0")] == [
        RunStarted,
        *[ThinkingDelta] * 2,
        *[TextDelta] * 2,
        RunFinished,
    ]
    assert process.of("r1") == [
        RunStarted("gemini-2.5-flash", process.session, ("memory", "memory show")),
        TextDelta("word1 "),
        TextDelta("word2"),
        RunFinished("end_turn", Usage(6795, 2)),
    ]


def test_model_api_failure_has_the_codes_of_a_dedicated_process() -> None:
    process = Process().play("turns", 4)
    failures = [ending for ending in process.endings if isinstance(ending, RunFailed)]
    assert [(failed.code, failed.exit_code) for failed in failures] == [
        ("agent_rejected", 1),
        ("agent_unauthenticated", 1),
    ]
    assert isinstance(process.of("r2")[0], RunStarted)


def test_tool_calls_have_a_name_and_the_displayed_input() -> None:
    process = Process().play("tools", 2)
    calls = [event for _, event in process.events if isinstance(event, ToolCall)]
    assert [call.name for call in calls] == ["run_shell_command", "write_file"]
    assert calls[0].input == {"command": "echo hi"}
    results = [event for _, event in process.events if isinstance(event, ToolResult)]
    assert [result.id for result in results] == [call.id for call in calls]


def test_interrupted_turn_ends_and_the_next_turn_is_separate() -> None:
    process = Process().play("interrupted", 2)
    assert [type(ending) for ending in process.endings] == [RunFailed, RunFinished]
    assert not [event for event in process.of("r1") if isinstance(event, ToolCall | ToolResult)]


def test_concurrent_sessions_do_not_mix() -> None:
    process = Process()
    process.start("r0")
    process.start("r1")
    process.receive(*(RECORDINGS / "two_sessions.stdout").read_bytes().splitlines())
    for run in ("r0", "r1"):
        assert "".join(event.text for event in process.of(run) if isinstance(event, TextDelta)) == "word1 word2 word3"
        assert isinstance(process.of(run)[-1], RunFinished)


def test_no_request_precedes_the_initialize_response() -> None:
    process = Process()
    process.start("r0")
    assert process.asked == ["initialize"]
    process.receive(GREETED)
    assert process.asked == ["initialize", "session/new"]


def test_sessions_are_created_one_at_a_time() -> None:
    process = Process()
    for run in ("r0", "r1", "r2"):
        process.start(run)
    process.receive(GREETED)
    assert process.asked.count("session/new") == 1
    process.receive(b'{"id":1,"result":{"sessionId":"a"}}')
    assert process.asked.count("session/new") == 2
    process.receive(b'{"id":2,"error":{"code":1,"message":"no"}}')
    assert process.asked.count("session/new") == 3


def test_session_without_an_id_fails_only_its_run() -> None:
    process = Process().begin_session()
    process.start("r1")
    process.receive(b'{"id":3,"result":{}}', said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    assert process.of("r1") == [RunFailed("agent_failed", "gemini opened a session without an id", exit_code=1)]
    assert isinstance(process.of("r0")[-1], RunFinished)


def test_unknown_session_is_not_resumable() -> None:
    with pytest.raises(NotResumable):
        Process().start("r0", "01a211ec-d7c5-7781-8ba4-a81b539a5c93")


def test_run_that_is_not_resumable_is_not_registered() -> None:
    process = Process().begin_session()
    with pytest.raises(NotResumable):
        process.start("r1", "01a211ec-d7c5-7781-8ba4-a81b539a5c93")
    assert process.channel.interrupt("r1") is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":2,"result":{"stopReason":5}}',
        b'{"id":2,"result":"done"}',
        b'{"id":2,"error":{"code":"ENOENT","message":"no"}}',
    ],
)
def test_invalid_response_fails_its_run(line: bytes) -> None:
    """Nothing else would."""
    process = Process().begin_session().receive(line)
    assert process.endings == [RunFailed("agent_failed", "the agent gave an answer that makes no sense", exit_code=1)]


@pytest.mark.parametrize("meta", [b"null", b"5", b'{"quota":null}', b'{"quota":{"token_count":{"input_tokens":"7"}}}'])
def test_turn_without_readable_token_counts_has_no_usage(meta: bytes) -> None:
    end = b'{"id":2,"result":{"stopReason":"end_turn","_meta":%b}}'
    assert Process().begin_session().receive(said(), end % meta).endings == [RunFinished("end_turn")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"details": "Directory does not exist: /x"}, "Internal error: Directory does not exist: /x"),
        ([{"code": "invalid_type"}], "Internal error"),
        ({"details": 5}, "Internal error"),
    ],
)
def test_internal_error_reports_its_details(data: object, said: str) -> None:
    error = {"code": -32603, "message": "Internal error", "data": data}
    process = Process()
    process.start("r0")
    process.receive(GREETED, msgspec.json.encode({"id": 1, "error": error}))
    assert process.endings == [RunFailed("agent_failed", said, exit_code=1)]


def test_malformed_permission_request_is_cancelled() -> None:
    tool = b'{"toolCallId":"write_file__1","locations":[{"path":null}]}'
    question = b'{"id":7,"method":"session/request_permission","params":{"sessionId":"s","toolCall":%b}}'
    process = Process().begin_session().receive(question % tool)
    assert msgspec.json.decode(process.sent.splitlines()[-1])["result"] == {"outcome": {"outcome": "cancelled"}}


def test_permission_request_is_denied_and_the_tool_call_is_reported() -> None:
    process = Process().begin_session()
    tool = {"toolCallId": "write_file__1", "kind": "edit", "title": "t", "locations": [{"path": "/p/x"}]}
    params = {"sessionId": "s", "toolCall": tool, "options": [{"optionId": "proceed_once", "kind": "allow_once"}]}
    process.receive(msgspec.json.encode({"id": 7, "method": "session/request_permission", "params": params}))
    assert msgspec.json.decode(process.sent.splitlines()[-1])["result"] == {"outcome": {"outcome": "cancelled"}}
    assert process.receive(said()).of("r0")[1:] == [
        ToolCall("write_file__1", "write_file", {"file_path": "/p/x"}),
        Progress("denied", "1 action was denied: t"),
        ToolResult("write_file__1", "not permitted", is_error=True),
        TextDelta("word"),
    ]


def test_unknown_request_gets_an_error_response() -> None:
    process = Process().begin_session().receive(b'{"id":7,"method":"fs/read_text_file","params":{"sessionId":"s"}}')
    assert msgspec.json.decode(process.sent.splitlines()[-1])["error"]["code"] == -32601


def test_mode_update_is_not_part_of_the_answer() -> None:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "[MODE_UPDATE] autoEdit"}}
    note = {"method": "session/update", "params": {"sessionId": "s", "update": update}}
    process = Process().begin_session().receive(msgspec.json.encode(note))
    assert not [event for event in process.of("r0") if isinstance(event, TextDelta)]


def test_turn_without_an_answer_fails() -> None:
    process = Process().begin_session().receive(b'{"id":2,"result":{"stopReason":"end_turn"}}')
    assert isinstance(process.endings[0], RunFailed)


def test_loop_fails_as_in_a_dedicated_process() -> None:
    process = Process().begin_session().receive(b'{"id":2,"result":{"stopReason":"max_turn_requests"}}')
    assert process.endings == [RunFailed("agent_failed", "Loop detected, stopping execution", exit_code=1)]


@pytest.mark.parametrize(
    ("code", "message", "kind", "exit_code"),
    [
        (429, "too many", "agent_rate_limited", 1),
        (500, "internal error", "agent_overloaded", 1),
        (500, "terminated", "agent_failed", 1),
    ],
)
def test_failure_is_reported_as_by_a_dedicated_process(code: int, message: str, kind: str, exit_code: int) -> None:
    failure = msgspec.json.encode({"id": 2, "error": {"code": code, "message": message}})
    assert Process().begin_session().receive(failure).endings == [RunFailed(kind, message, exit_code)]


def test_missing_login_is_reported_as_by_a_dedicated_process() -> None:
    failure = b'{"id":2,"error":{"code":-32000,"message":"Gemini API key is missing"}}'
    (ending,) = Process().begin_session().receive(failure).endings
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_unauthenticated", 41)
    assert ending.message == "gemini is not logged in: run gemini once in a terminal, or set GEMINI_API_KEY"


def written(kind: str, id_: str, *tokens: int) -> bytes:
    """A message, with tokens of input and output, cached ones and all."""
    counts = dict(zip(("input", "output", "cached", "total"), tokens, strict=False))
    return msgspec.json.encode({"id": id_, "type": kind, **({"tokens": counts} if tokens else {})}) + b"\n"


def said(text: str = "word") -> bytes:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    return msgspec.json.encode({"method": "session/update", "params": {"sessionId": "s", "update": update}})


def test_usage_of_each_turn_comes_from_the_session_record() -> None:
    record = bytearray(written("user", "1") + written("gemini", "2") + written("gemini", "2", 100, 20, 20, 130))
    record += written("user", "3") + written("gemini", "4", 50, 5, 0, 55) + b'{"$set":{"messages":[]}}\n'
    process = Process(record).begin_session().receive(said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    process.start("r1", "s")
    record += written("user", "5") + written("gemini", "2", 100, 20, 20, 130) + written("gemini", "6", 7, 1, 0, 8)
    process.receive(said(), b'{"id":3,"result":{"stopReason":"end_turn"}}')
    first, second = Usage(150, 35, 20, 10), Usage(7, 1)
    assert process.endings == [RunFinished(usage=first), RunFinished(usage=second)]


def test_session_record_read_is_limited_to_one_megabyte() -> None:
    """The protocol's own counts have to do then, also of the turns that follow."""
    record = bytearray(written("user", "1") + written("user", "x" * 1024 * 1024) + written("gemini", "2", 100, 20))
    end = b'{"id":%d,"result":{"stopReason":"end_turn","_meta":{"quota":{"token_count":{"input_tokens":7}}}}}'
    process = Process(record).begin_session().receive(said(), end % 2)
    process.start("r1", "s")
    record += written("gemini", "3", 50, 5)
    assert process.receive(said(), end % 3).endings == [RunFinished(usage=Usage(7)), RunFinished(usage=Usage(7))]
    assert (process.most_read, process.reads) == (1024 * 1024, 1)


def test_partial_record_line_is_read_once_complete() -> None:
    half = written("gemini", "2", 100, 20, 20, 130)
    record = bytearray(written("user", "1") + half[:20])
    process = Process(record).begin_session().receive(b'{"id":2,"error":{"code":503,"message":"no"}}')
    process.start("r1", "s")
    record += half[20:]
    process.receive(said(), b'{"id":3,"result":{"stopReason":"end_turn"}}')
    assert [ending.usage for ending in process.endings] == [None, Usage(100, 30, 20, 10)]


@pytest.mark.parametrize("last", [written("user", "3"), written("user", "3") + b'{"$set":{"messages":[]}}\n'])
def test_answer_missing_from_the_record_was_interrupted(last: bytes) -> None:
    """The CLI reports the same end as for a complete answer."""
    record = bytearray(written("user", "1") + written("gemini", "2", 100, 20, 20, 130) + last)
    process = Process(record).begin_session().receive(said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    (ending,) = process.endings
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.usage) == ("agent_failed", Usage(100, 30, 20, 10))
    assert "broke off" in ending.message


def test_other_record_entries_do_not_mark_an_answer_as_interrupted() -> None:
    record = bytearray(written("user", "1") + written("gemini", "2", 100, 20, 20, 130) + written("info", "3"))
    process = Process(record).begin_session().receive(said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    assert process.endings == [RunFinished(usage=Usage(100, 30, 20, 10))]


def test_run_interrupted_before_its_session_exists_sends_no_prompt() -> None:
    process = Process()
    process.start("r0")
    assert process.channel.interrupt("r0") == b""
    process.receive(GREETED, b'{"id":1,"result":{"sessionId":"s"}}')
    assert [ending.code for ending in process.endings if isinstance(ending, RunFailed)] == ["cancelled"]
    assert "session/prompt" not in process.asked


@pytest.mark.parametrize("code", [1, 42])
def test_process_that_exits_before_a_response_fails_its_run(code: int) -> None:
    process = Process()
    process.start("r0")
    process.take(*process.channel.closed(code, b"Unknown argument: acp"))
    assert [ending.exit_code for ending in process.endings if isinstance(ending, RunFailed)] == [code]


@pytest.mark.parametrize("refusal", [b'{"id":0,"error":{"code":-32601,"message":"no"}}', b'{"id":0,"error":"no"}'])
def test_initialize_error_means_the_protocol_is_not_spoken(refusal: bytes) -> None:
    with pytest.raises(ProtocolNotSupported):
        Process().receive(refusal)


def test_killed_process_fails_all_its_runs() -> None:
    process = Process().begin_session()
    process.start("r1")
    process.take(*process.channel.closed(137, b""))
    assert [ending.code for ending in process.endings if isinstance(ending, RunFailed)] == ["agent_crashed"] * 2


@pytest.mark.parametrize(
    "request_",
    [
        msgspec.structs.replace(HELLO, approval_mode="always"),
        msgspec.structs.replace(HELLO, approval_mode="none"),
        msgspec.structs.replace(HELLO, output_schema={"type": "object"}),
        msgspec.structs.replace(HELLO, prompt="see @file"),
        msgspec.structs.replace(HELLO, prompt="/memory", literal=True, ephemeral=True),
        msgspec.structs.replace(HELLO, prompt="$x"),
        msgspec.structs.replace(HELLO, extra=("--debug",)),
    ],
)
def test_unsupported_request_uses_a_dedicated_process(request_: RunRequest) -> None:
    assert kept(request_) is None


def test_relevant_user_policies_require_a_dedicated_process() -> None:
    host = Host(env={"HOME": "/h"}, find=lambda folder, pattern: ["/h/x.toml"] if folder.endswith("policies") else [])
    assert kept(HELLO, host=host) is None
    assert kept(msgspec.structs.replace(HELLO, sandbox_mode="read-only"), host=host)


def test_user_turn_limit_requires_a_dedicated_process() -> None:
    """The CLI reports the limit like an answer that loops."""
    settings = b'{"model": {"maxSessionTurns": %d}}'
    assert kept(HELLO, host=Host(env={"HOME": "/h"}, read=lambda path: settings % 3)) is None
    assert kept(HELLO, host=Host(env={"HOME": "/h"}, read=lambda path: settings % -1))


def test_working_directory_is_resolved() -> None:
    launch = kept(HELLO, host=Host(env={"HOME": "/h"}, resolve=lambda path: f"/real{path}"))
    assert launch
    assert launch.session_params["cwd"] == "/real/p"


def test_default_modes_permit_only_tools_that_need_no_approval() -> None:
    """The protocol offers more tools, some of which need no approval."""
    launch = kept(HELLO)
    assert launch
    rules = launch.files["limits.toml"].decode()
    assert 'toolName = ["*"]\ndecision = "deny"' in rules
    assert "run_shell_command" not in rules
    assert "write_file" not in rules


def test_literal_prompt_and_images_are_sent_unchanged() -> None:
    request = msgspec.structs.replace(HELLO, prompt="a @b", literal=True, images=(Image("image/png", b"x"),))
    assert kept(request)
    process = Process().begin_session()
    process.start("r1", "s", request)
    prompt = msgspec.json.decode(process.sent.splitlines()[-1])["params"]["prompt"]
    assert prompt == [{"type": "text", "text": "a @b"}, {"type": "image", "mimeType": "image/png", "data": "eA=="}]


def test_similar_requests_share_a_process() -> None:
    assert kept(HELLO) == kept(msgspec.structs.replace(HELLO, prompt="another", literal=True))


def test_prompt_continues_the_trace_of_the_request() -> None:
    trace = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
    process = Process().begin_session()
    process.start("r1", "s", replace(HELLO, trace=trace))
    prompts = [line for line in process.sent.splitlines() if b'"session/prompt"' in line]
    assert [msgspec.json.decode(line)["params"].get("_meta") for line in prompts] == [None, trace]
