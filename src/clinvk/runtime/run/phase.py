"""The phases of a run."""

from enum import IntEnum


class Phase(IntEnum):
    """The phases of a run, in order. A run may skip phases; it goes back to the queue only for another agent."""

    QUEUED = 1
    """The run waits for a slot."""
    STARTING = 2
    """The run holds a slot; no agent process has started yet."""
    RUNNING = 3
    """An agent process works on the run."""
    STOPPING = 4
    """A caller has stopped the run; the agent may still be ending its turn."""
    ENDING = 5
    """The ending is known and is being stored. From here on another run may claim the session."""
    ENDED = 6
    """The ending is in the event log."""
