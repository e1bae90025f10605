"""Sessions in the runtime: their directory, the resumed conversation, and forks."""

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Capabilities, Host, Launch
from clinvk.config.model import SessionSettings, Settings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import executables
from clinvk.runtime.process.waiting import Lookups
from clinvk.runtime.sessions import fork, in_session_directory
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery
from clinvk.types.errors import (
    AmbiguousId,
    BackendUnavailable,
    InvalidRequest,
    NotResumable,
    SessionNotFound,
    Unsupported,
)
from clinvk.types.events import Usage
from clinvk.types.record import Resume, RunRecord, Session
from clinvk.types.request import RunRequest
from records import session
from shell_backend import Shell

FORK = "f" * 32


class Recalling(Shell):
    """A shell that records the conversation that each of its runs resumes."""

    def __init__(self, name: str = "shell", capabilities: Capabilities | None = None) -> None:
        super().__init__(name)
        self.capabilities = capabilities or self.capabilities
        self.resumed: list[Resume | None] = []

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        self.resumed.append(resume)
        return super().launch(request, resume, host)


class Shared(MemoryStore):
    """A store in which something can happen just before a session is claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.before_next_claim: Callable[[], Awaitable[None]] | None = None

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        happening, self.before_next_claim = self.before_next_claim, None
        if happening:
            await happening()
        return await super().begin(run, session, must_exist)


class Place:
    """A store, a backend, and a new `LocalRuns` for each turn, like separate processes."""

    def __init__(self, settings: Settings | None = None, backend: Recalling | None = None) -> None:
        self.store = Shared()
        self.backend = backend or Recalling()
        self._settings = settings or Settings()

    @property
    def registry(self) -> dict[str, Recalling]:
        return {"shell": self.backend}

    async def turn(self, script: str, **fields: object) -> Session:
        """Run a prompt to its end; return the stored session."""
        request = RunRequest(prompt=script, backend="shell", **fields)  # pyright: ignore[reportArgumentType]
        environ = {"PATH": os.environ["PATH"]}
        async with LocalRuns(self._settings, self.store, environ, self.registry) as runs, runs.run(request) as run:
            await run.log.result()
            assert run.session_id
            return await self.store.session(run.session_id)

    async def fork(self, reference: str, session_id: str = FORK) -> Session:
        return await fork(self.store, reference, session_id, self.registry)


def says(handle: str | None, tokens: int | None = 10, more: str = "") -> str:
    """Return the script of an agent that reports its handle and the tokens of its turn."""
    started = f'{{"type":"run_started","backend_session_id":"{handle}"}}' if handle else '{"type":"run_started"}'
    usage = f',"usage":{{"input_tokens":{tokens},"output_tokens":1}}' if tokens is not None else ""
    return f"echo '{started}'\n{more}\necho '{{\"type\":\"run_finished\"{usage}}}'\n"


async def test_turn_resumes_from_the_handle_and_usage_of_earlier_turns() -> None:
    place = Place()
    first = await place.turn(says("abc"))
    await place.turn(says("abc", 5), session_id=first.id)
    third = await place.turn(says("abc"), session_id=first.id)
    assert place.backend.resumed == [None, Resume("abc", Usage(10, 1)), Resume("abc", Usage(15, 2))]
    assert (third.turn_count, third.token_usage) == (3, Usage(25, 3))


async def test_session_stores_the_resolved_directory(tmp_path: Path) -> None:
    """A link that changes later would separate the agent from its conversation."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    session = await Place().turn(says("abc"), workdir=f"{tmp_path}/link/")
    assert session.working_dir == str(tmp_path / "real")


def test_find_returns_files_of_the_agents_home_largest_first(tmp_path: Path) -> None:
    for name, size in {"a/x-1.json": 2, "b/x-2.json": 3, "b/y.json": 9}.items():
        (tmp_path / "[0]" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "[0]" / name).write_bytes(b"." * size)
    found = executables.host({"HOME": str(tmp_path)}).find("~/[0]", "*/x-*.json")
    assert found == [f"{tmp_path}/[0]/b/x-2.json", f"{tmp_path}/[0]/a/x-1.json"]


def test_find_returns_a_circular_symlink(tmp_path: Path) -> None:
    """A project may have any: it is no reason to fail."""
    link = tmp_path / "x.rules"
    link.symlink_to(link)
    assert executables.host({}).find(str(tmp_path), "*.rules") == [str(link)]


async def test_session_without_workdir_uses_the_current_directory() -> None:
    assert (await Place().turn(says("abc"))).working_dir == str(Path.cwd().resolve())


async def test_session_with_a_missing_directory_cannot_be_resumed_and_stays_unchanged(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    place = Place()
    session = await place.turn(says("abc"), workdir=str(own))
    own.rmdir()
    with pytest.raises(NotResumable, match=r"own', which does not exist any more"):
        await place.turn(says("abc"), session_id=session.id)
    assert await place.store.session(session.id) == session


async def test_agent_usage_is_kept_when_token_totals_are_not_stored() -> None:
    place = Place(Settings(session=SessionSettings(store_token_usage=False)))
    first = await place.turn(says("abc"))
    second = await place.turn(says("abc"), session_id=first.id)
    assert place.backend.resumed[1] == Resume("abc", Usage(10, 1))
    assert second.token_usage == Usage()


async def test_imported_session_resumes_from_its_token_total() -> None:
    place = Place()
    await place.store.create(_session(token_usage=Usage(7, 3)))
    await place.turn(says("abc"), session_id="a" * 32)
    assert place.backend.resumed == [Resume("abc", Usage(7, 3))]


def _session(**fields: object) -> Session:
    known = Session(
        id="a" * 32,
        backend="shell",
        created_at=1,
        last_used=1,
        working_dir="/",
        initial_prompt="hello",
        backend_session_id="abc",
        status="completed",
    )
    return replace(known, **fields)


async def test_fork_inherits_directory_title_and_tags_and_counts_from_zero() -> None:
    place = Place()
    parent = await place.turn(says("abc"), tags=("x", "y"), metadata={"k": 1}, model="m")
    parent = await place.store.describe(parent.id, "a title", None)
    forked = await place.fork(parent.id[:8])
    assert forked == await place.store.session(FORK)
    assert (forked.parent_id, forked.title, forked.tags, forked.metadata) == (
        parent.id,
        "a title",
        ("x", "y"),
        {"k": 1},
    )
    assert (forked.working_dir, forked.model, forked.initial_prompt) == (parent.working_dir, "m", parent.initial_prompt)
    assert (forked.turn_count, forked.token_usage, forked.status) == (0, Usage(), "completed")
    assert await place.store.session(parent.id) == parent


async def test_first_run_of_a_fork_branches_off_and_the_next_resumes_it() -> None:
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    await place.turn(says("def", 3), session_id=FORK)
    forked = await place.turn(says("def", 4), session_id=FORK)
    after = await place.turn(says("abc"), session_id=parent.id)
    assert place.backend.resumed[1:] == [
        Resume("abc", Usage(10, 1), fork=True),
        Resume("def", Usage(13, 2)),
        Resume("abc", Usage(10, 1)),
    ]
    assert (forked.turn_count, forked.token_usage) == (2, Usage(7, 2))
    assert (after.turn_count, after.token_usage) == (2, Usage(20, 2))


async def test_run_resumes_the_session_as_it_was_claimed() -> None:
    """Another process ends a run of it between the look at the session and the claim."""
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)

    async def meanwhile() -> None:
        await place.turn(says("def", 3), session_id=FORK)

    place.store.before_next_claim = meanwhile
    forked = await place.turn(says("def", 4), session_id=FORK)
    assert place.backend.resumed[-1] == Resume("def", Usage(13, 2))
    assert (forked.turn_count, forked.token_usage, forked.counted) == (2, Usage(7, 2), Usage(17, 3))


async def test_session_deleted_before_its_claim_is_not_recreated() -> None:
    place = Place()
    session = await place.turn(says("abc"))

    async def meanwhile() -> None:
        await place.store.delete(session.id)

    place.store.before_next_claim = meanwhile
    with pytest.raises(SessionNotFound, match=session.id):
        await place.turn(says("abc"), session_id=session.id)
    assert await place.store.count() == 0
    assert (await place.store.runs(RunQuery())).total == 0


async def test_fork_used_late_counts_from_the_current_usage_of_its_parent() -> None:
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    await place.turn(says("abc"), session_id=parent.id)
    await place.turn(says("def", 3), session_id=FORK)
    forked = await place.turn(says("def", 4), session_id=FORK)
    assert place.backend.resumed[2:] == [Resume("abc", Usage(20, 2), fork=True), Resume("def", Usage(23, 3))]
    assert forked.token_usage == Usage(7, 2)


async def test_a_fork_outlives_its_parent() -> None:
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    await place.store.delete(parent.id)
    await place.turn(says("def"), session_id=FORK)
    assert place.backend.resumed[1] == Resume("abc", Usage(10, 1), fork=True)


async def test_a_fork_of_an_unused_fork_branches_off_from_the_first_parent() -> None:
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    await place.fork(FORK, "e" * 32)
    await place.turn(says("abc"), session_id=parent.id)
    await place.turn(says("def"), session_id="e" * 32)
    assert place.backend.resumed[2] == Resume("abc", Usage(20, 2), fork=True)


async def test_fork_of_a_used_fork_branches_off_from_that_fork() -> None:
    """Handle and tokens come from one conversation: that of the parent at the moment of the fork."""
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    await place.fork(FORK, "e" * 32)
    await place.turn(says("def", 3), session_id=FORK)
    await place.turn(says("ghi", 4), session_id="e" * 32)
    last = await place.turn(says("ghi", 5), session_id="e" * 32)
    assert place.backend.resumed[2:] == [Resume("def", Usage(13, 2), fork=True), Resume("ghi", Usage(17, 3))]
    assert last.token_usage == Usage(9, 2)


async def test_fork_branches_off_from_the_current_handle_of_its_parent() -> None:
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    await place.turn(says("xyz"), session_id=parent.id)
    await place.turn(says("def"), session_id=FORK)
    assert place.backend.resumed[2] == Resume("xyz", Usage(20, 2), fork=True)


async def test_fork_can_be_retried_after_its_first_run_fails_before_the_agent_starts() -> None:
    place = Place()
    parent = await place.turn(says("abc"))
    await place.fork(parent.id)
    failed = await place.turn("exit 3", session_id=FORK)
    assert (failed.status, failed.turn_count) == ("error", 0)
    await place.turn(says("def"), session_id=FORK)
    assert place.backend.resumed[2] == Resume("abc", Usage(10, 1), fork=True)


@pytest.mark.parametrize("capabilities", [Capabilities(resume=True), Capabilities(fork=True)])
async def test_backend_without_fork_support_raises_unsupported(capabilities: Capabilities) -> None:
    place = Place(backend=Recalling(capabilities=capabilities))
    await place.store.create(_session())
    with pytest.raises(Unsupported, match="shell cannot branch off"):
        await place.fork("a" * 32)
    assert await place.store.count() == 1


async def test_fork_requires_an_existing_session_of_a_known_backend() -> None:
    place = Place()
    await place.store.create(_session())
    await place.store.create(_session(id="a" * 31 + "b", backend="gone"))
    with pytest.raises(SessionNotFound):
        await place.fork("b" * 32)
    with pytest.raises(AmbiguousId):
        await place.fork("aaaa")
    with pytest.raises(SessionNotFound):
        await place.fork("no id")
    with pytest.raises(BackendUnavailable):
        await place.fork("a" * 31 + "b")
    assert await place.store.count() == 2


async def test_session_whose_directory_hangs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = threading.Event()

    def hangs(_: str) -> bool:
        return answering.wait(60)

    monkeypatch.setattr(os.path, "isdir", hangs)
    request = RunRequest(prompt="x", backend="claude")
    try:
        with pytest.raises(InvalidRequest, match="does not answer"):
            await in_session_directory(request, session(working_dir=str(tmp_path)), Lookups(timeout_s=0.1))
    finally:
        answering.set()
