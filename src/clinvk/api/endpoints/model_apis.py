"""The endpoints of the model APIs besides prompts: models, estimates of tokens, and stored responses.

The name of a backend stands for its default model; no agent is started. Models that the policy or the key of the
request does not allow are left out.
"""

from collections.abc import Iterator

import msgspec
from starlette.requests import Request

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.runs import stored_events
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import ANTHROPIC, OPENAI
from clinvk.api.http.response import headers_of, read_json, too_large
from clinvk.backends import registry as backends
from clinvk.dialects import anthropic
from clinvk.dialects.openai.answers import Model, ModelList
from clinvk.dialects.openai.responses import response_object, stored
from clinvk.dialects.openai.responses.stored import StoredRequest
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import InvalidRequest, ModelNotFound, RunNotFound
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


async def get_response(services: Services, request: Request) -> response_object.Response:
    """Show a stored response."""
    if request.query_params.get("stream") == "true":
        raise InvalidRequest("stream is not supported here: only a response that is being made streams", "stream")
    return await _response(services, request.path_params["id"])


async def cancel_response(services: Services, request: Request) -> response_object.Response:
    """Cancel a response that is being made."""
    refuse_foreign(request.scope)
    response_id: str = request.path_params["id"]
    run, _ = await _find(services, response_id)
    await services.runs.cancel(run.id)
    return await _response(services, response_id)


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
            response = await _response(services, stored.response_id(answer_id))
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


async def _response(services: Services, response_id: str) -> response_object.Response:
    """Rebuild a response from the record and the events of its run."""
    run, data = await _find(services, response_id)
    if live := services.runs.live(run.id):
        entries = live.log.since(0)
    elif run.state in UNDER_WAY:
        entries = []
    else:
        entries = [entry async for batch in stored_events(services, run) for entry in batch]
    return stored.rebuilt(run, data, entries, response_id)
