"""The answer cut before the first of some texts, wherever the pieces of the answer end."""

import re
from collections import deque
from collections.abc import Iterator, Sequence

from clinvk.events import Event, Progress, TextDelta

_START = 0


class Cutter:
    """Passes events on; of the text only what stands before the first stop text.

    The first is the one that is complete first, as if the answer came letter by letter: what is cut does not depend on
    the pieces. Of texts that are complete at the same letter it is the longest. Held back is only what may become one
    of them; a tool call or thinking between ends that. `matched` is the stop text that was found.

    The texts are searched for together, in time linear in the answer, with the automaton of Aho and Corasick: a state
    stands for the longest beginning of a stop text at the end of the answer so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._held = ""
        self._state = _START
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [_START]
        """For each state the state of the next shorter beginning."""
        self._size = [0]
        self._complete = [0]
        """For each state the length of the longest stop text at its end."""
        for stop in filter(None, stops):
            self._add(stop)
        self._link()
        self._first = re.compile("|".join(map(re.escape, self._next[_START])) or r"(?!)")

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event and give what can be told."""
        if self.matched is not None:
            return
        if isinstance(event, TextDelta):
            text = self._cut(event.text)
            if text:
                yield TextDelta(text)
            return
        if not isinstance(event, Progress):
            yield from self.rest()
        yield event

    def rest(self) -> Iterator[Event]:
        """Give what was held back: nothing follows that could make it a stop text."""
        held, self._held, self._state = self._held, "", _START
        if held:
            yield TextDelta(held)

    def _cut(self, text: str) -> str:
        state, at = self._state, 0
        whole = self._held + text
        while at < len(text):
            if state == _START:
                if not (found := self._first.search(text, at)):
                    break
                at = found.start()
            letter = text[at]
            while (step := self._next[state].get(letter)) is None and state != _START:
                state = self._shorter[state]
            state = _START if step is None else step
            at += 1
            if size := self._complete[state]:
                end = len(self._held) + at
                self.matched = whole[end - size : end]
                self._held = ""
                return whole[: end - size]
        kept = len(whole) - self._size[state]
        self._state, self._held = state, whole[kept:]
        return whole[:kept]

    def _add(self, stop: str) -> None:
        state = _START
        for size, letter in enumerate(stop, 1):
            following = self._next[state].setdefault(letter, len(self._next))
            if following == len(self._next):
                self._next.append({})
                self._shorter.append(_START)
                self._size.append(size)
                self._complete.append(0)
            state = following
        self._complete[state] = len(stop)

    def _link(self) -> None:
        """Find the next shorter beginning of each state, the shortest states first."""
        waiting = deque(self._next[_START].values())
        while waiting:
            state = waiting.popleft()
            for letter, following in self._next[state].items():
                shorter = self._shorter[state]
                while letter not in self._next[shorter] and shorter != _START:
                    shorter = self._shorter[shorter]
                self._shorter[following] = shorter = self._next[shorter].get(letter, _START)
                self._complete[following] = self._complete[following] or self._complete[shorter]
                waiting.append(following)
