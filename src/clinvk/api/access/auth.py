"""Who may use the server: everything between the network and the requests, as the settings have it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.access import cors, hosts, proxies
from clinvk.api.access.hosts import Hosts
from clinvk.api.access.keys import Keys, start_key
from clinvk.api.access.proxies import Proxies
from clinvk.api.access.rate_limits import Limits, network_of
from clinvk.api.http.response import Header, headers_of, refuse
from clinvk.config.model import ServerSettings
from clinvk.dialects.dialect import KeyRefused
from clinvk.types.errors import ClinvkError, ConfigError, ShuttingDown

_MADE = """\
clinvk: {host} is open to other machines and no API key is set, so that one was made, for this start alone.
clinvk: clinvk keys create NAME makes one that stays, --insecure asks for none. API key:
{key}"""


class Doors(NamedTuple):
    """Who is let in, and how often; `if_open` is what it means where no key is asked for, if it means anything."""

    keys: Keys
    hosts: Hosts
    limits: Limits
    proxies: Proxies
    if_open: str

    def warning(self) -> str:
        """Say what those should know who look at how the server is: that it stands open, as long as it does."""
        return "" if self.keys else self.if_open


def mistakes(settings: ServerSettings) -> Iterator[ConfigError]:
    """Give all in the settings of the doors that cannot be meant."""
    for part in (cors, hosts, proxies):
        yield from part.mistakes(settings)


def check(settings: ServerSettings) -> None:
    """Look at the settings before the first request comes.

    Raises:
        ConfigError: the first that cannot be meant.
    """
    for mistake in mistakes(settings):
        raise mistake


async def doors(settings: ServerSettings, keys: Keys, sockets: Sequence[socket.socket]) -> Doors:
    """Put the doors of a server together that listens there."""
    own = await asyncio.to_thread(hosts.names_of_machine, sockets)
    if_open = open_to_others(settings, sockets)
    return Doors(keys, Hosts(settings, own), Limits(settings), Proxies(settings), if_open)


def locked(settings: ServerSettings, sockets: Sequence[socket.socket], tell: Callable[[str], None]) -> Keys:
    """Give the keys of a server that has none: one that is made for this start, where other machines reach it."""
    if not open_to_others(settings, sockets):
        return Keys()
    text, keys = start_key()
    tell(_MADE.format(host=settings.host, key=text))
    return keys


def open_to_others(settings: ServerSettings, sockets: Sequence[socket.socket]) -> str:
    """Say what it means that no key is asked for; empty where only this machine reaches the server."""
    if all(map(hosts.is_loopback, sockets)):
        return ""
    return (
        f"{settings.host} is open to other machines, and whoever reaches it can run agents as this user: "
        "no API key is asked for"
    )


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
