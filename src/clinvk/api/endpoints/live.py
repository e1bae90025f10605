"""The endpoint for the live events of the server."""

from contextlib import aclosing
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from clinvk.api.endpoints.runs import last_event_id
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import NO_BUFFERING, DisconnectWatch, HttpResponse
from clinvk.dialects import sse

QUIET_S = 10.0
"""How long a stream may be quiet until a comment is sent."""


class LiveEventsEndpoint(NamedTuple):
    """Answers `GET /api/v1/events`, as an ASGI application. The stream ends with the key or the login of the viewer."""

    services: Services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the viewer disconnects."""
        after = last_event_id(scope)
        response = HttpResponse(send, self.services.settings.server.write_timeout_secs)
        async with DisconnectWatch(receive, response, lambda: QUIET_S, _ignore_quiet) as disconnect:
            disconnect.watch()
            await response.open(200, sse.MEDIA_TYPE, [NO_BUFFERING])
            if scope["method"] != "HEAD":
                await response.write(sse.OPENING)
                async with aclosing(self.services.live.follow(after, QUIET_S)) as events:
                    async for event in events:
                        if not self.services.access.login_of(scope):
                            break
                        await response.write(event)
            await response.end()


async def _ignore_quiet() -> None:
    """Do nothing; `LiveEvents.follow` yields the comments of a quiet stream."""
