"""The answer cut before the first of some texts, wherever the pieces of the answer end."""

from collections.abc import Iterator, Sequence

from clinvk.events import Event, Progress, TextDelta


class Cutter:
    """Passes events on; of the text only what stands before the first stop text.

    The first is the one that is complete first, as if the answer came letter by letter: what is cut does not depend on
    the pieces. Of texts that are complete at the same letter it is the longest. Held back is only what may become one
    of them; a tool call or thinking between ends that. `matched` is the stop text that was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event and give what can be told."""
        if self.matched is not None:
            return
        if isinstance(event, TextDelta):
            text = self._cut(self._held + event.text)
            if text:
                yield TextDelta(text)
            return
        if not isinstance(event, Progress):
            yield from self.rest()
        yield event

    def rest(self) -> Iterator[Event]:
        """Give what was held back: nothing follows that could make it a stop text."""
        held, self._held = self._held, ""
        if held:
            yield TextDelta(held)

    def _cut(self, text: str) -> str:
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Give how many letters at the end of a text are the beginning of a stop text."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0
