"""The facts of a run, for every interface and for reports between processes."""

import msgspec

from clinvk.types.request import FailedAgent


class RunFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The facts of a run so far, besides its events. Times are in seconds since the epoch.

    Attributes:
        backend: the agent that has the prompt, after those in `fallback`.
        node: the node of the cluster that runs the run; empty without a cluster.
        state: one of queued, running, waiting, finished, failed, cancelled; empty if unknown.
        created_at: when the run was requested.
        started_at: when an agent process started; None before.
        ended_at: when the run ended; None before.
        has_exited: whether the agent process of the ended run is gone.
        queue_position: counts from 1; None if the run waits for no slot.
        used_tokens: the tokens that the agent has reported so far.
        raw: the last line of JSON that the agent printed, once the run has ended.
        warnings: name what could not be stored.
        is_steered: whether the prompt has no run of its own, because the agent of this run has received the prompt.
    """

    run_id: str
    backend: str
    session_id: str | None = None
    model: str | None = None
    workdir: str = ""
    node: str = ""
    state: str = ""
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    has_exited: bool = False
    queue_position: int | None = None
    fallback: tuple[FailedAgent, ...] = ()
    used_tokens: int = 0
    raw: bytes = b""
    warnings: tuple[str, ...] = ()
    is_steered: bool = False

    @property
    def began_at(self) -> float:
        """When the agent started; until then, and for a run without an agent, when the run was requested."""
        return self.created_at if self.started_at is None else self.started_at

    @property
    def duration_s(self) -> float:
        """The duration of an ended run from the start of its agent; 0 for other runs."""
        return max(0.0, self.ended_at - self.started_at) if self.ended_at and self.started_at is not None else 0.0
