"""Agent CLIs that turn out not to speak their long-lived protocol: run another way, and known from then on."""

import logging

from clinvk.backends.base import Launch

logger = logging.getLogger(__name__)


class Fallbacks:
    """Which programs were found not to speak it, or not within `answer_within_s` of their start."""

    def __init__(self, answer_within_s: float = 10.0) -> None:
        self.answer_within_s = answer_within_s
        self._paths: set[str] = set()

    def choose(self, path: str, launch: Launch) -> Launch:
        """Give how to start a program: as planned, unless it is known not to speak what is planned."""
        return launch.otherwise if launch.otherwise and path in self._paths else launch

    def is_spoken(self, path: str) -> bool:
        """Say whether nothing is known against a program."""
        return path not in self._paths

    def note(self, path: str, why: str) -> None:
        """A program that did not speak it has begun a run the other way: take that from now on."""
        if path not in self._paths:
            self._paths.add(path)
            logger.warning("%s does not speak its long-lived protocol: %s; it is run one-shot from now on", path, why)
