"""The limits of slots and queue, and what is counted: runs by backend, by client, and the memory of a waiting run."""

import sys
from math import inf
from typing import NamedTuple

import msgspec

from clinvk.config.model import ServerSettings
from clinvk.types.request import RunRequest

_MIB = 1024 * 1024


class ClientRuns(NamedTuple):
    """The runs of a client.

    Attributes:
        held: how many slots they hold.
        waits_since: when the first run arrived that waits only because the client is at its limit, by the monotonic
            clock; infinite without such a run.
    """

    held: int = 0
    waits_since: float = inf


class Occupancy(NamedTuple):
    """The numbers of running and queued runs by backend, and the total limits."""

    running: dict[str, int]
    queued: dict[str, int]
    slots: int
    queue_slots: int


class QueueLimits(NamedTuple):
    """Limits on running and waiting runs; 0 means no limit, except that `queued` 0 allows no waiting.

    Attributes:
        total: runs at once.
        per_backend: runs of one backend at once.
        queued: runs that wait.
        queued_bytes: memory that waiting runs hold. If no memory is held, a run of any size may wait.
    """

    total: int
    per_backend: int = 0
    queued: int = 0
    queued_bytes: int = 0


_VALUE_BYTES = 100
"""The estimated memory of a JSON value besides its text."""


def queue_limits(server: ServerSettings, runs: int) -> QueueLimits:
    """Return the configured limits, with `runs` at once."""
    return QueueLimits(
        total=runs,
        per_backend=server.max_concurrent_per_backend,
        queued=server.max_queued_runs,
        queued_bytes=server.max_queued_mb * _MIB,
    )


def held_bytes(request: RunRequest) -> int:
    """Estimate the memory of a waiting run; options count twice, for the request and for the record."""
    options = (request.metadata, request.output_schema, request.answer_as, request.extra)
    encoded = msgspec.json.encode(options) if any(options) else b""
    values = sum(map(encoded.count, (b",", b"[", b"{")))
    # A non-ASCII text also holds a UTF-8 copy, which the store creates.
    texts = (request.prompt, request.system_prompt or "")
    held = sum(sys.getsizeof(text) * (1 if text.isascii() else 2) for text in texts)
    return held + sum(len(image.data) for image in request.images) + 2 * (len(encoded) + values * _VALUE_BYTES)
