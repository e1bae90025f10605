"""Whether a kept process is well: one that hangs would keep its runs until their limits, and take more."""

import asyncio

import msgspec

from clinvk.runtime.worker import Worker


class Patience(msgspec.Struct, kw_only=True):
    """How long things may take.

    Attributes:
        unheard_s: until a process tells that it has begun a run, while it tells of others.
        silent_s: until a process that says nothing is asked for a sign of life.
        answers_within_s: until it gives one.
    """

    unheard_s: float = 60.0
    silent_s: float = 30.0
    answers_within_s: float = 15.0


def look_after(worker: Worker, patience: Patience) -> None:
    """Ask a process that is silent whether it is well; give it up, or a run in it, where that took too long."""
    if not worker.is_up or not worker.is_ready or worker.rests:
        return
    now = asyncio.get_running_loop().time()
    for seat in [*worker.seats.values()]:
        if not seat.is_heard and now > seat.began_at + patience.unheard_s:
            worker.give_up(seat, f"the agent did not begin within {patience.unheard_s:g} s")
    if not worker.launch.ping or now < worker.heard_at + patience.silent_s:
        return
    if worker.pinged_at <= worker.heard_at:  # equal where the answer came at once, by a clock of whole milliseconds
        worker.ping()
    elif now > worker.pinged_at + patience.answers_within_s:
        worker.fail(f"the agent's process hangs: it gave no sign of life within {patience.answers_within_s:g} s")
