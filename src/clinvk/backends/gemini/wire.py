"""The lines of `gemini --acp` as structs: JSON-RPC, as 0.61.0 prints it; see tests/unit/recordings/gemini_acp.

The structs here are the extensions of Gemini CLI to the protocol of `acp_wire`.
"""

import msgspec

from clinvk.backends import acp_wire
from clinvk.backends.jsonrpc import Message


class Counts(msgspec.Struct, frozen=True):
    """Token counts."""

    input_tokens: int = 0
    output_tokens: int = 0


class Quota(msgspec.Struct, frozen=True):
    """The token usage of a turn."""

    token_count: Counts = Counts()


class Meta(msgspec.Struct, frozen=True):
    """Extensions to the protocol."""

    quota: Quota = Quota()


class Result(
    msgspec.Struct, frozen=True, rename={"session_id": "sessionId", "stop_reason": "stopReason", "meta": "_meta"}
):
    """The fields of every result that clinvk waits for."""

    session_id: str = ""
    models: acp_wire.Models | None = None
    stop_reason: str = ""
    meta: Meta = Meta()


MESSAGES = msgspec.json.Decoder(Message[acp_wire.Params, Result])
