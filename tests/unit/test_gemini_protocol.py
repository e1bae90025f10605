"""What `gemini --acp` prints, as events, and what it is told: recordings of 0.61.0, and lines made by hand."""

from pathlib import Path

import msgspec
import pytest

from clinvk.backends.base import Delivery, Host, Launch, NotSpoken
from clinvk.backends.gemini import Gemini
from clinvk.types.errors import NotResumable
from clinvk.types.events import (
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.request import Image, RunRequest
from clinvk.types.session import Resume

RECORDINGS = Path(__file__).parent / "recordings" / "gemini_acp"
HOST = Host(env={"HOME": "/h"})
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
    """A channel, and all that it gave; `record` is what the CLI writes of its only conversation."""

    def __init__(self, record: bytearray | None = None) -> None:
        launch = kept(HELLO)
        assert launch
        self._record = bytearray() if record is None else record
        self.most_read = self.reads = 0
        host = Host(find=lambda folder, pattern: ["/record"], part=self._part)
        self.channel = Gemini().channel(launch, host)
        self.events: list[tuple[str, Event]] = []
        self.sent = self.channel.greet()

    def _part(self, path: str, start: int, size: int) -> bytes:
        self.most_read = max(self.most_read, len(self._record[start : start + size]))
        self.reads += 1
        return bytes(self._record[start : start + size])

    def start(self, run: str, handle: str | None = None, request: RunRequest = HELLO) -> None:
        self.sent += self.channel.start(run, request, Resume(handle) if handle else None)

    def hear(self, *lines: bytes) -> "Process":
        for line in lines:
            self.take(*self.channel.receive(line))
        return self

    def take(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            if isinstance(delivery, bytes):
                self.sent += delivery
            else:
                self.events.append(delivery)

    def play(self, case: str, runs: int, noise: bool = False) -> "Process":
        """Hear a recording; each run goes on with the conversation of the one before when that has ended."""
        numbers = iter(range(runs))
        self.start(f"r{next(numbers)}")
        for line in (RECORDINGS / f"{case}.stdout").read_bytes().splitlines():
            ended = len(self.endings)
            self.hear(*(NOISE if noise else ()), line)
            if len(self.endings) > ended and (number := next(numbers, None)) is not None:
                self.start(f"r{number}", self.session)
        return self

    def up(self) -> "Process":
        """It has answered, and begun a session."""
        self.start("r0")
        return self.hear(
            b'{"id":0,"result":{}}', b'{"id":1,"result":{"sessionId":"s","models":{"currentModelId":"m"}}}'
        )

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
def test_turns_of_a_conversation_have_their_own_events(noise: bool) -> None:
    process = Process().play("turns", 4, noise)
    assert [type(event) for event in process.of("r0")] == [
        RunStarted,
        *[ThinkingDelta] * 2,
        *[TextDelta] * 2,
        RunFinished,
    ]
    assert process.of("r1") == [
        RunStarted("gemini-2.5-flash", process.session),
        TextDelta("word1 "),
        TextDelta("word2"),
        RunFinished("end_turn", Usage(6795, 2)),
    ]


def test_a_failure_of_the_model_api_has_the_code_and_the_exit_code_of_a_process_of_its_own() -> None:
    process = Process().play("turns", 4)
    failures = [ending for ending in process.endings if isinstance(ending, RunFailed)]
    assert [(failed.code, failed.exit_code) for failed in failures] == [
        ("agent_rejected", 1),
        ("agent_unauthenticated", 1),
    ]
    assert isinstance(process.of("r2")[0], RunStarted)


def test_tools_are_told_by_name_with_what_is_shown_of_them() -> None:
    process = Process().play("tools", 2)
    calls = [event for _, event in process.events if isinstance(event, ToolCall)]
    assert [call.name for call in calls] == ["run_shell_command", "write_file"]
    assert calls[0].input == {"command": "echo hi"}
    results = [event for _, event in process.events if isinstance(event, ToolResult)]
    assert [result.id for result in results] == [call.id for call in calls]


def test_an_interrupted_turn_ends_and_the_next_is_another() -> None:
    process = Process().play("interrupted", 2)
    assert [type(ending) for ending in process.endings] == [RunFailed, RunFinished]
    assert not [event for event in process.of("r1") if isinstance(event, ToolCall | ToolResult)]


def test_sessions_side_by_side_keep_apart() -> None:
    process = Process()
    process.start("r0")
    process.start("r1")
    process.hear(*(RECORDINGS / "two_sessions.stdout").read_bytes().splitlines())
    for run in ("r0", "r1"):
        assert "".join(event.text for event in process.of(run) if isinstance(event, TextDelta)) == "word1 word2 word3"
        assert isinstance(process.of(run)[-1], RunFinished)


def test_nothing_but_the_greeting_is_said_before_that_is_answered() -> None:
    process = Process()
    process.start("r0")
    assert process.asked == ["initialize"]
    process.hear(b'{"id":0,"result":{}}')
    assert process.asked == ["initialize", "session/new"]


def test_sessions_are_begun_one_after_the_other() -> None:
    process = Process()
    for run in ("r0", "r1", "r2"):
        process.start(run)
    process.hear(b'{"id":0,"result":{}}')
    assert process.asked.count("session/new") == 1
    process.hear(b'{"id":1,"result":{"sessionId":"a"}}')
    assert process.asked.count("session/new") == 2
    process.hear(b'{"id":2,"error":{"code":1,"message":"no"}}')
    assert process.asked.count("session/new") == 3


def test_a_session_that_has_no_name_fails_its_run_and_no_other() -> None:
    process = Process().up()
    process.start("r1")
    process.hear(b'{"id":3,"result":{}}', said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    assert process.of("r1") == [RunFailed("agent_failed", "gemini gave an answer that makes no sense", exit_code=1)]
    assert isinstance(process.of("r0")[-1], RunFinished)


def test_a_conversation_that_is_not_held_cannot_go_on() -> None:
    with pytest.raises(NotResumable):
        Process().start("r0", "01a211ec-d7c5-7781-8ba4-a81b539a5c93")


def test_a_run_that_cannot_go_on_is_none_of_the_process() -> None:
    process = Process().up()
    with pytest.raises(NotResumable):
        process.start("r1", "01a211ec-d7c5-7781-8ba4-a81b539a5c93")
    assert process.channel.interrupt("r1") is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":2,"result":{"stopReason":"end_turn","_meta":null}}',
        b'{"id":2,"result":"done"}',
        b'{"id":2,"error":{"code":"ENOENT","message":"no"}}',
    ],
)
def test_an_answer_that_does_not_fit_ends_its_run(line: bytes) -> None:
    """Nothing else would."""
    process = Process().up().hear(line)
    assert process.endings == [RunFailed("agent_failed", "gemini gave an answer that makes no sense", exit_code=1)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"details": "Directory does not exist: /x"}, "Internal error: Directory does not exist: /x"),
        ([{"code": "invalid_type"}], "Internal error"),
        ({"details": 5}, "Internal error"),
    ],
)
def test_of_an_error_inside_the_details_are_told(data: object, said: str) -> None:
    error = {"code": -32603, "message": "Internal error", "data": data}
    process = Process()
    process.start("r0")
    process.hear(b'{"id":0,"result":{}}', msgspec.json.encode({"id": 1, "error": error}))
    assert process.endings == [RunFailed("agent_failed", said, exit_code=1)]


def test_who_asks_in_a_form_that_is_not_known_is_answered_so_that_it_does_not_wait() -> None:
    tool = b'{"toolCallId":"write_file__1","locations":[{"path":null}]}'
    question = b'{"id":7,"method":"session/request_permission","params":{"sessionId":"s","toolCall":%b}}'
    process = Process().up().hear(question % tool)
    assert msgspec.json.decode(process.sent.splitlines()[-1])["error"]["code"] == -32601


def test_who_asks_for_leave_is_denied_it_and_the_tool_is_told() -> None:
    process = Process().up()
    tool = {"toolCallId": "write_file__1", "kind": "edit", "title": "t", "locations": [{"path": "/p/x"}]}
    params = {"sessionId": "s", "toolCall": tool, "options": [{"optionId": "proceed_once", "kind": "allow_once"}]}
    process.hear(msgspec.json.encode({"id": 7, "method": "session/request_permission", "params": params}))
    assert msgspec.json.decode(process.sent.splitlines()[-1])["result"] == {"outcome": {"outcome": "cancelled"}}
    assert process.of("r0")[1:] == [
        ToolCall("write_file__1", "write_file", {"file_path": "/p/x"}),
        ToolResult("write_file__1", "not permitted", is_error=True),
    ]


def test_what_is_not_known_is_refused_so_that_it_does_not_wait() -> None:
    process = Process().up().hear(b'{"id":7,"method":"fs/read_text_file","params":{"sessionId":"s"}}')
    assert msgspec.json.decode(process.sent.splitlines()[-1])["error"]["code"] == -32601


def test_a_change_of_mode_is_no_part_of_the_answer() -> None:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "[MODE_UPDATE] autoEdit"}}
    note = {"method": "session/update", "params": {"sessionId": "s", "update": update}}
    process = Process().up().hear(msgspec.json.encode(note))
    assert not [event for event in process.of("r0") if isinstance(event, TextDelta)]


def test_a_turn_without_an_answer_fails() -> None:
    process = Process().up().hear(b'{"id":2,"result":{"stopReason":"end_turn"}}')
    assert isinstance(process.endings[0], RunFailed)


def test_an_answer_that_goes_round_in_circles_fails_as_in_a_process_of_its_own() -> None:
    process = Process().up().hear(b'{"id":2,"result":{"stopReason":"max_turn_requests"}}')
    assert process.endings == [RunFailed("agent_failed", "Loop detected, stopping execution", exit_code=1)]


@pytest.mark.parametrize(
    ("code", "message", "kind", "exit_code"),
    [
        (429, "too many", "agent_rate_limited", 1),
        (500, "internal error", "agent_overloaded", 1),
        (500, "terminated", "agent_failed", 1),
    ],
)
def test_a_failure_is_told_as_by_a_process_of_its_own(code: int, message: str, kind: str, exit_code: int) -> None:
    failure = msgspec.json.encode({"id": 2, "error": {"code": code, "message": message}})
    assert Process().up().hear(failure).endings == [RunFailed(kind, message, exit_code)]


def test_a_missing_login_is_told_as_by_a_process_of_its_own() -> None:
    failure = b'{"id":2,"error":{"code":-32000,"message":"Gemini API key is missing"}}'
    (ending,) = Process().up().hear(failure).endings
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_unauthenticated", 41)
    assert ending.message == (
        "gemini is not logged in, or not allowed (run gemini once in a terminal, or set GEMINI_API_KEY): "
        "Gemini API key is missing"
    )


def written(kind: str, id_: str, *tokens: int) -> bytes:
    """A message, with tokens of input and output, cached ones and all."""
    counts = dict(zip(("input", "output", "cached", "total"), tokens, strict=False))
    return msgspec.json.encode({"id": id_, "type": kind, **({"tokens": counts} if tokens else {})}) + b"\n"


def said(text: str = "word") -> bytes:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    return msgspec.json.encode({"method": "session/update", "params": {"sessionId": "s", "update": update}})


def test_tokens_are_those_that_are_written_down_each_turns_its_own() -> None:
    record = bytearray(written("user", "1") + written("gemini", "2") + written("gemini", "2", 100, 20, 20, 130))
    record += written("user", "3") + written("gemini", "4", 50, 5, 0, 55) + b'{"$set":{"messages":[]}}\n'
    process = Process(record).up().hear(said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    process.start("r1", "s")
    record += written("user", "5") + written("gemini", "2", 100, 20, 20, 130) + written("gemini", "6", 7, 1, 0, 8)
    process.hear(said(), b'{"id":3,"result":{"stopReason":"end_turn"}}')
    first, second = Usage(150, 35, 20, 10), Usage(7, 1)
    assert process.endings == [RunFinished(usage=first), RunFinished(usage=second)]


def test_of_a_record_no_more_is_read_at_once_than_a_megabyte() -> None:
    """The protocol's own counts have to do then, also of the turns that follow."""
    record = bytearray(written("user", "1") + written("user", "x" * 1024 * 1024) + written("gemini", "2", 100, 20))
    end = b'{"id":%d,"result":{"stopReason":"end_turn","_meta":{"quota":{"token_count":{"input_tokens":7}}}}}'
    process = Process(record).up().hear(said(), end % 2)
    process.start("r1", "s")
    record += written("gemini", "3", 50, 5)
    assert process.hear(said(), end % 3).endings == [RunFinished(usage=Usage(7)), RunFinished(usage=Usage(7))]
    assert (process.most_read, process.reads) == (1024 * 1024, 1)


def test_what_the_cli_is_still_writing_is_read_when_it_is_there() -> None:
    half = written("gemini", "2", 100, 20, 20, 130)
    record = bytearray(written("user", "1") + half[:20])
    process = Process(record).up().hear(b'{"id":2,"error":{"code":503,"message":"no"}}')
    process.start("r1", "s")
    record += half[20:]
    process.hear(said(), b'{"id":3,"result":{"stopReason":"end_turn"}}')
    assert [ending.usage for ending in process.endings] == [None, Usage(100, 30, 20, 10)]


@pytest.mark.parametrize("last", [written("user", "3"), written("user", "3") + b'{"$set":{"messages":[]}}\n'])
def test_an_answer_that_is_not_written_down_was_broken_off(last: bytes) -> None:
    """Its end is told as that of a whole one."""
    record = bytearray(written("user", "1") + written("gemini", "2", 100, 20, 20, 130) + last)
    process = Process(record).up().hear(said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    (ending,) = process.endings
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.usage) == ("agent_failed", Usage(100, 30, 20, 10))
    assert "broke off" in ending.message


def test_what_is_written_down_beside_the_messages_does_not_break_an_answer_off() -> None:
    record = bytearray(written("user", "1") + written("gemini", "2", 100, 20, 20, 130) + written("info", "3"))
    process = Process(record).up().hear(said(), b'{"id":2,"result":{"stopReason":"end_turn"}}')
    assert process.endings == [RunFinished(usage=Usage(100, 30, 20, 10))]


def test_a_run_that_is_interrupted_before_its_session_is_there_asks_no_model() -> None:
    process = Process()
    process.start("r0")
    assert process.channel.interrupt("r0") == b""
    process.hear(b'{"id":0,"result":{}}', b'{"id":1,"result":{"sessionId":"s"}}')
    assert [ending.code for ending in process.endings if isinstance(ending, RunFailed)] == ["cancelled"]
    assert "session/prompt" not in process.asked


@pytest.mark.parametrize("code", [1, 42])
def test_a_process_that_ends_by_itself_before_it_answered_does_not_speak_it(code: int) -> None:
    with pytest.raises(NotSpoken):
        list(Process().channel.closed(code, b"Unknown argument: acp"))


@pytest.mark.parametrize("refusal", [b'{"id":0,"error":{"code":-32601,"message":"no"}}', b'{"id":0,"error":"no"}'])
def test_a_refused_greeting_says_that_it_is_not_spoken(refusal: bytes) -> None:
    with pytest.raises(NotSpoken):
        Process().hear(refusal)


def test_a_process_that_is_killed_fails_all_its_runs() -> None:
    process = Process().up()
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
def test_what_it_could_not_do_in_the_same_way_gets_a_process_of_its_own(request_: RunRequest) -> None:
    assert kept(request_) is None


def test_rules_of_the_users_get_a_process_of_its_own_where_they_would_count() -> None:
    host = Host(env={"HOME": "/h"}, find=lambda folder, pattern: ["/h/x.toml"] if folder.endswith("policies") else [])
    assert kept(HELLO, host=host) is None
    assert kept(msgspec.structs.replace(HELLO, sandbox_mode="read-only"), host=host)


def test_a_limit_of_turns_of_the_users_gets_a_process_of_its_own() -> None:
    """It is told as an answer that goes round in circles is."""
    settings = b'{"model": {"maxSessionTurns": %d}}'
    assert kept(HELLO, host=Host(env={"HOME": "/h"}, read=lambda path: settings % 3)) is None
    assert kept(HELLO, host=Host(env={"HOME": "/h"}, read=lambda path: settings % -1))


def test_a_directory_is_the_same_project_by_whatever_name() -> None:
    launch = kept(HELLO, host=Host(env={"HOME": "/h"}, resolve=lambda path: f"/real{path}"))
    assert launch
    assert launch.opening["cwd"] == "/real/p"


def test_without_a_word_it_has_the_tools_that_nobody_needs_to_allow() -> None:
    """Over the protocol more tools are there, and some of what they do is not asked for."""
    launch = kept(HELLO)
    assert launch
    rules = launch.files["limits.toml"].decode()
    assert 'toolName = ["*"]\ndecision = "deny"' in rules
    assert "run_shell_command" not in rules
    assert "write_file" not in rules


def test_text_that_is_data_and_images_go_as_they_are() -> None:
    request = msgspec.structs.replace(HELLO, prompt="a @b", literal=True, images=(Image("image/png", b"x"),))
    assert kept(request)
    process = Process().up()
    process.start("r1", "s", request)
    prompt = msgspec.json.decode(process.sent.splitlines()[-1])["params"]["prompt"]
    assert prompt == [{"type": "text", "text": "a @b"}, {"type": "image", "mimeType": "image/png", "data": "eA=="}]


def test_prompts_of_one_kind_share_a_process() -> None:
    assert kept(HELLO) == kept(msgspec.structs.replace(HELLO, prompt="another", literal=True))
