"""The endpoints of the model APIs besides prompts: models, estimates of tokens, and stored responses.

The name of a backend stands for its default model; no agent is started. Models that the policy or the key of the
request does not allow are left out.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.exchange import TICK_S, Exchange
from clinvk.api.endpoints.runs import stored_events
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import ANTHROPIC, GOOGLE, OPENAI
from clinvk.api.http.response import NO_TRANSFORM, DisconnectWatch, chunked, headers_of, read_json, too_large
from clinvk.backends import registry as backends
from clinvk.dialects import anthropic, google, sse
from clinvk.dialects.openai.answers import Model, ModelList
from clinvk.dialects.openai.responses import OpenAIResponses, ResponsesEncoder, stored
from clinvk.dialects.openai.responses.response_object import DeletedResponse, InputItemPage, InputTokenCount, Response
from clinvk.dialects.openai.responses.stored import StoredRequest
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.store.protocol import RunQuery
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import ClinvkError, InvalidRequest, ModelNotFound, RunNotFound
from clinvk.types.events import Logged
from clinvk.types.record import RunRecord


async def list_models(services: Services, request: Request) -> ModelList:
    """List the models."""
    names = _names(services, request)
    return ModelList(data=[Model(id=name, owned_by=backend) for name, backend in names])


async def get_model(services: Services, request: Request) -> Model:
    """Show a model."""
    name: str = request.path_params["id"]
    return Model(id=name, owned_by=_backend_of(services, request, name))


async def list_anthropic_models(services: Services, request: Request) -> anthropic.ModelPage:
    """List the models."""
    models = [anthropic.Model(id=name, display_name=name) for name, _ in _names(services, request)]
    ids = [model.id for model in models] or [None]
    return anthropic.ModelPage(data=models, first_id=ids[0], last_id=ids[-1])


async def get_anthropic_model(services: Services, request: Request) -> anthropic.Model:
    """Show a model."""
    name: str = request.path_params["id"]
    _backend_of(services, request, name)
    return anthropic.Model(id=name, display_name=name)


async def list_models_of_either(services: Services, request: Request) -> msgspec.Struct:
    """Answer `GET /v1/models`, which two vendors share."""
    is_openai = request.state.dialect is OPENAI
    return await (list_models if is_openai else list_anthropic_models)(services, request)


async def get_model_of_either(services: Services, request: Request) -> msgspec.Struct:
    """Answer `GET /v1/models/{id}`, which two vendors share."""
    is_openai = request.state.dialect is OPENAI
    return await (get_model if is_openai else get_anthropic_model)(services, request)


async def count_tokens(services: Services, request: Request) -> anthropic.TokenCount:
    """Estimate the tokens of a message."""
    body = await read_json(request.scope, request.receive, services.settings.server)
    return await run_in_loop_thread(len(body), ANTHROPIC.count, body, headers_of(request.scope))


async def count_input_tokens(services: Services, request: Request) -> InputTokenCount:
    """Estimate the tokens of the input of a response, without the turns before."""
    body = await read_json(request.scope, request.receive, services.settings.server)
    return await run_in_loop_thread(len(body), RESPONSES.count, body, headers_of(request.scope))


async def list_google_models(services: Services, request: Request) -> google.ModelPage:
    """List the models."""
    return google.ModelPage([google.model(name) for name, _ in _names(services, request)])


async def get_google_model(services: Services, request: Request) -> google.Model:
    """Show a model."""
    name: str = request.path_params["id"]
    _backend_of(services, request, name)
    return google.model(name)


async def count_google_tokens(services: Services, request: Request) -> google.TokenCount:
    """Estimate the tokens of a request."""
    body = await read_json(request.scope, request.receive, services.settings.server)
    return await run_in_loop_thread(len(body), GOOGLE.count, body, headers_of(request.scope))


def _names(services: Services, request: Request) -> Iterator[tuple[str, str]]:
    """Yield the name and the backend of each model."""
    for backend in services.backends(request):
        if backend.available:
            yield backend.name, backend.name
            yield from ((f"{backend.name}/{model}", backend.name) for model in backend.models)


def _backend_of(services: Services, request: Request, name: str) -> str:
    """Return the backend of a model, listed or not: no CLI lists all of its models.

    Raises:
        ModelNotFound: no backend has the model, or the model or its backend is not allowed or not installed.
    """
    backend, model = backends.resolve_model(name, "", services.registry)
    is_allowed = not model or services.admission.policy.has_model(backend, model)
    if not is_allowed or backend not in {owner for _, owner in _names(services, request)}:
        raise ModelNotFound(f"unknown model {name!r:.100}; GET models lists the available ones")
    return backend


_encode = msgspec.json.Encoder().encode

RESPONSES = OpenAIResponses()


class ResponseReading(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a stored response. Other parameters are ignored."""

    stream: Annotated[bool, Meta(description="Answer with the events of the response.")] = False
    starting_after: Annotated[int, Meta(ge=-1, le=2**31 - 1, description="The number of the last known event.")] = -1


class InputItemListing(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the input of a response. Other parameters are ignored."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Maximum number of items.")] = 20
    order: Annotated[Literal["asc", "desc"], Meta(description="Oldest or newest first.")] = "desc"
    after: Annotated[str | None, Meta(description="The item after which to start.")] = None


async def get_response(services: Services, request: Request, query: ResponseReading) -> Response | ASGIApp:
    """Show a stored response. With `stream` the answer has the events of the response, until its end."""
    found = await _found(services, request.path_params["id"])
    if not query.stream:
        return found.response
    response, run, data, entries = found
    last = stored.last_number(run, data, entries, response.id)
    if query.starting_after > last and response.status not in ("queued", "in_progress"):
        raise InvalidRequest(f"starting_after must be at most {last}, the number of the last event", "starting_after")
    encoder = ResponsesEncoder(stored.output_of(run, data, response.id), after=query.starting_after)
    pieces = _pieces(services, run, stored.AnswerEvents(data, response.id), encoder)
    return lambda scope, receive, send: _ResponseStream(pieces, encoder, scope, receive, send).serve()


async def cancel_response(services: Services, request: Request) -> Response:
    """Cancel a response that is being made."""
    refuse_foreign(request.scope)
    response_id: str = request.path_params["id"]
    run, _ = await _find(services, response_id)
    await services.runs.cancel(run.id)
    return (await _found(services, response_id)).response


async def delete_response(services: Services, request: Request) -> DeletedResponse:
    """Delete a response, and cancel its run. The session is deleted with the last of its responses."""
    response_id: str = request.path_params["id"]
    run = (await _found(services, response_id)).run
    session = await services.store.session(run.session_id or "")
    await services.admission.key_policy.check_session(session, request.state.key_name)
    await services.runs.cancel(run.id)
    turns = await services.store.runs(RunQuery(session_id=session.id, limit=1000))
    has_all = turns.total == len(turns.items)
    if has_all and all(turn.id == run.id or stored.is_deleted(turn) for turn in turns.items):
        await services.store.delete(session.id)
    else:
        await services.store.change_request(stored.deleted(run))
    return DeletedResponse(id=response_id)


async def list_input_items(services: Services, request: Request, query: InputItemListing) -> InputItemPage:
    """List the input of a response. Images are not stored."""
    found = await _found(services, request.path_params["id"])
    items = stored.input_items(found.run, found.data, found.entries, found.response.id)
    if query.order == "desc":
        items.reverse()
    ids = [str(item["id"]) for item in items]
    if query.after is not None and query.after not in ids:
        raise InvalidRequest(f"after: the input has no item {query.after!r:.100}", "after")
    start = 0 if query.after is None else ids.index(query.after) + 1
    end = start + query.limit
    shown = ids[start:end] or [None]
    return InputItemPage(data=items[start:end], first_id=shown[0], last_id=shown[-1], has_more=end < len(items))


async def _pieces(
    services: Services, run: RunRecord, events: stored.AnswerEvents, encoder: ResponsesEncoder
) -> AsyncIterator[bytes]:
    """Yield the stream of a response, and follow the response while its run works."""
    live = services.runs.live(run.id)
    async for batch in live.log.batches() if live else stored_events(services, run):
        picked = ((events.feed(event), at) for _, at, event in batch)
        for piece in chunked(encoder.feed(event, at) for event, at in picked if event):
            yield piece
        if events.is_complete:
            return


class _ResponseStream(Exchange):
    """The stream of a stored response. The run continues after the reader disconnects."""

    __slots__ = ("_encoder", "_pieces")

    def __init__(
        self, pieces: AsyncIterator[bytes], encoder: ResponsesEncoder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        super().__init__(scope, receive, send, RESPONSES, sse.MEDIA_TYPE, TICK_S)
        self._pieces = pieces
        self._encoder = encoder

    async def _answer(self, disconnect: DisconnectWatch) -> None:
        disconnect.watch()
        await self._open(NO_TRANSFORM)
        async for data in self._pieces:
            await self._response.write(data)
        await self._response.end()

    async def _keep_alive(self) -> None:
        if self._response.is_quiet(2 * self._tick_s):
            await self._response.keep_alive(sse.PULSE)

    def _error_piece(self, error: ClinvkError) -> bytes:
        return self._encoder.error(error)


async def expand_references(services: Services, body: bytes) -> bytes:
    """Return the body of a request, with references to earlier answers replaced by the answers.

    Raises:
        InvalidRequest: a referenced answer does not exist, or is referenced twice.
        BodyTooLarge: the body with the answers has more than `server.max_request_body_bytes` (0: no limit).
    """
    if not (names := await run_in_loop_thread(len(body), stored.references, body)):
        return body
    found: dict[str, bytes] = {}
    size, max_bytes = len(body), services.settings.server.max_request_body_bytes
    for answer_id, ids in names.items():
        try:
            response = (await _found(services, stored.response_id(answer_id))).response
        except RunNotFound:
            break  # one missing response is enough to refuse the request
        items = {item.id: _encode(item) for item in response.output if item.id in ids}
        size += sum(map(len, items.values()))
        if max_bytes and size > max_bytes:
            raise too_large(max_bytes, "the body with the answers that it names")
        found |= items
    return await run_in_loop_thread(len(body), stored.with_items, body, found)


async def _find(services: Services, response_id: str) -> tuple[RunRecord, StoredRequest]:
    """Return the run of a response, and the stored part of the response."""
    not_found = RunNotFound(f"Response with id {response_id!r} not found.")
    if (run_id := stored.run_id(response_id)) is None:
        raise not_found
    try:
        run = await services.store.run(run_id)
    except RunNotFound:
        raise not_found from None
    if (data := stored.stored_request(run)) is None:
        raise not_found
    return run, data


class _Found(NamedTuple):
    """A response, and what the response was rebuilt from."""

    response: Response
    run: RunRecord
    data: StoredRequest
    entries: Sequence[Logged]


async def _found(services: Services, response_id: str) -> _Found:
    """Return a response as rebuilt from the events of its run.

    Raises:
        RunNotFound: no stored run has such a response.
    """
    run, data = await _find(services, response_id)
    entries = await _entries(services, run)
    return _Found(stored.rebuilt(run, data, entries, response_id), run, data, entries)


async def _entries(services: Services, run: RunRecord) -> Sequence[Logged]:
    """Return the events of a run so far; empty while the run is under way in another process."""
    if live := services.runs.live(run.id):
        return live.log.since(0)
    if run.state in UNDER_WAY:
        return []
    return [entry async for batch in stored_events(services, run) for entry in batch]
