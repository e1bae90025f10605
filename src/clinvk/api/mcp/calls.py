"""Calls of tools that wait for runs, by the ids that a client uses to cancel a call."""

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import anyio
from starlette.types import Scope

from clinvk.api.http.response import headers_of

if TYPE_CHECKING:
    from clinvk.api.mcp.tools import RestApi

SESSION_HEADER = "mcp-session-id"
_MAX_KEPT = 1000


class CallKey(NamedTuple):
    """The id of a request of a client, which is a session of an API key; over stdin there is one client."""

    request_id: int | str
    session: str = ""
    key_name: str = ""


def http_key(scope: Scope, request_id: int | str) -> CallKey | None:
    """Return the key of a call over HTTP; None if the client has no session."""
    session = headers_of(scope).get(SESSION_HEADER)
    return CallKey(request_id, session, scope["state"].get("key_name", "")) if session else None


class Calls:
    """The calls of all clients. A call whose client has disconnected may be cancelled later on.

    `attached` are the ids of the runs that end with a cancelled call; see `AwaitedRun`.
    """

    def __init__(self) -> None:
        self._calls: dict[CallKey, tuple[RestApi, anyio.CancelScope]] = {}
        self.attached = deque[str](maxlen=_MAX_KEPT)

    @contextmanager
    def entered(self, key: CallKey | None, api: "RestApi") -> Generator[anyio.CancelScope]:
        """Enter a cancel scope that `cancel` cancels. A call without a key cannot be cancelled."""
        scope, is_lost = anyio.CancelScope(), False
        if key:
            self._calls[key] = api, scope
        for oldest in [*self._calls][:-_MAX_KEPT]:
            del self._calls[oldest]
        try:
            with scope:
                yield scope
        except asyncio.CancelledError:
            is_lost = True
            raise
        finally:
            if key and not is_lost:
                self._calls.pop(key, None)

    async def cancel(self, key: CallKey) -> None:
        """Cancel a call, and stop the run of a call that has lost its client before."""
        api, scope = self._calls.pop(key, (None, None))
        if api and scope:
            scope.cancel()
            await api.stop()
