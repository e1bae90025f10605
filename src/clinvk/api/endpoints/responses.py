"""The endpoints for stored responses of the OpenAI API, rebuilt from the records of their runs."""

from typing import NamedTuple

import msgspec
from starlette.requests import Request

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.runs import RunEventsEndpoint
from clinvk.api.http.response import too_large
from clinvk.dialects.openai.responses import response_object, stored
from clinvk.dialects.openai.responses.stored import Kept
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.store.protocol import UNDER_WAY, SessionStore
from clinvk.types.errors import InvalidRequest, RunNotFound
from clinvk.types.record import RunRecord

_encode = msgspec.json.Encoder().encode


class ResponseEndpoints(NamedTuple):
    """The endpoints below `/openai/v1/responses/{id}`, and the items of responses that later requests refer to."""

    runs: LocalRuns
    store: SessionStore
    viewers: RunEventsEndpoint

    async def one(self, request: Request) -> response_object.Response:
        """Show a stored response."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("stream is not supported here: only a response that is being made streams", "stream")
        return await self._rebuild(*await self._find(request.path_params["id"]))

    async def cancel(self, request: Request) -> response_object.Response:
        """Cancel a response that is being made. An ended response is unchanged."""
        refuse_foreign(request.scope)
        run, stored_part = await self._find(request.path_params["id"])
        await self.runs.cancel(run.id)
        return await self._rebuild(await self.store.run(run.id), stored_part)

    async def expand_references(self, body: bytes, max_bytes: int) -> bytes:
        """Return the body of a request, with references to earlier answers replaced by the answers.

        Raises:
            InvalidRequest: a referenced answer does not exist, or is referenced twice.
            BodyTooLarge: the body with the answers has more than `max_bytes` (0: no limit).
        """
        if not (names := await run_in_loop_thread(len(body), stored.named, body)):
            return body
        found: dict[str, bytes] = {}
        size = len(body)
        for run_id, ids in names.items():
            try:
                response = await self._rebuild(*await self._find(stored.response_id(run_id)))
            except RunNotFound:
                break  # one missing response is enough to refuse the request
            items = {item.id: _encode(item) for item in response.output if item.id in ids}
            size += sum(map(len, items.values()))
            if max_bytes and size > max_bytes:
                raise too_large(max_bytes, "the body with the answers that it names")
            found |= items
        return await run_in_loop_thread(len(body), stored.spelled_out, body, found)

    async def _find(self, response_id: str) -> tuple[RunRecord, Kept]:
        """Return the run of a response, and the stored part of the response."""
        not_found = RunNotFound(f"Response with id {response_id!r} not found.")
        run_id = stored.run_id(response_id)
        if run_id is None:
            raise not_found
        try:
            run = await self.store.run(run_id)
        except RunNotFound:
            raise not_found from None
        if (stored_part := stored.of(run)) is None:
            raise not_found
        return run, stored_part

    async def _rebuild(self, run: RunRecord, stored_part: Kept) -> response_object.Response:
        batches = [] if run.state in UNDER_WAY else [batch async for batch in self.viewers.stored_events(run)]
        return stored.again(run, stored_part, [event for batch in batches for _, _, event in batch])
