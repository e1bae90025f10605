"""Who may come in."""

from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.keys import Keys
from clinvk.api.reply import Header, headers_of, refuse
from clinvk.dialects.base import KeyRefused

_OPEN = ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json")
_OPEN_BELOW = "/docs/"
_CHALLENGE: tuple[Header, ...] = ((b"www-authenticate", b'Bearer realm="clinvk"'),)


class Gate:
    """Lets a request pass that carries an API key, or needs none."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before its body is read."""
        if not self._keys or _is_open(scope) or self._keys.admit(headers_of(scope)):
            await self.app(scope, receive, send)
            return
        error = KeyRefused(
            "an API key is needed: `authorization: Bearer KEY` or `x-api-key: KEY`, and it must be valid"
        )
        await refuse(error, scope, send, _CHALLENGE)


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    if scope["method"] == "OPTIONS":
        return "access-control-request-method" in headers_of(scope)
    return path in _OPEN or path.startswith(_OPEN_BELOW)
