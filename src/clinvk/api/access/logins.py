"""Logins of browsers: cookies that stand for an API key, and one-use tokens for the user who runs the server.

Cookies and tokens are kept in memory, and only as digests. A restart of the server ends all logins.
"""

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import cookie_parser
from starlette.types import Scope

from clinvk.api.access.key_file import ApiKey, digest_of
from clinvk.api.access.keys import ApiKeys
from clinvk.api.http.response import headers_of

LOGIN_S = 12 * 3600.0
"""How long a login lasts after its last request."""

TOKEN_S = 60.0
"""How long a token can be used."""

_MAX_SECRETS = 1000
_PATHS = "/api/v1/"
_OWNER = ""
"""Stands for the digest of a key in the logins of the user who runs the server."""


class Login(NamedTuple):
    """The identity of a client: a key, or None if none is required, or for the user who runs the server."""

    key: ApiKey | None
    has_cookie: bool = False


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
        """Return the cookie of a new login."""
        return self._cookies.add(secrets.token_urlsafe(32), key.digest)

    def redeem(self, token: str) -> str | None:
        """Return the cookie of a new login, or None if the token was used before or has expired."""
        owner = self._tokens.take(token)
        return None if owner is None else self._cookies.add(secrets.token_urlsafe(32), owner)

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

    def take(self, secret: str) -> str | None:
        """Remove a secret. Return its text, or None if the secret is unknown or has expired."""
        text, expires_at = self._entries.pop(digest_of(secret), ("", 0.0))
        return text if self._now() < expires_at else None
