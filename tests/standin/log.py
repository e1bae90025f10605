"""The received requests, so that a test can check what reached the model."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from standin.document import JSON, Record


@dataclass
class Entry:
    """One request to the model.

    Attributes:
        who: the NAME of the base URL's `/as/NAME`, else empty.
        at: seconds since the stand-in started.
        user: the latest text that a person wrote, as the stand-in understood it.
        aside: it was a question of the CLI itself: which model to take, a title.
        status: what was answered; 0 while nothing was.
        outcome: `open`, `answered`, `refused`, `cut` (as the prompt asked) or `left` (the client went first).
        chunks: how many pieces of a streamed answer were sent.
    """

    who: str
    at: float
    method: str
    path: str
    user: str
    headers: dict[str, str]
    body: Record
    aside: bool = False
    status: int = 0
    outcome: str = "open"
    chunks: int = 0

    def document(self) -> Record:
        """Return the entry as JSON."""
        entry: Record = asdict(self)
        return entry


@dataclass
class Log:
    """All requests, and how often each prompt was tried."""

    entries: list[Entry] = field(default_factory=list[Entry])
    tries: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def attempt(self, who: str, user: str) -> int:
        """Count a request for this prompt; return the count."""
        self.tries[who, user] += 1
        return self.tries[who, user]

    def find(self, who: str | None, contains: str) -> Iterator[JSON]:
        """Yield the requests of this caller (None: of all) whose prompt contains a text, oldest first."""
        for entry in self.entries:
            if who in (None, entry.who) and contains in entry.user:
                yield entry.document()
