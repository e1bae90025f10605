"""The stand-in in a separate process, so that it shares no event loop with its clients."""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from standin.document import JSON, Record

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Address:
    """The address of a stand-in, for one caller."""

    root: str
    who: str = ""

    @property
    def url(self) -> str:
        """The base URL for an agent CLI; requests are recorded under `who`."""
        return f"{self.root}/as/{self.who}" if self.who else self.root

    def requests(self, contains: str = "") -> list[Record]:
        """Return the requests of this caller to the model API, oldest first; blocks for some milliseconds."""
        query = {"contains": contains, **({"as": self.who} if self.who else {})}
        with _OPENER.open(f"{self.root}/_requests?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            found: JSON = json.load(answer)
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


@contextmanager
def running(default: str = "words=5") -> Generator[Address]:
    """Start a stand-in, yield its address, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "standin", "--while-stdin-is-open", "--default", default],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield Address(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}")
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
