"""What a wire format looks like to clinvk: a body in, a `Call` out; events in, bytes out."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from clinvk.errors import ClinvkError
from clinvk.events import Event
from clinvk.request import RunRequest
from clinvk.result import RunResult


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a body asks: the run, and how it wants to be answered."""

    request: RunRequest
    stream: bool = False
    dry_run: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect needs of the run beside its events; handed in, since dialects have no clock and no ids.

    `started_at` is in seconds since the epoch; `duration_s` is known for results only.
    """

    run_id: str
    backend: str
    session_id: str | None = None
    model: str | None = None
    workdir: str = ""
    started_at: float = 0.0
    duration_s: float = 0.0


class Encoder(Protocol):
    """Turns the events of one run into the bytes of one stream."""

    def feed(self, event: Event, at: float) -> bytes:
        """Give the bytes of one event that happened `at` seconds since the epoch; may be empty."""
        ...


class Dialect(Protocol):
    """A wire format, pure."""

    stream_type: str

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Read a request body.

        Raises:
            InvalidRequest: names the field.
        """
        ...

    def encoder(self, call: Call, facts: Facts) -> Encoder:
        """Make the encoder of one stream."""
        ...

    def result(self, call: Call, result: RunResult, facts: Facts) -> bytes:
        """Give the body of a run that has ended."""
        ...

    def error(self, error: ClinvkError) -> tuple[int, bytes]:
        """Give status and body of a request that could not be run."""
        ...
