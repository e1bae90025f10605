"""OpenAI's Responses API, as used by openai-py 3.57: https://platform.openai.com/docs/api-reference/responses."""

from collections.abc import Mapping

import msgspec
from msgspec.structs import asdict, replace

from clinvk.dialects import json_bodies, sse, vendor
from clinvk.dialects.conversation import Conversation
from clinvk.dialects.dialect import Call, Encoder, Previous
from clinvk.dialects.openai.answers import OpenAIApi, error_object
from clinvk.dialects.openai.responses import body as bodies
from clinvk.dialects.openai.responses import response_object, stored
from clinvk.dialects.openai.responses.body import ResponseBody
from clinvk.dialects.openai.responses.input_items import conversation
from clinvk.dialects.openai.responses.output_items import Output, StreamEvent
from clinvk.dialects.openai.responses.response_object import Response
from clinvk.types.errors import ClinvkError, InvalidRequest, PreviousNotFound
from clinvk.types.events import Event, RunResult, TextDelta
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ResponsesCall(Call, frozen=True, kw_only=True):
    """A request for a response; `blank` is the response with the fields that the request determines."""

    blank: Response


class ResponsesEncoder:
    """Encodes the events of the stream of one response after number `after`.

    With `accepts_comments` the client takes a comment as a sign of life.
    """

    def __init__(self, output: Output, accepts_comments: bool = True, after: int = -1) -> None:
        self._output = output
        self._accepts_comments = accepts_comments
        self._after = after
        self._number = 0

    def feed(self, event: Event, at: float) -> bytes:
        """Return the bytes of one event of the run; the first call also returns the start of the response."""
        return b"".join([self._numbered(each) for each in self._output.feed(event, at)])

    def keep_alive(self) -> bytes:
        """Return the start of the response, or bytes without meaning that keep the stream alive.

        The bytes have no sequence number of their own: a stream that is read again has the same numbers.
        """
        if not self._number:
            return b"".join([self._numbered(event) for event in self._output.begin()])
        if self._accepts_comments or self._output.response.status != "in_progress":
            return sse.PULSE
        return _framed(self._output.in_progress, self._number - 1)

    def error(self, error: ClinvkError) -> bytes:
        """Return the event `error` for a stream that breaks off, as OpenAI documents it and as its SDKs read it.

        The event has the number of the event before, after which the client can read on.
        """
        _, what = error_object(error)
        fields: dict[str, object] = {"error": what, "code": what.code, "message": what.message, "param": what.param}
        return _framed(StreamEvent("error", fields), max(self._number - 1, self._after))

    def _numbered(self, event: StreamEvent) -> bytes:
        number, self._number = self._number, self._number + 1
        return _framed(event, number) if number > self._after else b""


def _framed(event: StreamEvent, number: int) -> bytes:
    data = _encode({"type": event.type, "sequence_number": number, **event.fields})
    return sse.frame(data, event=event.type)


class OpenAIResponses(OpenAIApi):
    """The dialect of `/openai/v1/responses`."""

    fields: Mapping[str, str] = {
        **vendor.FIELDS,
        "effort": "reasoning.effort",
        "images": "input",
        "max_tokens": "max_output_tokens",
        "output_schema": "text.format.schema",
        "prompt": "input",
        "system_prompt": "instructions",
    }

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a body.

        Raises:
            InvalidRequest: names the field.
        """
        parsed, items = bodies.read(body)
        blank = bodies.blank(parsed)
        input_conversation = conversation(parsed.instructions, items)
        options = vendor.header_options(headers)
        request = RunRequest(
            prompt="",
            model=parsed.model,
            effort=parsed.reasoning.effort if parsed.reasoning else None,
            thinking=bodies.summary(parsed) is not None,
            max_tokens=parsed.max_output_tokens,
            output_schema=bodies.schema(parsed),
            metadata=dict(blank.metadata),
            client_tools=tuple(bodies.client_tools(parsed)),
        )
        options = replace(options, starts_session=options.starts_session or blank.store)
        previous = _previous(parsed, input_conversation, options)
        choice = bodies.tool_choice(parsed)
        call = vendor.call(
            request, input_conversation, options, "input", choice, has_earlier_calls=previous is not None
        )
        request = call.request
        if blank.store:
            request = replace(request, answer_as=stored.answer_as(blank, request, options.shows_work))
        call = replace(
            call,
            request=request,
            model=parsed.model,
            stream=bool(parsed.stream),
            detach=blank.background,
            respond_async=blank.background and not parsed.stream,
            ignored=bodies.ignored(parsed),
            previous=previous,
            fails_in_stream=bool(parsed.stream) and _takes_only_events(headers),
        )
        if call.tool_turn and call.previous:
            answer_id = (parsed.previous_response_id or "").removeprefix(stored.PREFIX)
            call = replace(call, tool_turn=replace(call.tool_turn, previous=answer_id))
        return ResponsesCall(**asdict(call), blank=blank)

    def count(self, body: bytes, headers: Mapping[str, str]) -> response_object.InputTokenCount:
        """Return the answer to a request for a token estimate; raise what `parse` raises. The model is optional."""
        fields = json_bodies.decode(body, _fields)
        if bytes(fields.get("model", b"null")) == b"null":
            fields["model"] = msgspec.Raw(b'"default"')
        return response_object.InputTokenCount(vendor.estimate(self.parse(_encode(fields), headers).request))

    def encoder(self, call: Call, facts: RunFacts) -> ResponsesEncoder:
        """Return the encoder of one stream."""
        return ResponsesEncoder(Output(_started(call, facts), call, facts.run_id), not call.fails_in_stream)

    def kept_alive(self, encoder: Encoder) -> bytes:
        """Return what keeps the stream alive: Codex abandons a stream without events for five minutes."""
        assert isinstance(encoder, ResponsesEncoder)
        return encoder.keep_alive()

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the response for an ended run."""
        output = Output(_started(call, facts), call, facts.run_id)
        for event in (*(result.said or (TextDelta(result.text),)), result.ending):
            output.feed(event, facts.ended_at or facts.created_at)
        return _encode(output.response)

    def accepted(self, call: Call, facts: RunFacts) -> bytes:
        """Return the response for a run in the background."""
        return _encode(replace(_started(call, facts), status="queued" if facts.state == "queued" else "in_progress"))


def _started(call: Call, facts: RunFacts) -> Response:
    assert isinstance(call, ResponsesCall)
    return stored.started(call.blank, facts.run_id, facts.created_at)


def _takes_only_events(headers: Mapping[str, str]) -> bool:
    """Return whether the client accepts only a stream, as Codex does; the SDKs accept JSON too."""
    return headers.get("accept", "").partition(";")[0].strip().lower() == sse.MEDIA_TYPE


def _previous(body: ResponseBody, conversation: Conversation, options: vendor.HeaderOptions) -> Previous | None:
    """Return the run that the request continues, or None.

    Raises:
        InvalidRequest: the request also names a session, or the id is not the id of a response.
    """
    field = "previous_response_id"
    if not body.previous_response_id:
        return None
    if options.session_id:
        raise InvalidRequest(f"{field} and the header {vendor.SESSION} say the same: use one", field)
    run_id = stored.run_id(body.previous_response_id)
    if run_id is None:
        raise PreviousNotFound(f"Previous response with id {body.previous_response_id!r} not found.", field)
    instructions = body.instructions or ""
    later = replace(conversation, system=conversation.system[1:]) if instructions else conversation
    return Previous(run_id, field, later, instructions)
