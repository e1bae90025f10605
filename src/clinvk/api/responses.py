"""Responses of OpenAI's API that were stored, made again from the records of their runs."""

from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.hosts import refuse_foreign
from clinvk.api.reply import document
from clinvk.api.viewers import Viewers
from clinvk.dialects.openai_responses import kept
from clinvk.dialects.openai_responses.kept import Kept
from clinvk.errors import InvalidRequest, RunNotFound
from clinvk.record import RunRecord
from clinvk.runtime.runs import Runs
from clinvk.store import UNDER_WAY, SessionStore


class Responses:
    """The endpoints below `/openai/v1/responses/{id}`."""

    def __init__(self, runs: Runs, store: SessionStore, viewers: Viewers) -> None:
        self._runs = runs
        self._store = store
        self._viewers = viewers

    async def one(self, request: Request) -> Response:
        """Answer `GET /responses/{id}`."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("stream is not supported here: only a response that is being made streams", "stream")
        return await self._shown(*await self._found(request.path_params["id"]))

    async def cancel(self, request: Request) -> Response:
        """Answer `POST /responses/{id}/cancel`, once the agent has been told to stop; what has ended stays as it is."""
        refuse_foreign(request.scope)
        run, told = await self._found(request.path_params["id"])
        await self._runs.cancel(run.id)
        return await self._shown(await self._store.run(run.id), told)

    async def _found(self, response_id: str) -> tuple[RunRecord, Kept]:
        """Give the run of a response, and what it has kept of that."""
        not_found = RunNotFound(f"Response with id {response_id!r} not found.")
        run_id = kept.run_id(response_id)
        if run_id is None:
            raise not_found
        try:
            run = await self._store.run(run_id)
        except RunNotFound:
            raise not_found from None
        if (told := kept.of(run)) is None:
            raise not_found
        return run, told

    async def _shown(self, run: RunRecord, told: Kept) -> Response:
        batches = [] if run.state in UNDER_WAY else [batch async for batch in self._viewers.kept(run)]
        return document(kept.again(run, told, [event for batch in batches for _, _, event in batch]))
