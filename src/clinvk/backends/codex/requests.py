"""The requests to the model that a turn of `codex app-server` makes, as far as they show."""


class Requests:
    """Counts them; `are_spent` once the turn has made the most that it may, and is about to make another.

    One has ended when its tokens are told: of a command that the sandbox denies nothing else is. Where the model's
    provider tells no tokens, it has when something follows the results of its tools.

    One that said something and called nothing may be the answer, or have called what was denied. Which it was only
    shows by what follows: then there is one request more than there may be.
    """

    def __init__(self, most: int | None) -> None:
        self.are_spent = False
        self._most = most
        self._ended = 0
        self._are_told = False
        self._is_over = self._said = self._called = False
        self._open: set[str] = set()

    @property
    def count(self) -> int | None:
        """Those that have ended; None where that is not told."""
        return self._ended if self._are_told or self.are_spent else None

    def go_on(self) -> None:
        """Something begins: a message, a thought, a call."""
        if not self._are_told and self._called and not self._open:
            self._end()
        self._follow()

    def say(self) -> None:
        """Something is said."""
        self._said = True

    def call(self, tool: str) -> None:
        """A tool is called."""
        self._called = True
        self._open.add(tool)

    def answer(self, tool: str) -> None:
        """A tool has given its result."""
        self._open.discard(tool)
        self._look()

    def tell(self) -> None:
        """The tokens of a request are told."""
        self._follow()
        if not self._are_told:
            self._are_told, self._ended = True, 0
        self._end()
        self._look()

    def _end(self) -> None:
        self._ended += 1
        self._is_over = True

    def _follow(self) -> None:
        """This is of another request than the one that has ended."""
        if self._is_over:
            self._spend()
            self._is_over = self._said = self._called = False

    def _look(self) -> None:
        """See whether another is about to follow."""
        if self._is_over and not self._open and (self._called or not self._said):
            self._spend()

    def _spend(self) -> None:
        self.are_spent = self.are_spent or (self._most is not None and self._ended >= self._most)
