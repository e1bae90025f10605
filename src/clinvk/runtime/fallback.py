"""Agent CLIs that turn out not to speak their long-lived protocol: run another way, and known from then on."""

import logging

from clinvk.backends.base import Launch
from clinvk.runtime.stamps import Stamp, stamps

logger = logging.getLogger(__name__)


class Fallbacks:
    """Which programs were found not to speak it, or not within `answer_within_s` of their start.

    A program that was replaced since is another one.
    """

    def __init__(self, answer_within_s: float = 10.0) -> None:
        self.answer_within_s = answer_within_s
        self._known: dict[str, Stamp] = {}

    def choose(self, path: str, launch: Launch) -> Launch:
        """Give how to start a program: as planned, unless it is known not to speak what is planned."""
        return launch.otherwise if launch.otherwise and not self.is_spoken(path) else launch

    def is_spoken(self, path: str) -> bool:
        """Say whether nothing is known against a program."""
        return path not in self._known or self._known[path] != stamps((path,), {})

    def note(self, path: str, why: str) -> None:
        """A program that did not speak it has begun a run the other way: take that from now on."""
        if self.is_spoken(path):
            self._known[path] = stamps((path,), {})
            logger.warning("%s does not speak its long-lived protocol: %s; it is run one-shot from now on", path, why)
