"""Records of runs over HTTP: listed, shown; and runs under way, cancelled."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from clinvk import backends
from clinvk.api.hosts import refuse_foreign
from clinvk.api.reply import document
from clinvk.api.sessions import check_backend
from clinvk.backends.base import Backend
from clinvk.dialects import records, strict
from clinvk.dialects.base import NotCancellable
from clinvk.record import RunRecord
from clinvk.runtime.runs import Runs
from clinvk.store import UNDER_WAY, RunQuery, SessionStore

if TYPE_CHECKING:
    from clinvk.orchestrate.live import Orchestrations


class RunRecords:
    """The endpoints below `/api/v1/runs`, events apart. Where a path has an id, a unique prefix of it will do."""

    def __init__(
        self,
        runs: Runs,
        store: SessionStore,
        orchestrations: Callable[[], "Orchestrations"],
        registry: Mapping[str, Backend] = backends.BACKENDS,
    ) -> None:
        self._runs = runs
        self._orchestrations = orchestrations
        self._store = store
        self._registry = registry

    async def all(self, request: Request) -> Response:
        """Answer `GET /api/v1/runs`."""
        asked = strict.parameters(request.scope["query_string"], records.RunListing)
        check_backend(asked.backend, self._registry)
        session = await self._store.session(asked.session_id) if asked.session_id else None
        parent = await self._store.run(asked.parent_id) if asked.parent_id else None
        page = await self._store.runs(
            RunQuery(
                session_id=session.id if session else None,
                parent_id=parent.id if parent else None,
                backend=asked.backend,
                state=asked.state,
                limit=asked.limit,
                offset=asked.offset,
            )
        )
        shown = [records.run_item(run) for run in page.items]
        return document(
            records.RunList(
                runs=shown, total=page.total, limit=asked.limit, offset=asked.offset, unreadable=page.unreadable
            )
        )

    async def one(self, request: Request) -> Response:
        """Answer `GET /api/v1/runs/{id}`."""
        return await self._shown(request.path_params["id"])

    async def cancel(self, request: Request) -> Response:
        """Answer `POST /api/v1/runs/{id}/cancel`, once the agent has been told to stop and its ending is known."""
        refuse_foreign(request.scope)
        run = await self._store.run(request.path_params["id"])
        live = self._runs.live(run.id)
        if run.kind != "prompt" and (whole := self._orchestrations().live(run.id)):
            await whole.cancel()
        elif live and live.state in UNDER_WAY:
            await self._runs.cancel(run.id)
        else:
            raise NotCancellable(_why_not(await self._store.run(run.id)))
        return await self._shown(run.id)

    async def _shown(self, reference: str) -> Response:
        """Show a run, with its parts where it has some: the first ones, since a list begins with the newest."""
        run = await self._store.run(reference)
        if run.kind == "prompt":
            live = self._runs.live(run.id)
            return document(records.run_view(run, queue_position=live.queue_position if live else None))
        page = await self._store.runs(RunQuery(parent_id=run.id, limit=records.SHOWN_PARTS))
        if (over := page.total - records.SHOWN_PARTS) > 0:
            page = await self._store.runs(RunQuery(parent_id=run.id, limit=records.SHOWN_PARTS, offset=over))
        return document(records.run_view(run, page.items, page.total))


def _why_not(run: RunRecord) -> str:
    if run.state in UNDER_WAY:
        return f"run {run.id!r} goes on in another clinvk; it can be cancelled only there"
    return f"run {run.id!r} has ended already: it is {run.state}"
