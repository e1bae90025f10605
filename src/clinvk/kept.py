"""The agent processes that are kept for runs to come, at a moment, in numbers."""

from collections.abc import Mapping

import msgspec


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Kept processes at this moment.

    Attributes:
        processes: those that are kept.
        ready: of these, those that a run without a session can go to at once.
        runs: runs that they carry.
        hits, misses: runs that found a process, and runs that did not.
        memory_bytes: what they take, as last measured.
    """

    processes: int
    ready: int
    runs: int
    hits: int
    misses: int
    memory_bytes: int


class Warm(Kept, frozen=True, kw_only=True):
    """All of them, and those of each backend of which any may be kept; `memory_limit_bytes` is 0 for no limit.

    `one_shot` are backends whose program turned out not to speak the protocol that staying needs.
    """

    backends: Mapping[str, Kept]
    one_shot: tuple[str, ...] = ()
    slots: int
    memory_limit_bytes: int
