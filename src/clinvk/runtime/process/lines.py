"""Bytes in, lines out, in linear time and bounded memory."""


class LineTooLong(Exception):
    """A line exceeded the limit before its newline arrived."""


class LineSplitter:
    """Splits a stream of chunks into lines without newlines; empty lines are dropped.

    `max_line_bytes` bounds the buffer, so an agent that never ends a line cannot fill the memory.
    """

    __slots__ = ("_held", "_max", "_parts")

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk; return the completed lines.

        Raises:
            LineTooLong: the incomplete line exceeded the limit; its buffer is dropped.
        """
        *lines, last = chunk.split(b"\n")
        if lines and self._parts:
            self._hold(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts, self._held = [], 0
        if last:
            self._hold(last)
        return [line for line in lines if line]

    def end(self) -> list[bytes]:
        """Return the last line, which had no newline."""
        last = b"".join(self._parts)
        self._parts, self._held = [], 0
        return [last] if last else []

    def _hold(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > self._max:
            self._parts, self._held = [], 0
            raise LineTooLong
        self._parts.append(part)
