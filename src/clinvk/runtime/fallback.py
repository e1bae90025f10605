"""Agent CLIs that turn out not to speak their long-lived protocol: run another way, and known from then on."""

import logging

from clinvk.backends.base import Launch
from clinvk.runtime.fingerprints import Fingerprint, fingerprint

logger = logging.getLogger(__name__)

_DOUBTS = 3
"""At so many failures in a row a program counts that has spoken its protocol before: one process may hang."""


class Fallbacks:
    """Which programs were found not to speak it, or not within `answer_within_s` of their start.

    A program that was replaced since is another one.
    """

    def __init__(self, answer_within_s: float = 10.0) -> None:
        self.answer_within_s = answer_within_s
        self._known: dict[str, Fingerprint] = {}
        self._spoke: dict[str, Fingerprint] = {}
        self._doubts: dict[str, int] = {}

    def choose(self, path: str, launch: Launch) -> Launch:
        """Give how to start a program: as planned, unless it is known not to speak what is planned."""
        return launch.otherwise if launch.otherwise and not self.is_spoken(path) else launch

    def is_spoken(self, path: str) -> bool:
        """Say whether nothing is known against a program."""
        return path not in self._known or self._known[path] != fingerprint((path,), {})

    def note_spoken(self, path: str) -> None:
        """A program has begun a run in its protocol."""
        self._doubts[path] = 0
        self._spoke[path] = fingerprint((path,), {})

    def note(self, path: str, why: str) -> None:
        """A program that did not speak it has begun a run the other way: take that from now on.

        One that has spoken it before gets another chance or two.
        """
        if not self.is_spoken(path):
            return
        now = fingerprint((path,), {})
        self._doubts[path] = self._doubts.get(path, 0) + 1
        if self._spoke.get(path) == now and self._doubts[path] < _DOUBTS:
            logger.warning("a process of %s did not speak its protocol: %s; its run has another one", path, why)
            return
        self._known[path] = now
        logger.warning("%s does not speak its long-lived protocol: %s; it is run one-shot from now on", path, why)
