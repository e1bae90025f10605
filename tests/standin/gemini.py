"""Gemini generateContent, as Gemini CLI 0.61.0 uses it: https://ai.google.dev/api/generate-content"""

import re
from collections.abc import Iterator

from standin.document import JSON, Record, record, records, string, texts
from standin.wire import Ask, Call, Frame, Reply, Text, Thinking, new_id, written

ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    529: "UNAVAILABLE",
}
STOPS = {"end_turn": "STOP", "stop_sequence": "STOP", "max_tokens": "MAX_TOKENS", "refusal": "SAFETY"}


class GenerateContent:
    """`POST /v1beta/models/MODEL:generateContent` and `:streamGenerateContent`."""

    def read(self, path: str, body: Record) -> Ask:
        """Parse a request. A request for JSON is the CLI's own question."""
        user, prompts, calls = "", 0, 0
        results: list[JSON] = []
        for content in records(body, "contents"):
            parts = records(content, "parts")
            if content.get("role") == "user" and (text := written(texts(content, "parts"))):
                user, prompts, calls, results = text, prompts + 1, 0, []
            calls += sum("functionCall" in part for part in parts)
            results += [
                {"name": string(answer, "name"), "output": answer.get("response")}
                for part in parts
                if (answer := record(part, "functionResponse"))
            ]
        declared = [one for tool in records(body, "tools") for one in records(tool, "functionDeclarations")]
        named = re.search(r"models/([^:/]+)", path)
        return Ask(
            wire="gemini",
            model=named[1] if named else "",
            stream=":stream" in path,
            user=user,
            prompts=prompts,
            tools=tuple(string(one, "name") for one in declared),
            calls=calls,
            results=tuple(results),
            aside=string(record(body, "generationConfig"), "responseMimeType") == "application/json",
        )

    def frames(self, ask: Ask, reply: Reply) -> Iterator[Frame]:
        """Yield the events of a streamed answer; the last part carries the end and the tokens."""
        parts = [part for block in reply.blocks for part in _parts(block)] or [{"text": ""}]
        for part in parts[:-1]:
            yield Frame(_piece(ask, [part]), chunk=True)
        yield Frame(_last(ask, parts[-1:], reply), chunk=True)

    def whole(self, ask: Ask, reply: Reply) -> Record:
        """Return an answer that is not streamed."""
        joined = [
            block._replace(chunks=("".join(block.chunks),)) if not isinstance(block, Call) else block
            for block in reply.blocks
        ]
        return _last(ask, [part for block in joined for part in _parts(block)], reply)

    def error(self, status: int, message: str) -> Record:
        """Return the body of a refusal."""
        return {"error": {"code": status, "message": message, "status": ERRORS.get(status, "INTERNAL")}}

    def broken(self, message: str) -> Frame:
        """Return the event by which a stream reports its failure."""
        return Frame(self.error(503, message))


def _parts(block: Text | Thinking | Call) -> list[Record]:
    match block:
        case Text(chunks):
            return [{"text": chunk} for chunk in chunks]
        case Thinking(chunks):
            return [{"text": f"**Thinking** {chunk}", "thought": True} for chunk in chunks]
        case Call(name, given):
            return [{"functionCall": {"name": name, "args": given}, "thoughtSignature": "c2lnbmVk"}]


def _piece(ask: Ask, parts: list[Record]) -> Record:
    content: Record = {"role": "model", "parts": [*parts]}
    return {"candidates": [{"content": content, "index": 0}], "modelVersion": ask.model, "responseId": new_id("")}


def _last(ask: Ask, parts: list[Record], reply: Reply) -> Record:
    usage = reply.usage
    content: Record = {"role": "model", "parts": [*parts]}
    finish = "STOP" if reply.calls else STOPS.get(reply.stop, "OTHER")
    return {
        **_piece(ask, parts),
        "candidates": [{"content": content, "index": 0, "finishReason": finish}],
        "usageMetadata": {
            "promptTokenCount": usage.input,
            "cachedContentTokenCount": usage.cached,
            "candidatesTokenCount": usage.output - usage.reasoning,
            "thoughtsTokenCount": usage.reasoning,
            "totalTokenCount": usage.input + usage.output,
        },
    }
