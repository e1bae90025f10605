"""A store that lives and dies with its process."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from msgspec.structs import replace

from clinvk.store import protocol, search
from clinvk.store.protocol import MADE_WITH, RUN_MADE_WITH, UNDER_WAY, Page, RunQuery, SessionQuery, at_rest
from clinvk.types.errors import SessionBusy
from clinvk.types.events import Logged, Usage
from clinvk.types.record import RunRecord, UsageOfDay, without_text
from clinvk.types.session import Session, retagged

_T = TypeVar("_T")


class MemoryStore:
    """Sessions, runs and events in dicts.

    `_holders` are the runs under way, by session; `_lost_text` are orchestrations of which a part was deleted.
    """

    damage = ""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._runs: dict[str, RunRecord] = {}
        self._events: dict[str, list[Logged]] = {}
        self._holders: dict[str, str] = {}
        self._lost_text: set[str] = set()
        self._usage: dict[tuple[str, str, str, str], UsageOfDay] = {}

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Keep a run that is about to start, and claim its session for it."""
        if session:
            if must_exist:
                self._kept(session.id)
            session = self._claimed(session, run.id)
        self._runs[run.id] = run
        return session

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Keep what has become known of a run and its session."""
        if run.id in self._runs:
            self._change(run, session)

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs."""
        for run_id in events.keys() & self._runs.keys():
            kept = self._events.setdefault(run_id, [])
            last = kept[-1].number if kept else 0
            kept.extend(event for event in events[run_id] if event.number > last)

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Keep the end of a run with its last events, and release its session."""
        if run.id not in self._runs:
            raise protocol.missing(run.id, "run")
        self._count(run)
        self._change(run, session)
        if run.id not in self._lost_text:
            await self.append({run.id: events})

    async def session(self, reference: str) -> Session:
        """Give a session."""
        return self._sessions[_only(self._sessions, reference, "session")]

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        found = [session for session in self._sessions.values() if _is_asked_for(session, query)]
        return _page(found, lambda session: session.last_used, query.limit, query.offset)

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Give the newest session that a next prompt may go on with."""
        query = SessionQuery(backend=backend, working_dir=working_dir, resumable=True, limit=len(self._sessions))
        page = await self.sessions(query)
        return next((session for session in page.items if not self._is_of_parts(session.id)), None)

    async def create(self, session: Session) -> None:
        """Insert a session without a run."""
        if session.id in self._sessions:
            raise ValueError(f"session {session.id!r} is there already")
        self._sessions[session.id] = at_rest(session)

    async def describe(self, session_id: str, title: str | None, tags: tuple[str, ...] | None) -> Session:
        """Change title and tags where they are not None."""
        kept = self._kept(session_id)
        self._sessions[session_id] = replace(
            kept, title=kept.title if title is None else title, tags=kept.tags if tags is None else tags
        )
        return self._sessions[session_id]

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Change some tags."""
        kept = self._kept(session_id)
        self._sessions[session_id] = replace(kept, tags=retagged(kept.tags, add, remove))
        return self._sessions[session_id]

    async def delete(self, session_id: str) -> None:
        """Delete a session with its runs and their events."""
        self._kept(session_id)
        self._refuse_held(session_id)
        self._drop(session_id)

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete what was last used before a time; give the number of sessions."""
        old = [s.id for s in self._sessions.values() if s.last_used < before and s.id not in self._holders]
        if not dry_run:
            for session_id in old:
                self._drop(session_id)
            for run in list(self._runs.values()):
                if not run.session_id and run.created_at < before and run.state not in UNDER_WAY:
                    self._drop_run(run.id)
        return len(old)

    async def count(self) -> int:
        """Give the number of sessions."""
        return len(self._sessions)

    async def run(self, reference: str) -> RunRecord:
        """Give a run."""
        return self._runs[_only(self._runs, reference, "run")]

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        wanted = {
            name: value
            for name in ("session_id", "parent_id", "backend", "state")
            if (value := getattr(query, name)) is not None
        }
        found = [r for r in self._runs.values() if all(getattr(r, name) == value for name, value in wanted.items())]
        return _page(found, lambda run: run.created_at, query.limit, query.offset)

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Give the kept events of a run after number `after`, at most `limit`."""
        later = (event for event in self._events.get(run_id, []) if event.number > after)
        return list(islice(later, limit))

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Give what the runs that have ended used, from a day on, in order of days."""
        return [
            item
            for _, item in sorted(self._usage.items())
            if item.day >= first_day and key_name in (None, item.key_name)
        ]

    async def size(self) -> int:
        """Give the bytes that the store takes on disk."""
        return 0

    def _is_of_parts(self, session_id: str) -> bool:
        runs = [run for run in self._runs.values() if run.session_id == session_id]
        return bool(runs) and all(run.parent_id for run in runs)

    def _count(self, run: RunRecord) -> None:
        if self._runs[run.id].ended_at is not None or run.ended_at is None or not run.backend:
            return
        day = datetime.fromtimestamp(run.created_at, UTC).date().isoformat()
        key = (day, run.key_name, run.backend, run.model or "")
        before = self._usage.get(key)
        self._usage[key] = UsageOfDay(
            day=day,
            key_name=run.key_name,
            backend=run.backend,
            model=run.model or "",
            runs=(before.runs if before else 0) + 1,
            usage=(before.usage if before else Usage()) + (run.usage or Usage()),
            cost_usd=(before.cost_usd if before else 0.0) + (run.cost_usd or 0.0),
        )

    def _change(self, run: RunRecord, session: Session | None) -> None:
        begun = self._runs[run.id]
        run = replace(run, **{name: getattr(begun, name) for name in RUN_MADE_WITH})
        self._runs[run.id] = without_text(run) if run.id in self._lost_text else run
        if run.session_id and run.state not in UNDER_WAY and self._holders.get(run.session_id) == run.id:
            del self._holders[run.session_id]
        if session and (kept := self._sessions.get(session.id)):
            self._sessions[kept.id] = replace(session, **{name: getattr(kept, name) for name in MADE_WITH})

    def _claimed(self, session: Session, run_id: str) -> Session:
        if kept := self._sessions.get(session.id):
            self._refuse_held(session.id)
            session = replace(kept, last_used=max(kept.last_used, session.last_used))
        session = replace(session, status="active")
        self._sessions[session.id] = session
        self._holders[session.id] = run_id
        return session

    def _refuse_held(self, session_id: str) -> None:
        if holder := self._holders.get(session_id):
            raise SessionBusy(f"session {session_id!r} is busy with run {holder!r}")

    def _kept(self, session_id: str) -> Session:
        try:
            return self._sessions[session_id]
        except KeyError:
            raise protocol.missing(session_id, "session") from None

    def _drop(self, session_id: str) -> None:
        del self._sessions[session_id]
        parts = [run for run in self._runs.values() if run.session_id == session_id]
        for run in parts:
            self._drop_run(run.id)
        wholes = {run.parent_id for run in parts} - {None}
        for whole in [self._runs[run_id] for run_id in wholes if run_id in self._runs]:
            if whole.state in UNDER_WAY or any(run.parent_id == whole.id for run in self._runs.values()):
                self._runs[whole.id] = without_text(whole)
                self._events.pop(whole.id, None)
                self._lost_text.add(whole.id)
            else:
                self._drop_run(whole.id)

    def _drop_run(self, run_id: str) -> None:
        del self._runs[run_id]
        self._events.pop(run_id, None)
        self._lost_text.discard(run_id)


def _only(known: Iterable[str], reference: str, kind: protocol.Kind) -> str:
    prefix = protocol.prefix(reference, kind)
    found = sorted(key for key in known if key.startswith(prefix))
    return protocol.only(found[: protocol.MAX_CANDIDATES + 1], reference, kind)


def _is_asked_for(session: Session, query: SessionQuery) -> bool:
    return (
        query.backend in (None, session.backend)
        and query.status in (None, session.status)
        and (query.tag is None or query.tag in session.tags)
        and query.working_dir in (None, session.working_dir)
        and not (query.resumable and not session.backend_session_id)
        and (not query.text or search.folded(query.text) in search.words(session))
    )


def _page(found: list[_T], at: Callable[[_T], float], limit: int, offset: int) -> Page[_T]:
    """Cut a page out of items in the order they were kept, newest first."""
    newest = sorted(found, key=at)[::-1]
    return Page(tuple(newest[offset : offset + limit]), len(found))
