"""The output of `codex exec --json` as events: recordings of the real CLI, and handwritten items."""

from pathlib import Path

import msgspec
import pytest

from clinvk.backends.base import Host
from clinvk.backends.codex import Codex
from clinvk.backends.codex.exec import ExecChannel
from clinvk.types.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

RECORDINGS = Path(__file__).parent / "recordings" / "codex"
CASES = sorted(path.stem for path in RECORDINGS.glob("*.exit"))
HELLO = RunRequest(prompt="hello", backend="codex")

HOSTILE = (b'{"type":"error","message":"\xff"}', b'{"type":"error","x":' + b"[" * 100_000)
NOISE = (
    b"",
    b"not json",
    b"{",
    b"[]",
    b"null",
    b'{"type":"of.the.future","x":1}',
    b'{"no":"type"}',
    b"\xff\xfe",
    *HOSTILE,
)


def played(case: str, request: RunRequest = HELLO, resume: Resume | None = None, noise: bool = False) -> list[Event]:
    """Feed a recording with noise between its lines to a channel, and close the channel like the process."""
    lines = (RECORDINGS / f"{case}.stdout").read_bytes().splitlines()
    stderr = RECORDINGS / f"{case}.stderr"
    exit_code = int((RECORDINGS / f"{case}.exit").read_text())
    return fed(
        [line for kept in lines for line in ((*NOISE, kept) if noise else (kept,))],
        request,
        resume,
        closed=(128 - exit_code if exit_code < 0 else exit_code, stderr.read_bytes() if stderr.exists() else b""),
    )


def fed(
    lines: list[bytes],
    request: RunRequest = HELLO,
    resume: Resume | None = None,
    closed: tuple[int, bytes] | None = None,
) -> list[Event]:
    channel = ExecChannel()
    channel.start("r", request, resume)
    deliveries = [delivery for line in lines for delivery in channel.receive(line)]
    if closed:
        deliveries += channel.closed(*closed)
    assert all(isinstance(delivery, tuple) and delivery[0] == "r" for delivery in deliveries)
    return [delivery[1] for delivery in deliveries if isinstance(delivery[1], Event)]


def item(kind: str, **fields: object) -> bytes:
    return msgspec.json.encode({"type": f"item.{kind}", "item": {"id": "item_0", **fields}})


def started(thread: str) -> RunStarted:
    return RunStarted(backend_session_id=thread)


def usage(input_tokens: int, output_tokens: int, cached: int = 7, reasoning: int = 0) -> Usage:
    return Usage(input_tokens, output_tokens, cached, reasoning)


CALL = "/bin/bash -lc 'echo hi; touch made1'"
EXPECTED: dict[str, list[Event]] = {
    "text": [
        started("01a211e9-f0d1-7232-b10f-59cc3775e23f"),
        TextDelta("word1 word2 word3 word4 word5"),
        RunFinished(usage=usage(9528, 5)),
    ],
    "think": [
        started("01a211ea-22ff-7343-899d-b9a2eff1e4b8"),
        ThinkingDelta("think1 think2 think3 "),
        TextDelta("word1 word2"),
        RunFinished(usage=usage(9529, 5, reasoning=3)),
    ],
    "tool_workspace_write": [
        started("01a211ea-063e-7b40-8af2-71f860ca151f"),
        ToolCall("item_0", "command_execution", {"command": CALL}),
        ToolResult("item_0", "hi\n"),
        TextDelta("word1 word2 word3"),
        RunFinished(usage=usage(19516, 6, 14)),
    ],
    "tool_patch": [
        started("01a211ea-12e9-7563-a492-5e7efa8f99c0"),
        ToolCall("item_0", "file_change", {"changes": [{"path": "/home/codex/project/p1.txt", "kind": "add"}]}),
        ToolResult("item_0", "add /home/codex/project/p1.txt"),
        TextDelta("word1 word2 word3"),
        RunFinished(usage=usage(19517, 6, 14)),
    ],
    "tool_ro_sleep": [
        started("01a211eb-aed1-7833-b542-424fcbd6fe61"),
        ToolCall("item_0", "command_execution", {"command": "/bin/bash -lc 'echo hi; sleep 1; touch made9'"}),
        ToolResult("item_0", "hi\ntouch: cannot touch 'made9': Read-only file system\n", is_error=True),
        TextDelta("word1 word2 word3"),
        RunFinished(usage=usage(19193, 6, 14)),
    ],
    "code_mode": [
        started("01a2131b-ff1b-7522-91b0-111b6a777a36"),
        ToolCall("item_0", "command_execution", {"command": "/bin/bash -lc 'echo hi; sleep 0.3; echo there'"}),
        ToolResult("item_0", "hi\nthere\n"),
        TextDelta("word1 word2"),
        RunFinished(usage=usage(28349, 4, 14)),
    ],
    "v163_shell": [
        started("01a2131c-34d0-70a1-8454-b27eb4944109"),
        ToolCall("item_0", "command_execution", {"command": "/bin/bash -lc 'echo hi; sleep 0.3'"}),
        ToolResult("item_0", "hi\n"),
        TextDelta("word1 word2"),
        RunFinished(usage=usage(20624, 4, 14)),
    ],
    "unknown_model": [
        started("01a211eb-cd98-7d51-880b-8f4f57ebf7c1"),
        Progress(
            "warning",
            "Model metadata for `made-up` not found. Defaulting to fallback metadata; "
            "this can degrade performance and cause issues.",
        ),
        TextDelta("model=made-up users=1 tools=9"),
        RunFinished(usage=usage(9852, 3)),
    ],
    "err400": [
        started("01a211e9-f840-7a32-8cf1-c48672f5b69d"),
        RunFailed("agent_rejected", "bad request (fake)"),
    ],
    "err401": [
        started("01a211e9-f42c-7793-bcc7-bd7f1dc77342"),
        RunFailed(
            "agent_unauthenticated",
            "codex is not logged in, or not allowed (run codex login, or set CODEX_API_KEY): "
            "unexpected status 401 Unauthorized: invalid x-api-key, url: http://127.0.0.1:18099/v1/responses",
            1,
        ),
    ],
    "err429": [
        started("01a211e9-fa4f-7042-8faf-ade3fd89a44c"),
        RunFailed("agent_rate_limited", "exceeded retry limit, last status: 429 Too Many Requests"),
    ],
    "err500": [
        started("01a211e9-fce9-72e1-a49c-54bc90fc4a8f"),
        Progress(
            "retry",
            "Reconnecting... 1/1 (We’re currently experiencing high demand, which may cause temporary errors.)",  # noqa: RUF001 - as Codex writes it
        ),
        RunFailed(
            "agent_overloaded",
            "We’re currently experiencing high demand, which may cause temporary errors.",  # noqa: RUF001 - as Codex writes it
        ),
    ],
    "midstream": [
        started("01a211eb-cefd-7563-8a6e-7d3c5e8f38bc"),
        Progress("retry", "Reconnecting... 1/1 (stream disconnected before completion: midstream (fake))"),
        RunFailed("agent_overloaded", "stream disconnected before completion: midstream (fake)"),
    ],
    "refused_connection": [
        started("01a2131c-2bbe-7761-8dfd-c210208f75c9"),
        Progress("retry", "Reconnecting... 1/2 (Connection failed: error sending request)"),
        Progress("retry", "Reconnecting... 2/2 (Connection failed: error sending request)"),
        RunFailed("agent_overloaded", "Connection failed: error sending request"),
    ],
    "nokey": [
        started("01a211fb-5d03-7c83-a5be-5a0090fc86da"),
        RunFailed("agent_unauthenticated", "Missing environment variable: `FAKE_KEY`."),
    ],
    "no_git_check": [
        RunFailed("agent_failed", "Not inside a trusted directory and --skip-git-repo-check was not specified.", 1),
    ],
    "reject_full_auto": [
        RunFailed(
            "agent_failed",
            "error: unexpected argument '--full-auto' found tip: to pass '--full-auto' as a value, "
            "use '-- --full-auto'",
            2,
        ),
    ],
    "resume_missing": [
        RunFailed(
            "session_not_found",
            "codex no longer knows the conversation: Error: thread/resume: thread/resume failed: "
            "no rollout found for thread id 01a211e9-0000-7232-b10f-59cc3775e23f (code -32600)",
            1,
        ),
    ],
    "json_schema_bad": [
        RunFailed(
            "agent_failed",
            "Failed to read output schema file /nonexistent.json: No such file or directory (os error 2)",
            1,
        ),
    ],
    "no_workdir": [RunFailed("agent_failed", "Error: No such file or directory (os error 2)", 1)],
    "sig_TERM": [
        started("01a211ed-9094-7c83-9b0d-a6108abcc77d"),
        RunFailed(
            "agent_crashed",
            "codex was killed by signal 15 before it reported a result and printed nothing on stderr",
            143,
        ),
    ],
    "sigtool_INT": [
        started("01a211ee-3ce3-7670-9b93-b0f1e9f2811d"),
        ToolCall("item_0", "command_execution", {"command": "/bin/bash -lc 'sleep 61'"}),
        RunFailed(
            "agent_crashed", "codex exited with code 1 before it reported a result and printed nothing on stderr", 1
        ),
    ],
}


@pytest.mark.parametrize("case", EXPECTED)
def test_recording_is_decoded_to_the_expected_events(case: str) -> None:
    assert played(case) == EXPECTED[case]


@pytest.mark.parametrize("case", CASES)
def test_every_recording_obeys_the_stream_law(case: str) -> None:
    events = played(case)
    assert isinstance(events[0], RunStarted) or len(events) == 1
    assert [isinstance(event, RunFinished | RunFailed) for event in events] == [False] * (len(events) - 1) + [True]
    calls = [event.id for event in events if isinstance(event, ToolCall)]
    results = [event.id for event in events if isinstance(event, ToolResult)]
    assert len(set(calls)) == len(calls)
    assert len(set(results)) == len(results)
    assert set(results) <= set(calls)


@pytest.mark.parametrize("case", CASES)
def test_noise_and_unknown_line_types_are_ignored(case: str) -> None:
    assert played(case, noise=True) == played(case)


def test_thread_id_is_emitted_once_the_thread_can_be_resumed() -> None:
    named = b'{"type":"thread.started","thread_id":"01a211ec"}'
    assert fed([named]) == []
    assert fed([named, b'{"type":"turn.started"}']) == [started("01a211ec")]
    assert fed([named, b'{"type":"error","message":"Reconnecting... 1/5"}'])[0] == started("01a211ec")
    assert [type(event) for event in fed([named], closed=(143, b""))] == [RunFailed]


def test_thread_that_can_no_longer_be_forked_is_not_found() -> None:
    said = b"Error: thread/fork: thread/fork failed: invalid paginated history lineage for 01a2: missing source rollout"
    ending = fed([], closed=(1, said))[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "session_not_found"


def test_usage_of_a_fork_excludes_the_totals_of_its_parent() -> None:
    done = b'{"type":"turn.completed","usage":{"input_tokens":300,"cached_input_tokens":60,"output_tokens":90}}'
    ending = fed([done], resume=Resume("01a211ec", Usage(200, 60, 40), fork=True))[-1]
    assert isinstance(ending, RunFinished)
    assert ending.usage == Usage(100, 30, 20)


def test_no_events_follow_the_ending() -> None:
    lines = (RECORDINGS / "text.stdout").read_bytes().splitlines()
    assert fed(lines + lines, closed=(0, b"")) == EXPECTED["text"]


def test_mcp_result_is_its_text_and_a_rejected_call_is_an_error() -> None:
    tools = [event for event in played("mcp") if isinstance(event, ToolCall | ToolResult)]
    assert tools == [
        ToolCall("item_0", "mcp__usermcp__write", {"x": "1"}),
        ToolResult("item_0", "written"),
        ToolCall("item_1", "mcp__userrw__write", {"x": "2"}),
        ToolResult("item_1", "MCP tool call requires approval, but approval policy is never", is_error=True),
    ]


def test_mcp_result_without_text_is_emitted_as_json() -> None:
    fields = {"type": "mcp_tool_call", "server": "s", "tool": "t", "arguments": [1], "status": "completed"}
    image = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
    call = ToolCall("item_0", "mcp__s__t", {"arguments": [1]})
    assert fed([item("completed", **fields, result={"content": [image], "structured_content": None})]) == [
        call,
        ToolResult("item_0", '[{"type":"image","data":"aGk=","mimeType":"image/png"}]'),
    ]
    assert fed([item("completed", **fields, result={"content": [], "structured_content": {"a": 1}})]) == [
        call,
        ToolResult("item_0", '{"a":1}'),
    ]


def test_subagent_operations_are_tool_calls() -> None:
    tools = [event for event in played("collab") if isinstance(event, ToolCall | ToolResult)]
    assert tools == [ToolCall("item_0", "wait", {"receiver_thread_ids": []}), ToolResult("item_0", "")]
    spawn = {"type": "collab_tool_call", "tool": "spawn_agent", "prompt": "look", "receiver_thread_ids": ["t1"]}
    assert fed([item("completed", **spawn, agents_states={"t1": {"status": "running"}}, status="failed")]) == [
        ToolCall("item_0", "spawn_agent", {"prompt": "look", "receiver_thread_ids": ["t1"]}),
        ToolResult("item_0", '{"t1":{"status":"running"}}', is_error=True),
    ]


def test_web_search_is_emitted_once_its_query_is_known() -> None:
    search = {"type": "web_search"}
    action = {"type": "search", "query": "clinvk"}
    assert fed([item("started", **search, query=""), item("completed", **search, query="clinvk", action=action)]) == [
        ToolCall("item_0", "web_search", {"query": "clinvk"}),
        ToolResult("item_0", '{"type":"search","query":"clinvk"}'),
    ]


def test_tool_without_a_start_is_emitted_at_completion() -> None:
    command = {"type": "command_execution", "command": "x", "aggregated_output": "", "status": "declined"}
    assert fed([item("completed", **command, exit_code=None)]) == [
        ToolCall("item_0", "command_execution", {"command": "x"}),
        ToolResult("item_0", "declined", is_error=True),
    ]


def test_failed_command_without_output_reports_its_exit_code() -> None:
    command = {"type": "command_execution", "command": "false", "aggregated_output": ""}
    events = fed([item("completed", **command, exit_code=1, status="failed")])
    assert events[-1] == ToolResult("item_0", "exit code 1", is_error=True)


def test_updated_tool_call_is_emitted_once() -> None:
    command = {"type": "command_execution", "command": "x", "aggregated_output": "a", "status": "in_progress"}
    assert fed([item("started", **command), item("updated", **command)]) == [
        ToolCall("item_0", "command_execution", {"command": "x"})
    ]


def test_plan_is_emitted_as_progress() -> None:
    plan = {"type": "todo_list", "items": [{"text": "read", "completed": True}, {"text": "write", "completed": False}]}
    done = {"type": "todo_list", "items": [{"text": "read", "completed": True}]}
    assert fed([item("updated", **plan), item("completed", **done)]) == [
        Progress("plan", "1/2 done; next: write"),
        Progress("plan", "1/1 done"),
    ]


def test_messages_and_thoughts_are_separated_by_a_blank_line() -> None:
    events = fed([item("completed", type=kind, text=text) for kind, text in MESSAGES])
    assert events == [
        ThinkingDelta("a"),
        TextDelta("one"),
        ThinkingDelta("\n\nb"),
        TextDelta("\n\ntwo"),
    ]


MESSAGES = (("reasoning", "a"), ("agent_message", "one"), ("reasoning", "b"), ("agent_message", "two"))


RETRY = msgspec.json.encode({"type": "error", "message": "Reconnecting... 1/5 (stream disconnected)"})
COMMAND = item("completed", id="c", type="command_execution", command="x", aggregated_output="", exit_code=0)


def whole(*messages: tuple[str, str]) -> list[bytes]:
    """Items in full, each with an id of its own."""
    return [item("completed", id=text + kind, type=kind, text=text) for kind, text in messages]


@pytest.mark.parametrize("again", [MESSAGES, (*MESSAGES, ("agent_message", "three"))])
def test_complete_messages_are_not_repeated_after_a_reconnect(again: tuple[tuple[str, str], ...]) -> None:
    once = [event for event in fed(whole(*again)) if not isinstance(event, Progress)]
    told = fed([*whole(*MESSAGES), RETRY, *whole(*again), RETRY, *whole(*again)])
    assert [event for event in told if not isinstance(event, Progress)] == once


def test_different_message_after_a_reconnect_is_separate() -> None:
    told = fed([*whole(("agent_message", "one")), RETRY, *whole(("agent_message", "two"))])
    assert [event for event in told if isinstance(event, TextDelta)] == [TextDelta("one"), TextDelta("\n\ntwo")]


def test_same_text_after_a_command_is_not_a_repetition() -> None:
    told = fed([*whole(("agent_message", "one")), COMMAND, RETRY, *whole(("agent_message", "one"))])
    assert [event for event in told if isinstance(event, TextDelta)] == [TextDelta("one"), TextDelta("\n\none")]


def test_usage_of_a_resumed_thread_counts_only_this_run() -> None:
    former = played("text")[-1]
    assert isinstance(former, RunFinished)
    assert former.usage
    events = played("resume_2", resume=Resume("01a211ec-d7c5-7781-8ba4-a81b539a5c93", usage(9527, 3)))
    assert events[-1] == RunFinished(usage=usage(19135 - 9527, 6 - 3, 14 - 7))


def test_turn_without_usage_is_complete() -> None:
    assert fed([b'{"type":"turn.completed","usage":null}']) == [RunFinished()]


def test_structured_output_is_decoded() -> None:
    events = played("schema", RunRequest(prompt="x", output_schema={"type": "object"}))
    assert isinstance(events[-1], RunFinished)
    assert events[-1].structured_output == {"a": "b"}
    assert TextDelta('{"a":"b"}') in events


def test_json_without_a_schema_is_plain_text() -> None:
    ending = played("schema")[-1]
    assert isinstance(ending, RunFinished)
    assert ending.structured_output is None


@pytest.mark.parametrize("status", [401, 403])
def test_authentication_error_ends_the_run_although_codex_retries(status: int) -> None:
    line = msgspec.json.encode(
        {"type": "error", "message": f"Reconnecting... 1/5 (unexpected status {status} No: key, url: http://x/v1)"}
    )
    assert fed([line]) == [
        RunFailed(
            "agent_unauthenticated",
            "codex is not logged in, or not allowed (run codex login, or set CODEX_API_KEY): "
            f"unexpected status {status} No: key, url: http://x/v1",
            1,
        )
    ]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("unexpected status 404 Not Found: no such model, url: http://x", "agent_rejected"),
        ("unexpected status 402 Payment Required: pay, url: http://x", "agent_unpaid"),
        ("unexpected status 503 Service Unavailable: later, url: http://x", "agent_overloaded"),
        ('{"detail":"The model is not supported"}', "agent_rejected"),
        ("You've hit your usage limit.", "agent_rate_limited"),
        ("Your access token could not be refreshed. Please log out and sign in again.", "agent_unauthenticated"),
        ("Codex ran out of room in the model's context window.", "agent_rejected"),
        ("thread 01a214ac-58ab-7541-999f-5fcaf9088cda already has an active writer", "session_busy"),
        ("something else", "agent_failed"),
        ("{ not json", "agent_failed"),
    ],
)
def test_failed_turn_gets_its_code_from_the_message(message: str, code: str) -> None:
    (ending,) = fed([msgspec.json.encode({"type": "turn.failed", "error": {"message": message}})])
    assert isinstance(ending, RunFailed)
    assert ending.code == code


@pytest.mark.parametrize(("told", "reason"), [("max_output_tokens", "max_tokens"), ("content_filter", "refusal")])
def test_incomplete_response_ends_with_its_stop_reason(told: str, reason: StopReason) -> None:
    message = f"Incomplete response returned, reason: {told}"
    lines = [
        item("completed", type="agent_message", text="wo"),
        msgspec.json.encode({"type": "error", "message": message}),
        msgspec.json.encode({"type": "turn.failed", "error": {"message": message}}),
    ]
    assert fed(lines) == [TextDelta("wo"), RunFinished(reason)]


def test_error_without_a_failed_turn_is_reported_when_the_process_exits() -> None:
    line = b'{"type":"error","message":"exceeded retry limit, last status: 429 Too Many Requests"}'
    assert fed([line], closed=(1, b"")) == [
        RunFailed("agent_rate_limited", "exceeded retry limit, last status: 429 Too Many Requests", 1)
    ]


def test_missing_codex_home_is_reported_without_noise() -> None:
    stderr = (
        b'WARNING: proceeding, even though we could not create PATH aliases: CODEX_HOME points to "/x"\n'
        b'Error finding codex home: CODEX_HOME points to "/x", but that path does not exist\n'
    )
    message = 'Error finding codex home: CODEX_HOME points to "/x", but that path does not exist'
    assert fed([], closed=(1, stderr)) == [RunFailed("agent_failed", message, 1)]


def test_telemetry_error_is_not_reported_as_the_cause() -> None:
    stderr = (
        b"Could not create otel exporter: OTel headers helper requires a command and a positive refresh interval\n"
        b"Error: Model provider `x` not found\n"
    )
    assert fed([], closed=(1, stderr)) == [RunFailed("agent_failed", "Error: Model provider `x` not found", 1)]


def test_exit_code_0_before_the_turn_completes_is_a_crash() -> None:
    (ending,) = fed([], closed=(0, b"Reading prompt from stdin...\n"))
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_crashed", 0)


def test_prompt_is_written_to_stdin_unchanged() -> None:
    launch = Codex().launch(HELLO, None, Host()).fallback
    assert launch
    channel = Codex().channel(launch, Host())
    assert channel.start("r", RunRequest(prompt="/x -é\n"), None) == "/x -é\n".encode()


def test_complaint_is_the_last_stderr_line_that_is_not_noise() -> None:
    noise = b"Reading additional input from stdin...\n2026-01-02T03:04:05.678Z ERROR codex_core: x\n"
    assert ExecChannel().stderr_message(b"the login is odd\n" + noise) == "the login is odd"
    assert ExecChannel().stderr_message(noise) == ""
