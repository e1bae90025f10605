"""Access for web pages of other origins (CORS): https://fetch.spec.whatwg.org/#http-cors-protocol."""

import re

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.config.model import ServerSettings

_LOCAL = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")
_ANY = "*"
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
_EXPOSED = (
    "x-request-id",
    "request-id",
    "retry-after",
    "x-should-retry",
    "x-clinvk-session-id",
    "x-clinvk-run-id",
    "x-clinvk-ignored",
    "location",
    "preference-applied",
)


class CorsMiddleware(CORSMiddleware):
    """Answers preflights of allowed origins, and lets pages of allowed origins read responses.

    Other requests pass unchanged. Without `server.cors_allowed_origins`, only pages of this machine are allowed.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        origins = settings.cors_allowed_origins
        self._named = frozenset(origins) - {_ANY}
        super().__init__(
            app,
            allow_origins=origins,
            allow_origin_regex=None if origins else _LOCAL,
            allow_methods=_METHODS,
            allow_headers=("*",),
            allow_credentials=settings.cors_allow_credentials,
            expose_headers=_EXPOSED,
            max_age=settings.cors_max_age,
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer a preflight, which never carries a key."""
        origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), None)
        if origin is not None and self.is_allowed_origin(origin):
            scope["state"]["origin_named"] = origin in self._named
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def is_origin(text: str) -> bool:
    """Return whether an entry of `server.cors_allowed_origins` is valid."""
    return text == _ANY or bool(_ORIGIN.fullmatch(text))
