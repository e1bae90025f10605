"""Agents that answer any prompt at once and count their starts, for tests with very many prompts."""

from pathlib import Path

from clinvk.backends.registry import BACKENDS
from shell_backend import DONE, Shell

ANSWER = """echo '{"type":"text_delta","text":"{}"}'\n"""
"""Fits most schemas."""


class Answering:
    """A registry with such an agent under each name, and the environment for a server with its home in a folder."""

    def __init__(self, home: Path) -> None:
        self._started = home / "started"
        self._started.touch()
        script = f'echo >>"{self._started}"\n{ANSWER}{DONE}'
        self.registry = {name: Shell(name, script) for name in BACKENDS}
        self.env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}

    @property
    def starts(self) -> int:
        """How many were started."""
        return len(self._started.read_text())
