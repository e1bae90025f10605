"""Every backend passes the contract that plug-ins can test themselves against."""

from pathlib import Path

import msgspec

from clinvk.backends.acp import AcpBackend
from clinvk.backends.registry import BACKENDS
from clinvk.backends.text import TextBackend
from clinvk.testing import BackendContract

RECORDINGS = Path(__file__).parents[1] / "unit" / "recordings"


def recorded(name: str) -> list[bytes]:
    return (RECORDINGS / f"{name}.stdout").read_bytes().splitlines()


class TestClaude(BackendContract):
    backend = BACKENDS["claude"]
    output = recorded("claude/text")
    answer = "word1 word2 word3 word4 word5"


class TestCodex(BackendContract):
    backend = BACKENDS["codex"]
    output = recorded("codex_server/text")
    answer = "word1 word2 word3"
    unshown_options = ("max_turns",)


class TestGemini(BackendContract):
    backend = BACKENDS["gemini"]
    output = recorded("gemini/text")
    answer = "word1 word2 word3 word4 word5"


class TestText(BackendContract):
    backend = TextBackend("upper", ("tr", "a-z", "A-Z"))
    output = (b"HELLO", b"", b"AGAIN")
    answer = "HELLO\n\nAGAIN"


class TestTextWithArgument(BackendContract):
    backend = TextBackend("say", ("say", "{prompt}"))
    output = (b"HELLO",)
    answer = "HELLO"


def message(**fields: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **fields})


class TestAcp(BackendContract):
    backend = AcpBackend("agent", ("agent", "--acp"), ("~/.agent",))
    output = (
        message(id=0, result={"protocolVersion": 1, "agentCapabilities": {"loadSession": True}}),
        message(id=1, result={"sessionId": "s"}),
        message(
            method="session/update",
            params={
                "sessionId": "s",
                "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "HELLO"}},
            },
        ),
        message(id=2, result={"stopReason": "end_turn"}),
    )
    answer = "HELLO"
