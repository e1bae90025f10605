"""Requests and answers as ASGI has them: https://asgi.readthedocs.io/en/latest/specs/www.html."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from clinvk.dialects.base import Dialect

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Request(msgspec.Struct, frozen=True):
    """A request that has passed the gate, and whose path was found."""

    scope: Scope
    receive: Receive

    @property
    def method(self) -> str:
        """Its method, in capitals."""
        return self.scope["method"]

    @property
    def path_params(self) -> Mapping[str, str]:
        """What the path has for the parameters of its route."""
        return self.scope["path_params"]

    @property
    def key_name(self) -> str:
        """The name of its API key; empty where it has none."""
        return self.scope["state"]["key_name"]

    @property
    def dialect(self) -> Dialect:
        """The wire format in which errors are answered."""
        return self.scope["state"]["dialect"]


class Response(msgspec.Struct, frozen=True):
    """An answer of known length, as an ASGI application that gives it; `media_type` has the charset of a text."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    media_type: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        sent = {**self.headers, "content-length": str(len(self.body))}
        if self.media_type:
            sent["content-type"] = self.media_type
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
