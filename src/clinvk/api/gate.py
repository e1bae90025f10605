"""Who may come in."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.doors import Doors
from clinvk.api.limits import network_of
from clinvk.api.reply import Header, headers_of, refuse
from clinvk.dialects.base import KeyRefused
from clinvk.errors import ClinvkError, ShuttingDown

_OPEN = ("/health", "/health/live", "/health/ready", "/", "/docs", "/openapi.json")
_OPEN_BELOW = "/docs/"
_UNCOUNTED = ("/health/live", "/health/ready")
_CHALLENGE: tuple[Header, ...] = ((b"www-authenticate", b'Bearer realm="clinvk"'),)
_NOBODY = "nobody"
"""The address of a client that has none, as on a socket in the file system."""


class Gate:
    """Lets a request pass that is meant for this server, is not one too many, and carries an API key or needs none.

    Once the server stops none passes. It is here that this is told, so that pages of other origins can read it.
    The state has the name of its key, empty without one, and its `client`: that name, else what it has of addresses.
    """

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app = app
        self._keys, self._hosts, self._limits, self._proxies = doors.keys, doors.hosts, doors.limits, doors.proxies

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on, or refuse it before its body is read."""
        try:
            self._admit(scope)
        except ClinvkError as error:
            return refuse(error, scope, send, _CHALLENGE if isinstance(error, KeyRefused) else ())
        return self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        if scope["state"]["is_refused"]:
            raise ShuttingDown("the server is stopping and takes no new requests")
        if self._proxies:
            self._proxies.apply(scope)
        key = self._keys.find(headers_of(scope)) if self._keys else None
        address = scope["client"][0] if scope["client"] else _NOBODY
        scope["state"].update(key_name=key.name if key else "", client=key.name if key else network_of(address))
        if scope["path"] not in _UNCOUNTED:
            self._limits.take(address, key)
        self._hosts.check(scope)
        if self._keys and not key and not _is_open(scope):
            raise KeyRefused(
                "an API key is needed: `authorization: Bearer KEY` or `x-api-key: KEY`, "
                "and it must be valid and not expired"
            )


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    if scope["method"] == "OPTIONS":
        return "access-control-request-method" in headers_of(scope)
    return path in _OPEN or path.startswith(_OPEN_BELOW)
