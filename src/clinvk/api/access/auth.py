"""Access control between the network and the requests: hosts, origins, keys, logins and rate limits.

The cookies of logins, and the tokens that log in once, are kept in memory, and only as digests. A restart of the server
ends all logins.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.access import clients, hosts
from clinvk.api.access.clients import RateLimits, network_of
from clinvk.api.access.hosts import AllowedHosts
from clinvk.api.access.key_file import ApiKey, digest_of
from clinvk.api.access.keys import ApiKeys, start_key
from clinvk.api.http.response import ClientDisconnected, Header, headers_of, send_error
from clinvk.config.model import ServerSettings
from clinvk.types.errors import ClinvkError, ConfigError, KeyRefused, ShuttingDown

LOGIN_S = 12 * 3600.0
"""How long a login lasts after its last request."""

TOKEN_S = 60.0
"""How long a token can be used."""

_MAX_SECRETS = 1000
_MAX_LOGINS_OF_KEY = 20
_PATHS = "/api/v1/"
_OWNER = ""
"""Stands for the digest of a key in the logins of the user who runs the server."""


class Login(NamedTuple):
    """The identity of a client: a key, or None if none is required, or for the user who runs the server."""

    key: ApiKey | None
    has_cookie: bool = False

    @property
    def rights(self) -> tuple[object, ...]:
        """What the client may do; a change ends the streams that the client reads."""
        return (self.key.digest, self.key.limits, self.key.rights) if self.key else ()


class Logins:
    """The logins of a server. A login ends with its key, at a logout, or `LOGIN_S` after its last request."""

    def __init__(self, keys: ApiKeys, now: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._cookies = _Secrets(LOGIN_S, now)
        self._tokens = _Secrets(TOKEN_S, now)

    def create_token(self) -> str:
        """Return a token that logs in once, as the user who runs the server."""
        return self._tokens.add(secrets.token_urlsafe(32), _OWNER)

    def log_in(self, key: ApiKey) -> str:
        """Return the cookie of a new login. It ends the login of the key that was used least recently, of many."""
        return self._begin(key.digest)

    def redeem(self, token: str) -> str | None:
        """Return the cookie of a new login, or None if the token was used before or has expired."""
        owner = self._tokens.take(token)
        return None if owner is None else self._begin(owner)

    def log_out(self, scope: Scope) -> None:
        """End the login of a request, if any."""
        self._cookies.take(_cookie_of(scope))

    def find(self, scope: Scope) -> Login | None:
        """Return the login of a request, and extend it; None without a valid login, or if the path accepts none."""
        cookie = _cookie_of(scope)
        if not cookie or not scope["path"].startswith(_PATHS) or (digest := self._cookies.take(cookie)) is None:
            return None
        key = self._keys.by_digest(digest)
        if not key and digest != _OWNER:
            return None
        self._cookies.add(cookie, digest)
        return Login(key, has_cookie=True)

    def _begin(self, owner: str) -> str:
        self._cookies.drop_first(owner, _MAX_LOGINS_OF_KEY)
        return self._cookies.add(secrets.token_urlsafe(32), owner)


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie. It has the port: browsers share cookies between the ports of a host."""
    server: tuple[str, int | None] | None = scope.get("server")
    return f"clinvk-login-{server[1] if server else 0}"


def _cookie_of(scope: Scope) -> str:
    header = headers_of(scope).get("cookie", "")
    return cookie_parser(header).get(cookie_name(scope), "") if header else ""


class _Secrets:
    """Secrets that expire, each with a text. Above `_MAX_SECRETS` the secret that was added first is dropped."""

    def __init__(self, lifetime_s: float, now: Callable[[], float]) -> None:
        self._lifetime_s, self._now = lifetime_s, now
        self._entries: dict[str, tuple[str, float]] = {}

    def add(self, secret: str, text: str) -> str:
        """Store a secret, and return it."""
        if len(self._entries) >= _MAX_SECRETS:
            del self._entries[next(iter(self._entries))]
        self._entries[digest_of(secret)] = (text, self._now() + self._lifetime_s)
        return secret

    def drop_first(self, text: str, most: int) -> None:
        """Drop the first secret with a text if there are at least `most` of them."""
        found = [digest for digest, (other, _) in self._entries.items() if other == text]
        if len(found) >= most:
            del self._entries[found[0]]

    def take(self, secret: str) -> str | None:
        """Remove a secret. Return its text, or None if the secret is unknown or has expired."""
        text, expires_at = self._entries.pop(digest_of(secret), ("", 0.0))
        return text if self._now() < expires_at else None


_KEY_CREATED = """\
clinvk: other machines can reach {host} and no API key exists, so this one was created for this start only.
clinvk: To keep one: clinvk keys create NAME. To require none: --insecure. API key:
{key}"""


class Access(NamedTuple):
    """The access control of a server.

    `open_warning` is the warning for a server without keys; empty if only this machine reaches the server.
    """

    keys: ApiKeys
    hosts: AllowedHosts
    limits: RateLimits
    logins: Logins
    open_warning: str

    def warning(self) -> str:
        """Return the warning for /health, or an empty text if a key is required or only this machine has access."""
        return "" if self.keys else self.open_warning

    def login_of(self, scope: Scope) -> Login | None:
        """Return the identity of a client by its key or cookie; None if a key is required and none is valid."""
        if not self.keys:
            return Login(None)
        key = self.keys.find(headers_of(scope), scope["state"].get("query_key", ""))
        return Login(key) if key else self.logins.find(scope)


_LISTS: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    (
        "cors_allowed_origins",
        hosts.is_origin,
        "an origin is as a browser sends it, such as https://app.example.com or http://localhost:3000, or '*' for all",
    ),
    (
        "allowed_hosts",
        hosts.is_host,
        "a host is a name or an address without port, such as agents.example.com or *.example.com, or '*' for all",
    ),
    ("trusted_proxies", clients.is_network, "a proxy is an address or a network, such as 127.0.0.1 or 10.0.0.0/8"),
)
"""Each list in the access settings, with the check of an entry, and the valid form."""


def access_mistakes(settings: ServerSettings) -> Iterator[ConfigError]:
    """Yield the mistakes in the access settings."""
    for name, is_valid, valid_form in _LISTS:
        for index, text in enumerate(getattr(settings, name)):
            if not is_valid(text):
                yield ConfigError(f"server.{name}[{index}] is {text!r}; {valid_form}")
    if "*" in settings.cors_allowed_origins and settings.cors_allow_credentials:
        yield ConfigError(
            "server.cors_allow_credentials is true, and server.cors_allowed_origins has '*': name the origins instead"
        )


def check_access(settings: ServerSettings) -> None:
    """Check the access settings before the first request.

    Raises:
        ConfigError: the settings have a mistake; the first mistake is raised.
    """
    for mistake in access_mistakes(settings):
        raise mistake


async def access_of(settings: ServerSettings, keys: ApiKeys, sockets: Sequence[socket.socket]) -> Access:
    """Return the access control of a server that listens on `sockets`."""
    names = await asyncio.to_thread(hosts.names_of_machine, sockets)
    open_warning = open_warning_of(settings, sockets)
    return Access(keys, AllowedHosts(settings, names), RateLimits(settings), Logins(keys), open_warning)


def create_key_if_open(
    settings: ServerSettings, sockets: Sequence[socket.socket], announce: Callable[[str], None]
) -> ApiKeys:
    """Create a key for this start if other machines reach the server, and print the key; else return no keys."""
    if not open_warning_of(settings, sockets):
        return ApiKeys()
    text, keys = start_key()
    announce(_KEY_CREATED.format(host=settings.host, key=text))
    return keys


def open_warning_of(settings: ServerSettings, sockets: Sequence[socket.socket]) -> str:
    """Return the warning about a server without keys; empty if only this machine reaches the server."""
    if all(map(hosts.is_loopback, sockets)):
        return ""
    return (
        f"{settings.host} is open to other machines, and anyone who reaches it can run agents as this user: "
        "no API key is required"
    )


_OPEN = ("/health", "/health/live", "/health/ready", "/", "/docs", "/openapi.json", "/api/v1/login", "/api/v1/me")
_OPEN_BELOW = ("/docs/", "/console/")
_UNLIMITED = ("/health/live", "/health/ready")
_UNLIMITED_BELOW = "/console/"
"""A browser loads many files of the console at once."""
_CHALLENGE: tuple[Header, ...] = ((b"www-authenticate", b'Bearer realm="clinvk"'),)
_NO_ADDRESS = "nobody"
"""The address of a client without an IP address, as on a Unix socket."""


class AuthMiddleware:
    """Passes a request on if host, origin, rate limits and API key allow the request.

    While the server stops, this class refuses requests, inside CORS, so that pages of other origins can read the error.
    The state receives `key_name` (empty without a key), `client` (the name of the key, else the client's network), and
    `is_authenticated`: whether the request has a valid key or login, or needs none.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on, or refuse the request before its body is read."""
        try:
            login = self._authorize(scope)
        except ClinvkError as error:
            return send_error(error, scope, send, _CHALLENGE if isinstance(error, KeyRefused) else ())
        if login and scope["method"] == "GET":
            send = self._send_while_valid(login, scope, send)
        return self.app(scope, receive, send)

    def _send_while_valid(self, login: Login, scope: Scope, send: Send) -> Send:
        """Return a `send` that ends a stream once the login of its reader has ended or has other rights.

        The returned function raises `ClientDisconnected` once it has ended the stream.
        """
        is_over = False

        async def send_if_valid(message: Message) -> None:
            nonlocal is_over
            if message.get("more_body") and not is_over:
                current = self._access.login_of(scope)
                if is_over := current is None or current.rights != login.rights:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            if is_over:
                raise ClientDisconnected("the server: its key or login has ended, or has other rights")
            await send(message)

        return send_if_valid

    def _authorize(self, scope: Scope) -> Login | None:
        if scope["state"]["is_refused"]:
            raise ShuttingDown("the server is stopping and takes no new requests")
        access = self._access
        login = access.login_of(scope)
        key = login.key if login else None
        address = scope["client"][0] if scope["client"] else _NO_ADDRESS
        client = key.name if key else network_of(address)
        scope["state"].update(key_name=key.name if key else "", client=client, is_authenticated=login is not None)
        path: str = scope["path"]
        if path not in _UNLIMITED and not path.startswith(_UNLIMITED_BELOW):
            access.limits.take(address, key)
        access.hosts.check(scope)
        if login and login.has_cookie:
            hosts.check_cookie_origin(scope)
        if not login and not _is_open(scope):
            header = "x-goog-api-key" if path.startswith("/gemini/") else "x-api-key"
            raise KeyRefused(
                f"an API key is needed: `authorization: Bearer KEY` or `{header}: KEY`, "
                "and it must be valid and not expired"
            )
        return login


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    if scope["method"] == "OPTIONS":
        return "access-control-request-method" in headers_of(scope)
    return path in _OPEN or path.startswith(_OPEN_BELOW)
