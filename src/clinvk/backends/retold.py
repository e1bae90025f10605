"""A text that an agent CLI tells twice: in pieces and then in full, and over again after a cut stream."""

from typing import NamedTuple


class News(NamedTuple):
    """What was not said yet; `restarts` where it is a whole answer that differs from the one that was cut off."""

    text: str
    restarts: bool = False


class Retold:
    """The text blocks (or the thinking blocks) of one message, each character given once."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._expected = ""
        self._blocks: list[list[str]] = []
        self._full = 0

    def begin(self, again: bool) -> None:
        """Another message begins, or the same one `again` from its start."""
        if again:
            self._expected = "".join(self._said)
        else:
            self._said = []
            self._expected = ""
        self._blocks = []
        self._full = 0

    def open_block(self) -> None:
        """The pieces that follow are of another block."""
        self._blocks.append([])

    def piece(self, text: str) -> News:
        """Take a piece of the open block."""
        if not self._blocks:
            self.open_block()
        self._blocks[-1].append(text)
        return self._add(text)

    def block(self, text: str) -> News:
        """Take a block in full: the n-th so taken is the n-th that was streamed, and maybe more than its pieces."""
        streamed = "".join(self._blocks[self._full]) if self._full < len(self._blocks) else ""
        self._full += 1
        return self._add(text[len(streamed) :]) if text.startswith(streamed) else News("")

    def _add(self, text: str) -> News:
        if self._expected.startswith(text):
            self._expected = self._expected[len(text) :]
            return News("")
        if text.startswith(self._expected):
            text = text[len(self._expected) :]
            self._expected = ""
            self._said.append(text)
            return News(text)
        said = "".join(self._said)
        whole = said[: len(said) - len(self._expected)] + text
        self._said = [whole]
        self._expected = ""
        return News(whole, restarts=True)
