"""OpenAI Responses, as Codex 0.169.0 uses it: https://platform.openai.com/docs/api-reference/responses-streaming"""

import time
from collections.abc import Iterator

from standin.document import JSON, Record, dumps, records, string, texts
from standin.wire import Ask, Call, Frame, Reply, Text, Thinking, new_id, written

ERRORS = {400: "invalid_request_error", 401: "invalid_request_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
CALLS = ("function_call", "custom_tool_call", "local_shell_call")


class Responses:
    """`POST /v1/responses`."""

    def read(self, path: str, body: Record) -> Ask:
        """Understand a request. Codex tells the tools of some models in an input item of their own."""
        user, prompts, calls = "", 0, 0
        results: list[JSON] = []
        items = records(body, "input")
        if isinstance(plain := body.get("input"), str):
            items = [dict[str, JSON](role="user", content=plain)]
        for item in items:
            kind = string(item, "type")
            if item.get("role") == "user" and (text := written(texts(item, "content"))):
                user, prompts, calls, results = text, prompts + 1, 0, []
            if kind in CALLS:
                calls += 1
            elif kind.endswith("_output"):
                results.append({"type": kind, "output": item.get("output")})
        stream = body.get("stream") is True
        return Ask("openai", string(body, "model"), stream, user, prompts, _tools(body, items), calls, tuple(results))

    def frames(self, ask: Ask, reply: Reply) -> Iterator[Frame]:
        """Yield the events of a streamed response, numbered."""
        for number, frame in enumerate(_frames(ask, reply)):
            yield frame._replace(data={"sequence_number": number, **frame.data})

    def whole(self, ask: Ask, reply: Reply) -> Record:
        """Return a response that is not streamed."""
        return _ended(_head(ask), [_item(block) for block in reply.blocks], reply)

    def error(self, status: int, message: str) -> Record:
        """Return the body of a refusal."""
        kind = ERRORS.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "code": CODES.get(status), "param": None}}

    def broken(self, message: str) -> Frame:
        """Return the event by which a stream reports its failure."""
        error: Record = {"code": "server_error", "message": message}
        response: Record = {"id": new_id("resp_"), "object": "response", "status": "failed", "error": error}
        return Frame({"type": "response.failed", "response": response}, "response.failed")


def _tools(body: Record, items: list[Record]) -> tuple[str, ...]:
    offered = records(body, "tools")
    for item in items:
        if item.get("type") == "additional_tools":
            offered = [*offered, *records(item, "tools")]
    names: list[str] = []
    for tool in offered:
        inner = records(tool, "tools")
        names += [string(one, "name") for one in inner] if inner else [string(tool, "name") or string(tool, "type")]
    return tuple(names)


def _head(ask: Ask) -> Record:
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "model": ask.model,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "error": None,
    }


def _ended(head: Record, items: list[Record], reply: Reply) -> Record:
    usage = reply.usage
    cut = reply.stop == "max_tokens" and not reply.calls
    output: list[JSON] = [*items]
    return {
        **head,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.input + usage.output,
        },
    }


def _item(block: Text | Thinking | Call) -> Record:
    match block:
        case Text(chunks):
            part: Record = {"type": "output_text", "text": "".join(chunks), "annotations": []}
            return {
                "id": new_id("msg_"),
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        case Thinking(chunks):
            summary: Record = {"type": "summary_text", "text": "".join(chunks)}
            return {"id": new_id("rs_"), "type": "reasoning", "summary": [summary]}
        case Call(name, str() as given, namespace):
            kind: Record = {"id": new_id("ctc_"), "type": "custom_tool_call", "input": given}
        case Call(name, given, namespace):
            kind = {"id": new_id("fc_"), "type": "function_call", "arguments": dumps(given)}
    space: Record = {"namespace": namespace} if namespace else {}
    return {**kind, "status": "completed", "call_id": new_id("call_"), "name": name, **space}


def _frames(ask: Ask, reply: Reply) -> Iterator[Frame]:
    head = _head(ask)
    items = [_item(block) for block in reply.blocks]
    yield _frame("response.created", response=head)
    yield _frame("response.in_progress", response=head)
    for index, (block, item) in enumerate(zip(reply.blocks, items, strict=True)):
        opening = {name: value for name, value in item.items() if name not in ("content", "summary")}
        shell: Record = {"summary": []} if isinstance(block, Thinking) else {"status": "in_progress"}
        if isinstance(block, Text):
            shell["content"] = []
        added = _frame("response.output_item.added", output_index=index, item={**opening, **shell})
        yield added._replace(chunk=isinstance(block, Call))
        yield from _inside(block, {"item_id": item["id"], "output_index": index})
        yield _frame("response.output_item.done", output_index=index, item=item)
    ended = _ended(head, items, reply)
    yield _frame(f"response.{string(ended, 'status')}", response=ended)


def _inside(block: Text | Thinking | Call, place: Record) -> Iterator[Frame]:
    match block:
        case Text(chunks):
            empty: Record = {"type": "output_text", "text": "", "annotations": []}
            place = {**place, "content_index": 0}
            text = "".join(chunks)
            yield _frame("response.content_part.added", part=empty, **place)
            for chunk in chunks:
                yield _chunk("response.output_text.delta", delta=chunk, **place)
            yield _frame("response.output_text.done", text=text, **place)
            yield _frame("response.content_part.done", part={**empty, "text": text}, **place)
        case Thinking(chunks):
            place = {**place, "summary_index": 0}
            text = "".join(chunks)
            yield _frame("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""}, **place)
            for chunk in chunks:
                yield _chunk("response.reasoning_summary_text.delta", delta=chunk, **place)
            yield _frame("response.reasoning_summary_text.done", text=text, **place)
        case Call():
            pass


def _frame(kind: str, **fields: JSON) -> Frame:
    return Frame({"type": kind, **fields}, kind)


def _chunk(kind: str, **fields: JSON) -> Frame:
    return _frame(kind, **fields)._replace(chunk=True)


def models() -> Record:
    """Return the body of `GET /v1/models`: empty lists, in OpenAI's shape and in Codex's own."""
    return {"object": "list", "data": [], "models": []}
