"""All that a run needs to go."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import msgspec

from clinvk.backends.base import Backend, Host, Launch
from clinvk.request import RunRequest
from clinvk.runtime.fallback import Fallbacks
from clinvk.runtime.pool import Pool
from clinvk.session import Resume


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, in which environment, and what it continues.

    `relaunch` says how to go on with the run's own conversation. `check` judges the directories again right
    before the start, since the queue may have taken hours: it returns where the working directory leads, and raises a
    `ClinvkError` where the agent must not be started. `hold` is what holds the worktree to work in, where that
    is one of this clinvk's. `pool` has processes that may carry the run.
    """

    run_id: str
    request: RunRequest
    backend: Backend
    host: Host
    launch: Launch
    path: str
    env: Mapping[str, str]
    resume: Resume | None
    no_progress_s: float
    fallbacks: Fallbacks
    relaunch: Callable[[RunRequest, Resume], Launch]
    check: Callable[[], str] | None = None
    hold: Callable[[], AbstractAsyncContextManager[None]] | None = None
    pool: Pool | None = None
