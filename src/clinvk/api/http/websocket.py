"""The WebSocket protocol of uvicorn. Imported for the first WebSocket."""

from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Counts a response of HTTP as the end of the handshake; uvicorn would log an error for each refused client."""

    async def send(self, message: "ASGISendEvent") -> None:
        """Send a message of the application."""
        await super().send(message)
        if self.initial_response is not None:
            self.handshake_complete = True
