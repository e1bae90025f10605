"""Check the Host and Origin headers of a request, and give web pages of other origins access (CORS).

A web page can point its own host name at the address of this machine (DNS rebinding). The browser then treats the
server as the origin of the page, and only the name in the Host header reveals the attack. CORS is
https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.http.response import Header, headers_of
from clinvk.config.model import ServerSettings
from clinvk.types.errors import ForeignOrigin, HostRefused, InvalidRequest

_LOOPBACK = ("localhost", "ip6-localhost", "localhost.localdomain")
_ANY = "*"
_NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_ALLOWED = re.compile(rf"\*|(?:\*\.)?{_NAME}", re.IGNORECASE)
_HOST = re.compile(rf"(\[[0-9a-f:.]+\]|{_NAME})\.?(:[0-9]{{1,5}})?", re.IGNORECASE)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_NAMED_TIMEOUT_S = 1.0


class AllowedHosts:
    """The host names of this server: the names and addresses of the machine, and `server.allowed_hosts`."""

    def __init__(self, settings: ServerSettings, own: Iterable[str] = ()) -> None:
        allowed = [name.lower().strip("[]") for name in settings.allowed_hosts]
        self._any = _ANY in allowed
        self._suffixes = (".localhost", *(name[1:] for name in allowed if name.startswith("*.")))
        self._names = frozenset((*_LOOPBACK, *allowed, *(name.lower() for name in own), settings.host.lower()))

    def check(self, scope: Scope) -> None:
        """Refuse a request for another host, or from a web page of a foreign origin.

        Raises:
            InvalidRequest: the Host header is missing or repeated.
            HostRefused: the Host header names another server.
            ForeignOrigin: the request changes something, and comes from a page of another origin.
        """
        headers = headers_of(scope)
        host = headers.get("host", "")
        if len(headers) != len(scope["headers"]):
            _refuse_repeated_host(scope["headers"])
        if not host and scope["http_version"] != "1.0":
            raise InvalidRequest("the header host is missing", "host")
        if host and not self._any and not self._is_own_name(host, scope):
            raise HostRefused(
                f"the header host is {host!r:.200}, which is not a name of this server; "
                "server.allowed_hosts lists more names"
            )
        if scope["method"] not in _SAFE:
            refuse_foreign(scope, allow_cors=True)

    def _is_own_name(self, host: str, scope: Scope) -> bool:
        """Return whether a host is a name of this server, a loopback address, or the address of the connection."""
        if not (parts := _HOST.fullmatch(host)):
            return False
        name = parts[1].lower().strip("[]")
        if name in self._names or name.endswith(self._suffixes):
            return True
        address = _address(name)
        server: tuple[str, int | None] | None = scope.get("server")
        return address is not None and (address.is_loopback or (server is not None and str(address) == server[0]))


def is_host(name: str) -> bool:
    """Return whether an entry of `server.allowed_hosts` is valid."""
    return bool(_ALLOWED.fullmatch(name) or _address(name.strip("[]")))


def refuse_foreign(scope: Scope, allow_cors: bool = False) -> None:
    """Refuse a request from a web page of another origin, unless the settings name the origin.

    A browser always sends the origin of the page. Before a request with a JSON body the browser sends a preflight, so
    with `allow_cors` every origin that CORS allows passes. A request without a body is sent without a preflight.

    Raises:
        ForeignOrigin: the page has another origin.
    """
    headers = headers_of(scope)
    origin = headers.get("origin")
    if origin is None:
        return
    state: Mapping[str, object] = scope["state"]
    if state.get("origin_named", False) or (allow_cors and "origin_named" in state):
        return
    if not _is_own_origin(headers):
        raise ForeignOrigin(
            f"the header origin is {origin!r:.200}; web pages of other origins may not do this "
            "(server.cors_allowed_origins)"
        )


def check_cookie_origin(scope: Scope) -> None:
    """Refuse a request with a cookie unless it comes from a page of this server, whatever the settings allow.

    A browser sends the cookie with requests of pages on other ports of the host too. It sends no origin with a GET of
    this server's own pages.

    Raises:
        ForeignOrigin: the page has another origin, or a request that changes something has no origin.
    """
    headers = headers_of(scope)
    origin = headers.get("origin")
    if not _is_own_origin(headers) and not (origin is None and scope["method"] in _SAFE):
        raise ForeignOrigin(f"the header origin is {origin!r:.200}; a login is valid for pages of this server only")


def _is_own_origin(headers: Mapping[str, str]) -> bool:
    host = headers.get("host", "").lower()
    return bool(host) and headers.get("origin", "").partition("://")[2].lower() == host


def names_of_machine(sockets: Iterable[socket.socket]) -> tuple[str, ...]:
    """Return the host names of this machine, or nothing if only this machine can reach the sockets. Blocks.

    Wait for the name server for at most `_NAMED_TIMEOUT_S`.
    """
    if all(is_loopback(sock) for sock in sockets):
        return ()
    found = [os.uname().nodename]
    lookup = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
    lookup.start()
    lookup.join(_NAMED_TIMEOUT_S)
    return tuple(name for full_name in tuple(found) for name in _name_forms(full_name))


def is_loopback(sock: socket.socket) -> bool:
    """Return whether only this machine can reach a socket."""
    return sock.family == socket.AF_UNIX or ip_address(sock.getsockname()[0]).is_loopback


def _name_forms(name: str) -> Iterator[str]:
    short = name.partition(".")[0]
    yield from (name, short, f"{short}.local")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _refuse_repeated_host(headers: Iterable[Header]) -> None:
    if sum(name == b"host" for name, _ in headers) > 1:
        raise InvalidRequest("the header host occurs more than once", "host")


_LOCAL = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
_EXPOSED = (
    *("x-request-id", "request-id", "retry-after", "x-should-retry", "location", "preference-applied"),
    *(f"x-clinvk-{name}" for name in ("session-id", "run-id", "ignored", "node", "backend", "fallback")),
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
