"""`codex exec --json`: one process per prompt, one JSON object per line.

The CLI sends no deltas: each message arrives complete. Recorded with Codex 0.163.0 and 0.169.0; 0.171.0 prints the same
lines. Codex requests strict output from the API, which supports only a part of JSON Schema:
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from collections.abc import Iterable

import msgspec

from clinvk.backends.codex import failures, wire
from clinvk.backends.codex.turn import ItemDecoder
from clinvk.backends.shared import OneShotChannel, decode_line, with_schema, with_system_prompt
from clinvk.types.events import Event, RunFinished, RunStarted, Usage
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

Json = dict[str, object]

_SUPPORTED_KEYWORDS = frozenset(
    {
        *("$ref", "$schema", "$id", "title", "description", "type", "enum", "const", "anyOf"),
        *("properties", "required", "additionalProperties", "items", "$defs", "definitions"),
        *("pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("minItems", "maxItems"),
    }
)


class _Schema(msgspec.Struct, rename={"defs": "$defs"}):
    """The keywords of JSON Schema that hold other schemas, or that decide whether an object is closed."""

    type: object = None
    properties: dict[str, Json] = {}
    required: list[str] = []
    additionalProperties: object = None  # JSON Schema's spelling
    items: Json | None = None
    anyOf: list[Json] = []
    defs: dict[str, Json] = {}
    definitions: dict[str, Json] = {}


def is_strict(schema: Json) -> bool:
    """Return whether the API accepts a schema: an object, with every object closed and requiring all properties."""
    return schema.get("type") == "object" and "anyOf" not in schema and _is_accepted(schema)


def _is_accepted(schema: Json) -> bool:
    """Return whether the API accepts a schema, and every schema nested in the schema, as a part of a strict schema."""
    try:
        part = msgspec.convert(schema, _Schema)
    except msgspec.ValidationError:
        return False
    is_closed = part.additionalProperties is False and {*part.required} == {*part.properties}
    is_object = part.type == "object" or "properties" in schema
    inner = [*part.properties.values(), *part.defs.values(), *part.definitions.values(), *part.anyOf]
    inner += [part.items] if part.items is not None else []
    return _SUPPORTED_KEYWORDS.issuperset(schema) and (is_closed or not is_object) and all(map(_is_accepted, inner))


class ExecDecoder(ItemDecoder):
    """Turn the lines of one run into events."""

    def __init__(self, wants_json: bool = False, used: Usage | None = None) -> None:
        """Set `used` to the tokens of former turns, which the token totals of a resumed thread include."""
        super().__init__(wants_json=wants_json)
        self._used = used or Usage()
        self._thread = ""

    def feed(self, line: bytes) -> Iterable[Event]:
        """Return the events of one line. A line without an event of a known type yields no events."""
        event = decode_line(wire.EXEC_LINES, line)
        if event is None or (event.item.type and not event.item.kind):
            return
        if self._thread:
            # The thread reaches the disk some milliseconds after its name; until then nobody can resume the thread.
            yield RunStarted(backend_session_id=self._thread)
            self._thread = ""
        match event.type:
            case "thread.started":
                self._thread = event.thread_id
            case "item.started" | "item.updated":
                yield from self.item_started(event.item)
            case "item.completed":
                yield from self.item_completed(event.item)
            case "turn.completed":
                usage = event.totals - self._used if event.totals else None
                yield RunFinished(usage=usage, structured_output=self.structured_output)
            case "turn.failed":
                reason = failures.stop_reason(event.error.message)
                yield RunFinished(reason) if reason else failures.failed(event.error.message)
            case "error":
                yield from self.error_reported(event.message, will_retry=event.message.startswith(failures.RETRYING))
            case _:
                pass

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        """Return the ending of a process that reported no ending."""
        return failures.exited(exit_code, stderr, self.last_error)

    def stderr_message(self, stderr: bytes) -> str:
        """Return the last line of stderr that is not noise."""
        return failures.stderr_message(stderr)


class ExecChannel(OneShotChannel):
    """A process for one run: takes the prompt on stdin, then prints lines."""

    def __init__(self, instructions: str = "") -> None:
        self._instructions = instructions
        super().__init__(ExecDecoder(), _prompt)

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Return the prompt. Any first character is safe: here Codex has no prefix for commands or files."""
        self._decoder = ExecDecoder(request.output_schema is not None, resume.used if resume else None)
        prompt = full_prompt(request, resume, self._instructions)
        return super().start(run, msgspec.structs.replace(request, prompt=prompt), resume)


def _prompt(request: RunRequest) -> bytes:
    return request.prompt.encode()


def full_prompt(request: RunRequest, resume: Resume | None, instructions: str) -> str:
    """Return the full prompt, which in a resumed thread includes the system prompt and any `instructions`."""
    prompt = with_system_prompt(request) if resume else request.prompt
    if instructions:
        prompt = f"{instructions}\n\n{prompt}"
    return prompt if supports_schema(request) else with_schema(prompt, request)


def supports_schema(request: RunRequest) -> bool:
    """Return whether Codex can enforce the request's schema."""
    return request.output_schema is not None and is_strict(request.output_schema)
