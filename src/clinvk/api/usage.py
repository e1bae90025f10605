"""What runs have used, over HTTP."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from clinvk import backends
from clinvk.api.reply import document
from clinvk.api.sessions import check_backend
from clinvk.backends.base import Backend
from clinvk.dialects import strict, usage
from clinvk.store import SessionStore


class UsageRecords:
    """The endpoint `/api/v1/usage`."""

    def __init__(self, store: SessionStore, registry: Mapping[str, Backend] = backends.BACKENDS) -> None:
        self._store = store
        self._registry = registry

    async def all(self, request: Request) -> Response:
        """Answer `GET /api/v1/usage`."""
        asked = strict.parameters(request.scope["query_string"], usage.UsageListing)
        check_backend(asked.backend, self._registry)
        span = usage.span(asked, datetime.now(UTC).date())
        rows = await self._store.usage(span.since, asked.key)
        return document(await asyncio.to_thread(usage.summary, rows, asked, span))
