"""A gateway's end of an HTTP request that it passes on: the response of a node, as the gateway receives it."""

from collections import deque
from collections.abc import AsyncIterator, Callable

from clinvk.remote.messages import ROOM_BYTES, Answer, HttpPiece, Read, Refused, Stop
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import NodeUnavailable


class RemoteResponse:
    """The response of a node. `send` sends a message to the node.

    Attributes:
        is_begun: whether the node has answered, or is lost.
        stopping: None. The request to stop is not repeated: a response that is no longer held is stopped.
    """

    stopping = None

    def __init__(self, run_id: str, node: str, send: Callable[[Read | Stop], object]) -> None:
        self.id = run_id
        self._node = node
        self._send = send
        self.is_begun = self._is_over = False
        self._pieces: deque[HttpPiece] = deque()
        self._count = self._unread = 0
        self._gap = -1
        self._wake = WakeUp()
        self._error: NodeUnavailable | None = None

    @property
    def received(self) -> int | None:
        """The number of the last piece, for `Holding`; None while the client does not take what has arrived."""
        return None if self._pieces or not self.is_begun else self._count

    def feed(self, message: Answer, _size: int = 0) -> None:
        """Take a message of the node; skip pieces that are known, and ask for missing pieces once."""
        self.is_begun = True
        if isinstance(message, Refused):
            self.lose(NodeUnavailable(f"node {self._node!r} broke off the response"))
        elif isinstance(message, HttpPiece) and message.number == self._count + 1:
            self._count += 1
            self._pieces.append(message)
            self._wake.set()
        elif isinstance(message, HttpPiece) and message.number > self._count and self._gap != self._count:
            self._gap = self._count
            self.read_again()

    def read_again(self) -> None:
        """Ask for the pieces that may be lost."""
        self._send(Read(self.id, self._count, again=True))

    def lose(self, error: NodeUnavailable) -> None:
        """End the response with an error: the node is lost."""
        self.is_begun = True
        self._error = self._error or error
        self._wake.set()

    def leave(self) -> None:
        """Stop the response unless it is complete: the client has disconnected."""
        if not self._is_over:
            self._send(Stop(self.id))

    async def head(self) -> HttpPiece:
        """Return the piece with status and headers.

        Raises:
            NodeUnavailable: the node was lost before.
        """
        return await self._next()

    async def body(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield the pieces of the body, each with whether more follow. The node sends about `ROOM_BYTES` ahead.

        Raises:
            NodeUnavailable: the node was lost, or broke off the response.
        """
        while not self._is_over:
            piece = await self._next()
            self._is_over = piece.ending == "complete"
            yield piece.data, not self._is_over
            self._unread += len(piece.data)
            if self._is_over or self._unread >= ROOM_BYTES / 2:
                self._unread = 0
                self._send(Read(self.id, piece.number))

    async def read(self) -> bytes:
        """Return the whole body. Raises as `body`."""
        return b"".join([piece async for piece, _ in self.body()])

    async def _next(self) -> HttpPiece:
        while not self._pieces:
            if self._error:
                raise self._error
            await self._wake.wait()
        piece = self._pieces.popleft()
        if piece.ending == "broken":
            self._is_over = True
            raise NodeUnavailable(f"node {self._node!r} broke off the response")
        return piece
