"""The endpoints below `/openai/v1/responses/{id}`, and references to the items of stored responses."""

import msgspec
from starlette.requests import Request

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.runs import stored_events
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import too_large
from clinvk.dialects.openai.responses import response_object, stored
from clinvk.dialects.openai.responses.stored import StoredRequest
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.store.protocol import UNDER_WAY
from clinvk.types.errors import InvalidRequest, RunNotFound
from clinvk.types.record import RunRecord

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
    return stored.rebuilt(run, data, [entry.event for entry in entries], response_id)
