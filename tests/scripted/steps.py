"""The steps of a play, and ready-made plays that speak like each CLI."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from standin.document import JSON

Step: TypeAlias = dict[str, JSON]
Escape = Literal["plain", "setsid", "double-fork", "env-i", "all"]


def line(text: str) -> Step:
    """Print a line."""
    return {"line": text}


def raw(data: bytes) -> Step:
    """Print bytes as they are: no newline, any encoding."""
    return {"raw": data.hex()}


def letters(count: int, before: str = "", after: str = "") -> Step:
    """Print one line of `count` letters between two texts."""
    return {"letters": count, "before": before, "after": after}


def stderr(text: str) -> Step:
    """Print to stderr."""
    return {"stderr": text}


def pause(seconds: float) -> Step:
    """Sleep."""
    return {"pause": seconds}


def wait_for(path: Path) -> Step:
    """Wait until a file exists: how a test lets the agent go on."""
    return {"wait_for": str(path)}


def touch(path: Path) -> Step:
    """Create a file, which shows a test that the agent has reached the step."""
    return {"touch": str(path)}


def ignore(number: signal.Signals = signal.SIGTERM) -> Step:
    """Ignore a signal."""
    return {"ignore": int(number)}


def spawn(how: Escape = "plain", *, holds_output: bool = False, command: str = "") -> Step:
    """Start a grandchild that sleeps for ten minutes, or runs a command; it may keep the agent's stdout open."""
    return {"spawn": how, "holds_output": holds_output, "command": command}


def ask_approval(*requests: Step) -> Step:
    """Ask for approvals of tools as Claude Code does, and wait for the answers. Play it without reading."""
    return {"approvals": json.dumps(requests)}


def close_stdout() -> Step:
    """Close stdout and live on."""
    return {"close_stdout": True}


def hang() -> Step:
    """Sleep for a day."""
    return {"pause": 86400}


def die(number: signal.Signals) -> Step:
    """Die by a signal."""
    return {"die": int(number)}


def exits(code: int) -> Step:
    """Exit at once."""
    return {"exit": code}


def _lines(records: Sequence[JSON]) -> list[Step]:
    return [line(json.dumps(record)) for record in records]


def claude_says(
    *deltas: str,
    session: str = "11111111-1111-4111-8111-111111111111",
    model: str = "claude-scripted",
    skills: Sequence[str] = (),
    context_size: int = 0,
) -> list[Step]:
    """Answer as Claude Code 2.1.197 does with partial messages, a delta for each text."""

    def event(kind: str, fields: dict[str, JSON]) -> JSON:
        return {
            "type": "stream_event",
            "event": {"type": kind, **fields},
            "session_id": session,
            "parent_tool_use_id": None,
        }

    text = "".join(deltas)
    head: dict[str, JSON] = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": None}
    usage: JSON = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 2,
        "output_tokens": 5,
    }
    block: JSON = {"type": "text", "text": text}
    init: JSON = {
        "type": "system",
        "subtype": "init",
        "cwd": "/",
        "session_id": session,
        "tools": [],
        "model": model,
        "permissionMode": "default",
        "slash_commands": [*skills],
        "skills": [*skills],
    }
    used: JSON = {
        model: {"inputTokens": 10, "outputTokens": 5, "cacheReadInputTokens": 2, "contextWindow": context_size}
    }
    message: JSON = {
        "type": "assistant",
        "message": {**head, "content": [block], "usage": usage},
        "session_id": session,
        "parent_tool_use_id": None,
    }
    result: JSON = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "api_error_status": None,
        "num_turns": 1,
        "result": text,
        "stop_reason": "end_turn",
        "session_id": session,
        "total_cost_usd": 0.01,
        "usage": usage,
        "permission_denials": [],
        "terminal_reason": "completed",
        **({"modelUsage": used} if context_size else {}),
    }
    return _lines(
        [
            init,
            event("message_start", {"message": {**head, "content": [], "usage": usage}}),
            event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            *(
                event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": delta}})
                for delta in deltas
            ),
            message,
            event("content_block_stop", {"index": 0}),
            event("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}),
            event("message_stop", {}),
            result,
        ]
    )


def claude_thinks(*thoughts: str) -> list[Step]:
    """Think as Claude Code does; the lines belong after the first two of an answer."""
    events: list[JSON] = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": thought}}
            for thought in thoughts
        ),
        {"type": "content_block_stop", "index": 0},
    ]
    return _lines([{"type": "stream_event", "event": event, "parent_tool_use_id": None} for event in events])


def claude_fails(status: int, message: str = "it said no") -> list[Step]:
    """Fail as Claude Code does when its model API answers with this status."""
    says = claude_says("x")
    result = json.loads(str(says[-1]["line"]))
    failed = {**result, "is_error": True, "api_error_status": status, "result": message}
    return [says[0], line(json.dumps(failed)), exits(1)]


def claude_reports_limit(resets_at: float, used: float = 0.82) -> Step:
    """Report the limit of five hours as Claude Code does with a subscription, near the limit."""
    limit: JSON = {
        "rateLimitType": "five_hour",
        "status": "allowed_warning",
        "utilization": used,
        "resetsAt": resets_at,
    }
    return line(json.dumps({"type": "rate_limit_event", "rate_limit_info": limit}))


def client_calls(calls: dict[str, tuple[str, dict[str, JSON]]], answers: int = 1) -> Step:
    """Call client tools as `codex app-server` does (name and arguments by call id), and wait for all outputs.

    `answers` is the number of the model's answers so far, with this one.
    """
    return {"client_calls": json.dumps(calls), "answers": answers}


def receive_steering(*, accepts: bool = True) -> Step:
    """Wait for `turn/steer`, and accept or refuse the prompt."""
    return {"steering": accepts}


CODEX_THREAD = "01a20000-0000-7000-8000-000000000001"
"""The thread of every play of Codex."""


def codex_streams(*deltas: str, answers: int = 1) -> list[Step]:
    """Answer as `codex app-server` 0.169.0 does, a notification for each delta.

    `answers` is the number of the model's answers in the thread, with this one.
    """

    def notification(method: str, fields: dict[str, JSON]) -> JSON:
        return {"method": method, "params": {"threadId": CODEX_THREAD, "turnId": "turn", **fields}}

    counts = {"inputTokens": 12, "cachedInputTokens": 2, "outputTokens": 5, "reasoningOutputTokens": 0}
    tokens: JSON = {**counts}
    total: JSON = {name: count * answers for name, count in counts.items()}
    empty: JSON = {"type": "agentMessage", "id": "msg", "text": ""}
    full: JSON = {"type": "agentMessage", "id": "msg", "text": "".join(deltas)}
    return _lines(
        [
            notification("turn/started", {"turn": {"id": "turn", "status": "inProgress"}}),
            notification("item/started", {"item": empty}),
            *(notification("item/agentMessage/delta", {"itemId": "msg", "delta": delta}) for delta in deltas),
            notification("item/completed", {"item": full}),
            notification("thread/tokenUsage/updated", {"tokenUsage": {"total": total, "last": tokens}}),
            notification("turn/completed", {"turn": {"id": "turn", "status": "completed", "error": None}}),
        ]
    )


def gemini_says(
    *deltas: str, session: str = "22222222-2222-4222-8222-222222222222", model: str = "gemini-scripted"
) -> list[Step]:
    """Answer as Gemini CLI 0.61.0 does, a message event for each delta, after an echo of the prompt."""
    at = "2026-01-01T00:00:00.000Z"
    stats: JSON = {
        "total_tokens": 17,
        "input_tokens": 12,
        "output_tokens": 5,
        "cached": 2,
        "input": 10,
        "duration_ms": 10,
        "tool_calls": 0,
        "models": {},
    }
    texts: list[JSON] = [
        {"type": "message", "timestamp": at, "role": "assistant", "content": delta, "delta": True} for delta in deltas
    ]
    return _lines(
        [
            {"type": "init", "timestamp": at, "session_id": session, "model": model},
            {"type": "message", "timestamp": at, "role": "user", "content": "(the prompt)"},
            *texts,
            {"type": "result", "timestamp": at, "status": "success", "stats": stats},
        ]
    )


def says(backend: str, *texts: str) -> list[Step]:
    """Answer as the CLI of this backend does."""
    return {"claude": claude_says, "codex": codex_streams, "gemini": gemini_says}[backend](*texts)
