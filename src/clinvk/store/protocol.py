"""The protocol for stores of sessions and runs, and the ids of both. All stores pass one contract suite."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec.structs import replace

from clinvk.types.choices import RunState, SessionStatus
from clinvk.types.errors import AmbiguousId, InteractionNotFound, RunNotFound, SessionBusy, SessionNotFound
from clinvk.types.events import Logged, RunFailed
from clinvk.types.interaction import Interaction, InteractionStatus
from clinvk.types.record import LimitWindow, RunRecord, Session, UsageOfDay

MIN_PREFIX = 4
"""The minimum length of an id prefix, in hex digits."""

UNDER_WAY: tuple[RunState, ...] = ("queued", "running", "waiting")
"""The states of a run that has not ended."""

FIXED_SESSION_FIELDS = ("backend", "created_at", "working_dir", "initial_prompt", "parent_id", "title", "tags", "node")
"""The fields of a session that its runs do not change; only `reassign` changes the backend."""

FIXED_RUN_FIELDS = (
    "id",
    "session_id",
    "parent_id",
    "backend",
    "created_at",
    "workdir",
    "request",
    "prompt",
    "key_name",
    "node",
)
"""The fields of a run that never change after `begin`, except by `reassign`."""

LOST = RunFailed(SessionBusy.code, "the session was continued or deleted elsewhere while the database was away")
"""The ending of a run that `SessionStore.on_lost` stops."""

SEARCHED_CHARS = 1000
"""How many characters of a session's title and first prompt, together, `SessionQuery.text` searches."""

Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """A page of a list, and the length of the list."""

    items: tuple[Item, ...]
    total: int


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for sessions, newest first.

    Attributes:
        text: searched in title and first prompt, case-insensitive.
        resumable: only sessions whose agent has reported a handle, with or without a run under way.
    """

    backend: str | None = None
    status: SessionStatus | None = None
    tag: str | None = None
    text: str | None = None
    working_dir: str | None = None
    resumable: bool = False
    limit: int = 100
    offset: int = 0


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for runs, newest first; the runs of a session in the order of their turns, the last turn first."""

    session_id: str | None = None
    parent_id: str | None = None
    backend: str | None = None
    state: RunState | None = None
    limit: int = 100
    offset: int = 0


class InteractionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for interactions, newest first."""

    status: InteractionStatus | None = None
    run_id: str | None = None
    session_id: str | None = None
    limit: int = 100
    offset: int = 0


def settled_record(session: Session) -> Session:
    """Return a session as stored while no run is under way: paused instead of active."""
    return replace(session, status="paused") if session.status == "active" else session


class SessionStore(Protocol):
    """Sessions and runs.

    A `reference` is an id or a unique prefix of an id with at least `MIN_PREFIX` digits. The fields of a session in
    `FIXED_SESSION_FIELDS` never change with its runs; only `describe` and `tag` change title and tags, so a run cannot
    undo such a change. The fields of a run in `FIXED_RUN_FIELDS` never change,
    except that `reassign` changes the agent. All methods raise `StoreUnavailable` if
    the store cannot be used.

    Attributes:
        damage: the damage that an operation has met; empty if none. Operations on undamaged parts still work.
        on_lost: called with the id of a run of this process that must stop: other processes took this one for dead,
            and its session was continued or deleted.
    """

    on_lost: list[Callable[[str], None]]

    @property
    def damage(self) -> str:
        """The damage that an operation has met; empty if none."""
        ...

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Insert a run before its start, and claim its session until `end`.

        The session becomes active. A new session is inserted; a stored session does not change otherwise. The run
        must continue from the returned session: another run may have ended between reading and claiming. With
        `must_exist` no session is inserted, so a session deleted in the meantime does not reappear.

        Raises:
            SessionBusy: another run of the session is under way.
            SessionNotFound: the session must exist, but does not.
        """
        ...

    async def enqueue(self, run: RunRecord, session: Session, is_next: bool = False) -> Session:
        """Insert a run that waits until its session is free. Return the stored session, which does not change.

        Waiting runs take their turns in the order of this call, those with `is_next` before the others. Until `claim`,
        the run does not hold the session, but `begin` and `delete` refuse the session as busy.

        Raises:
            SessionNotFound: the session does not exist.
        """
        ...

    async def claim(self, run_id: str, session_id: str) -> Session | None:
        """Claim the session of a run that waits, until `end`. Return the session, or None if other runs come first."""
        ...

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session (the agent's handle, its model).

        The update may be delayed for a moment, so an unknown run is ignored.
        """
        ...

    async def reassign(self, run: RunRecord, session: Session | None) -> None:
        """Update a run before a change of agent or a wait, including `backend` and `request`, and update the session.

        Raises:
            RunNotFound: the run is not stored.
        """
        ...

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs, by run id, in one transaction. The events of a run must be in order of number.

        Skip stored events, and all events of an unknown run.
        """
        ...

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Store the end of a run with its last events, and release its session, in one transaction.

        Raises:
            RunNotFound: the run is not stored.
        """
        ...

    async def session(self, reference: str) -> Session:
        """Return a session.

        Raises:
            SessionNotFound: no session has this id.
            AmbiguousId: several ids begin with the reference; the error names them.
        """
        ...

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        ...

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Return the newest session that a prompt without a session id may continue, or None.

        The session is resumable, and has a run of the command line that was not part of an orchestration, or no run
        (a fork).
        """
        ...

    async def costs(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Return the sum of the known costs of the runs of sessions, by session; without sessions of unknown cost."""
        ...

    async def create(self, session: Session) -> None:
        """Insert a session without a run (a fork), `settled_record`. Raises ValueError if the id exists."""
        ...

    async def describe(self, session_id: str, title: str | None, tags: tuple[str, ...] | None) -> Session:
        """Change title and tags; None leaves a value unchanged. Raises `SessionNotFound`."""
        ...

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Add and remove tags, as `session.with_tags` does. Keep concurrent changes of other tags.

        Raises:
            SessionNotFound: no session has this id.
            InvalidRequest: the session would have too many tags; no tag was changed.
        """
        ...

    async def delete(self, session_id: str) -> None:
        """Delete a session, its runs, and the events of the runs. Raises `SessionNotFound`, `SessionBusy`.

        If a deleted run was part of an orchestration, the orchestration loses text and events, and is deleted with the
        last part. An orchestration under way stays, and is stored without text until the end.
        """
        ...

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete sessions last used (or imported) before a time, in seconds since the epoch.

        Sessions with a run under way stay. Runs without a session are deleted by age.

        Returns:
            The number of sessions.
        """
        ...

    async def count(self) -> int:
        """Return the number of sessions. Raise also if the store can be read but not written, for health checks."""
        ...

    async def run(self, reference: str) -> RunRecord:
        """Return a run. Raises `RunNotFound`, `AmbiguousId`."""
        ...

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        ...

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Return up to `limit` stored events of a run after number `after`; empty for an unknown run."""
        ...

    async def add_interaction(self, interaction: Interaction) -> None:
        """Store a new interaction. The interaction is deleted with its run, and withdrawn at the end of the run."""
        ...

    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        """Store the outcome of an interaction, unless the interaction is no longer pending. Return what is stored.

        Raises:
            InteractionNotFound: the interaction was deleted, as at the end of an ephemeral run.
        """
        ...

    async def interaction(self, reference: str) -> Interaction:
        """Return an interaction. Raises `InteractionNotFound`, `AmbiguousId`."""
        ...

    async def interactions(self, query: InteractionQuery) -> list[Interaction]:
        """List interactions."""
        ...

    async def last_used(self) -> float | None:
        """Return when a session was last used, in seconds since the epoch; None if there is no session."""
        ...

    async def recover(self) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""
        ...

    async def size(self) -> int:
        """Return the size of the store on disk, in bytes."""
        ...

    async def pid_of(self, run_id: str) -> int | None:
        """Return the pid of the live process that began a run; None if unknown, e.g. on another machine."""
        ...

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Return the usage of ended runs since a day, in order of days; with `key_name` None, of all keys.

        Usage stays when runs are deleted. An orchestration counts as the sum of the parts.
        """
        ...

    async def update_limit(self, window: LimitWindow) -> None:
        """Store the newest state of a limit. The update may be delayed for a moment."""
        ...

    async def limits(self) -> list[LimitWindow]:
        """Return the newest states of the limits whose windows have not ended, by backend and window."""
        ...


@runtime_checkable
class KeyStore(Protocol):
    """A store that also has the API keys of several machines: the text of the key file of one machine."""

    async def keys(self) -> str | None:
        """Return the text, or None before the first change. Change nothing."""
        ...

    async def change_keys(self, edit: Callable[[str | None], str], dry_run: bool) -> None:
        """Replace the text by the result of `edit`; with `dry_run`, only call `edit`."""
        ...


ID_DIGITS = 32
MAX_CANDIDATES = 10

Kind = Literal["session", "run", "interaction"]
_NotFound = SessionNotFound | RunNotFound | InteractionNotFound

_DIGITS = frozenset("0123456789abcdef")
_NOT_FOUND: dict[Kind, type[_NotFound]] = {
    "session": SessionNotFound,
    "run": RunNotFound,
    "interaction": InteractionNotFound,
}


def check_prefix(reference: str, kind: Kind) -> str:
    """Return an id, or the beginning of one, in lower case.

    Raises:
        SessionNotFound, RunNotFound, InteractionNotFound: the reference is neither an id nor a prefix.
    """
    digits = reference.lower()
    if MIN_PREFIX <= len(digits) <= ID_DIGITS and _DIGITS.issuperset(digits):
        return digits
    article = "an" if kind == "interaction" else "a"
    raise _NOT_FOUND[kind](
        f"{reference!r} is not {article} {kind} id: "
        f"an id is {ID_DIGITS} hex digits, or at least the first {MIN_PREFIX} of them"
    )


def is_id(text: str) -> bool:
    """Return whether a text is a complete id."""
    return len(text) == ID_DIGITS and _DIGITS.issuperset(text)


def only_match(found: Sequence[str], reference: str, kind: Kind) -> str:
    """Return the only id in `found`, which may hold one id more than `MAX_CANDIDATES`.

    Raises:
        SessionNotFound, RunNotFound, InteractionNotFound: `found` is empty.
        AmbiguousId: `found` has several ids.
    """
    if len(found) == 1:
        return found[0]
    if not found:
        raise not_found(reference, kind)
    candidates = tuple(found[:MAX_CANDIDATES])
    more = " and more" if len(found) > MAX_CANDIDATES else ""
    raise AmbiguousId(
        f"{reference!r} is the beginning of several {kind} ids: {', '.join(candidates)}{more}",
        candidates=candidates,
    )


def not_found(reference: str, kind: Kind) -> _NotFound:
    """Return the error for an unknown id."""
    return _NOT_FOUND[kind](f"no {kind} {reference!r}")
