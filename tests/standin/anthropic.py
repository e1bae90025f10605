"""Anthropic Messages, as Claude Code 2.1.197 uses it: https://docs.anthropic.com/en/api/messages-streaming"""

from collections.abc import Iterator

from standin.document import JSON, Record, dumps, records, string, texts
from standin.wire import Ask, Call, Frame, Reply, Text, Thinking, new_id, written

ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
JSON_PIECE = 12
"""Letters of a tool's input in one delta."""


class Messages:
    """`POST /v1/messages`."""

    def read(self, path: str, body: Record) -> Ask:
        """Understand a request."""
        user, prompts, calls = "", 0, 0
        results: list[JSON] = []
        for message in records(body, "messages"):
            content = records(message, "content")
            if message.get("role") == "user" and (text := written(texts(message, "content"))):
                user, prompts, calls, results = text, prompts + 1, 0, []
            calls += sum(part.get("type") == "tool_use" for part in content)
            results += [
                {"is_error": part.get("is_error", False), "output": part.get("content")}
                for part in content
                if part.get("type") == "tool_result"
            ]
        names = tuple(string(tool, "name") for tool in records(body, "tools"))
        stream = body.get("stream") is True
        return Ask("anthropic", string(body, "model"), stream, user, prompts, names, calls, tuple(results))

    def frames(self, ask: Ask, reply: Reply) -> Iterator[Frame]:
        """Yield the events of a streamed message."""

        def frame(kind: str, chunk: bool = False, **fields: JSON) -> Frame:
            return Frame({"type": kind, **fields}, kind, chunk)

        usage = _usage(reply)
        opening: Record = {**usage, "output_tokens": 1}
        yield frame("message_start", message={**_head(ask), "content": [], "stop_reason": None, "usage": opening})
        yield frame("ping")
        for index, block in enumerate(reply.blocks):
            yield frame("content_block_start", index=index, content_block=_empty(block))
            for delta in _deltas(block):
                yield frame("content_block_delta", chunk=True, index=index, delta=delta)
            yield frame("content_block_stop", index=index)
        yield frame("message_delta", delta={"stop_reason": _stop(reply), "stop_sequence": None}, usage=usage)
        yield frame("message_stop")

    def whole(self, ask: Ask, reply: Reply) -> Record:
        """Return a message that is not streamed."""
        content: list[JSON] = [_full(block) for block in reply.blocks]
        return {**_head(ask), "content": content, "stop_reason": _stop(reply), "usage": _usage(reply)}

    def error(self, status: int, message: str) -> Record:
        """Return the body of a refusal."""
        kind = ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": new_id("req_")}

    def broken(self, message: str) -> Frame:
        """Return the event by which a stream reports its failure."""
        return Frame({"type": "error", "error": {"type": "overloaded_error", "message": message}}, "error")


def _head(ask: Ask) -> Record:
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": ask.model, "stop_sequence": None}


def _usage(reply: Reply) -> Record:
    usage = reply.usage
    return {
        "input_tokens": usage.input - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }


def _stop(reply: Reply) -> str:
    return "tool_use" if reply.calls else reply.stop


def _full(block: Text | Thinking | Call) -> Record:
    match block:
        case Text(chunks):
            return {"type": "text", "text": "".join(chunks)}
        case Thinking(chunks):
            return {"type": "thinking", "thinking": "".join(chunks), "signature": "c2lnbmVk"}
        case Call(name, given):
            return {"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": given}


def _empty(block: Text | Thinking | Call) -> Record:
    match block:
        case Text():
            return {"type": "text", "text": ""}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case Call():
            return {**_full(block), "input": {}}


def _deltas(block: Text | Thinking | Call) -> Iterator[Record]:
    match block:
        case Text(chunks):
            for chunk in chunks:
                yield {"type": "text_delta", "text": chunk}
        case Thinking(chunks):
            for chunk in chunks:
                yield {"type": "thinking_delta", "thinking": chunk}
            yield {"type": "signature_delta", "signature": "c2lnbmVk"}
        case Call(_, given):
            text = dumps(given)
            for at in range(0, len(text), JSON_PIECE):
                yield {"type": "input_json_delta", "partial_json": text[at : at + JSON_PIECE]}
