"""Which web pages of other origins may use the server: https://fetch.spec.whatwg.org/#http-cors-protocol."""

import re
from collections.abc import Awaitable, Mapping
from functools import partial

from clinvk.api.asgi import ASGIApp, Message, Receive, Response, Scope, Send
from clinvk.api.reply import headers_of
from clinvk.config import ServerSettings
from clinvk.errors import ConfigError

_LOCAL = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")
_ANY = "*"
_TEXT = "text/plain; charset=utf-8"
_ASKED = "origin, access-control-request-method, access-control-request-headers, access-control-request-private-network"
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
_EXPOSED = (
    "x-request-id, request-id, retry-after, x-should-retry, x-clinvk-session-id, x-clinvk-run-id, x-clinvk-ignored, "
    "location"
)


class Cors:
    """Answers the preflights of allowed origins, and lets their pages read answers; other requests pass as they are.

    Without a list only pages of this machine are allowed.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self._origins = frozenset(settings.cors_allowed_origins)
        self._is_open = _ANY in self._origins
        self._credentials = {"access-control-allow-credentials": "true"} if settings.cors_allow_credentials else {}
        self._max_age_s = settings.cors_max_age

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on, or answer a preflight: that one never carries a key."""
        origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), None)
        if origin is None or not self._allows(origin):
            return self.app(scope, receive, send)
        scope["state"]["origin_named"] = origin in self._origins - {_ANY}
        asked = headers_of(scope)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in asked:
            return self._preflight(origin, asked)(scope, receive, send)
        return self.app(scope, receive, partial(self._told, send, origin))

    def _allows(self, origin: str) -> bool:
        if self._origins:
            return self._is_open or origin in self._origins
        return _LOCAL.fullmatch(origin) is not None

    def _preflight(self, origin: str, asked: Mapping[str, str]) -> Response:
        """Allow the headers that are asked for, whatever they are, and no other methods than there are."""
        headers = {
            **self._permission(origin),
            "access-control-allow-methods": ", ".join(_METHODS),
            "access-control-max-age": str(self._max_age_s),
            "vary": _ASKED,
        }
        if names := asked.get("access-control-request-headers"):
            headers["access-control-allow-headers"] = names
        method = asked["access-control-request-method"]
        is_local_network = "access-control-request-private-network" in asked
        if method in _METHODS and not is_local_network:
            return Response(b"OK", headers=headers, media_type=_TEXT)
        refused = "private-network" if is_local_network else "method"
        return Response(f"Disallowed CORS {refused}".encode(), 400, headers, _TEXT)

    def _permission(self, origin: str) -> dict[str, str]:
        return {"access-control-allow-origin": "*" if self._is_open else origin, **self._credentials}

    async def _told(self, send: Send, origin: str, message: Message) -> None:
        """Send a message, with the permission to read it where it begins an answer."""
        if message["type"] == "http.response.start":
            headers = {**self._permission(origin), "access-control-expose-headers": _EXPOSED, "vary": "origin"}
            more = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)


def check(settings: ServerSettings) -> None:
    """Look at the origins before the first request comes.

    Raises:
        ConfigError: one is none, or all are allowed to use what a browser knows of its user.
    """
    for index, origin in enumerate(settings.cors_allowed_origins):
        if origin != _ANY and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"server.cors_allowed_origins[{index}] is {origin!r}; an origin is as a browser sends it, "
                "such as https://app.example.com or http://localhost:3000, or '*' for all"
            )
    if _ANY in settings.cors_allowed_origins and settings.cors_allow_credentials:
        raise ConfigError(
            "server.cors_allow_credentials is true, and server.cors_allowed_origins has '*': name the origins instead"
        )
