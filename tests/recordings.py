"""Recorded output of agents: the lines of `NAME.stdout` become the events of `NAME.events`."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from clinvk.backends.base import Channel
from clinvk.types.events import Event
from clinvk.types.request import RunRequest

RECORDINGS = Path(__file__).parent / "unit" / "recordings"


def expected_events(agent: str) -> dict[str, list[Event]]:
    """Return the expected events of each recording of an agent, by the name of the recording."""
    return {
        path.stem: [msgspec.json.decode(line, type=Event) for line in path.read_bytes().splitlines()]
        for path in sorted((RECORDINGS / agent).glob("*.events"))
    }


def recorded(agent: str, name: str) -> tuple[list[bytes], int, bytes]:
    """Return the lines of a recording, the exit code, and stderr."""
    path = RECORDINGS / agent / name
    stderr = path.with_suffix(".stderr")
    return (
        path.with_suffix(".stdout").read_bytes().splitlines(),
        int(path.with_suffix(".exit").read_text()),
        stderr.read_bytes() if stderr.exists() else b"",
    )


def decoded(channel: Channel, lines: Iterable[bytes], exit_code: int = 0, stderr: bytes = b"") -> list[Event]:
    """Return the events of a run whose agent prints these lines and exits."""
    channel.start("run", RunRequest(prompt="x"), None)
    deliveries = [delivery for line in lines for delivery in channel.receive(line)]
    deliveries += channel.closed(exit_code, stderr)
    return [delivery[1] for delivery in deliveries if isinstance(delivery[1], Event)]
