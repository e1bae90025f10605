"""The conversations of the real CLIs go on, and branch off: what the model API received is the proof."""

import json
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.machine import Machine
from clinvk.backends import registry
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.sessions import fork
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.events import RunFinished, RunResult, Usage
from clinvk.types.record import Session
from clinvk.types.request import RunRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BACKENDS = ("claude", "codex", "gemini")
RECORDS = {
    "claude": ".claude/projects/*/*.jsonl",
    "codex": ".codex/sessions/**/*.jsonl",
    "gemini": ".gemini/tmp/*/chats/*.jsonl",
}
FORK = "f" * 32


class Conversation:
    """The turns of a session with one CLI; each turn has a new store and new runs, like another process."""

    def __init__(self, machine: Machine, backend: str) -> None:
        self.machine = machine
        self.backend = backend

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[tuple[LocalRuns, SqliteStore]]:
        async with SqliteStore(self.machine.home / ".clinvk") as store, self.machine.runs(store=store) as runs:
            yield runs, store

    def request(self, prompt: str, **fields: object) -> RunRequest:
        fields.setdefault("model", "fast" if self.backend == "gemini" else None)  # by itself it asks which to take
        request = RunRequest(prompt=prompt, backend=self.backend, **fields)  # pyright: ignore[reportArgumentType]
        return self.machine.completed(request)

    async def turn(self, prompt: str, **fields: object) -> tuple[RunResult, Session]:
        """Run a prompt to its end; return the result and the stored session."""
        async with self.process() as (runs, store), runs.run(self.request(prompt, **fields)) as run:
            result = await run.log.result()
            assert run.session_id
            return result, await store.session(run.session_id)

    async def first(self, prompt: str, **fields: object) -> Session:
        """Run the first prompt of a session."""
        result, session = await self.turn(prompt, **fields)
        assert result.error is None
        return session

    async def fork(self, session: Session) -> None:
        async with self.process() as (_, store):
            await fork(store, session.id, FORK, registry.BACKENDS)

    def sent(self, prompt: str) -> str:
        """Return the latest request to the model in the turn with this prompt."""
        return json.dumps(self.machine.requests(prompt)[-1])

    def records(self) -> dict[Path, bytes]:
        """Return the CLI's own records of conversations."""
        return {path: path.read_bytes() for path in self.machine.home.glob(RECORDS[self.backend])}


@pytest.fixture(params=BACKENDS)
def conversation(request: pytest.FixtureRequest, machine: Machine) -> Conversation:
    return Conversation(machine, request.param)


def used(result: RunResult) -> Usage:
    assert isinstance(result.ending, RunFinished)
    assert result.ending.usage
    return result.ending.usage


def tokens(backend: str, *turns: Sequence[int]) -> Usage:
    """Return what a CLI reports for turns of input, cached, output and thinking tokens; Claude counts no thinking."""
    usage = Usage()
    for told, cached, output, thinking in turns:
        usage += Usage(told, output, cached, 0 if backend == "claude" else thinking)
    return usage


async def test_conversation_resumes_from_another_process_and_directory(conversation: Conversation) -> None:
    """The turn runs in the session's directory, under any name of the directory, and counts its tokens only."""
    machine = conversation.machine
    link = machine.project.parent / "link"
    link.symlink_to(machine.project)
    first = await conversation.first("alpha [[say=answer-1 usage=100,20,30,10]]", workdir=f"{link}/")
    assert first.working_dir == str(machine.project)
    link.unlink()
    second, session = await conversation.turn(
        "beta [[say=two usage=200,40,50,20]]", session_id=first.id, workdir=str(machine.outside)
    )
    assert second.text == "two"
    sent = conversation.sent("beta")
    assert sent.index("alpha") < sent.index("answer-1") < sent.index("beta")
    assert str(machine.project) in sent
    assert str(machine.outside) not in sent
    assert used(second) == tokens(conversation.backend, (200, 40, 50, 20))
    assert session.token_usage == tokens(conversation.backend, (100, 20, 30, 10), (200, 40, 50, 20))
    assert (session.turn_count, session.status) == (2, "completed")
    assert session.backend_session_id == first.backend_session_id


async def test_fork_knows_earlier_turns_and_does_not_change_its_parent(conversation: Conversation) -> None:
    parent = await conversation.first("alpha [[say=one usage=100,20,30,10]]")
    before = conversation.records()
    await conversation.fork(parent)
    first, forked = await conversation.turn("beta [[say=two usage=200,40,50,20]]", session_id=FORK)
    assert {path: conversation.records()[path] for path in before} == before
    assert forked.backend_session_id != parent.backend_session_id
    assert used(first) == tokens(conversation.backend, (200, 40, 50, 20))
    on, _ = await conversation.turn("gamma [[say=three usage=300,60,70,30]]", session_id=parent.id)
    assert used(on) == tokens(conversation.backend, (300, 60, 70, 30))
    second, forked = await conversation.turn("delta [[say=four usage=400,80,90,40]]", session_id=FORK)
    assert used(second) == tokens(conversation.backend, (400, 80, 90, 40))
    assert forked.token_usage == tokens(conversation.backend, (200, 40, 50, 20), (400, 80, 90, 40))
    assert (forked.turn_count, forked.parent_id) == (2, parent.id)
    said = {turn: conversation.sent(turn) for turn in ("beta", "gamma", "delta")}
    assert [turn for turn in ("alpha", "beta", "gamma", "delta") if turn in said["beta"]] == ["alpha", "beta"]
    assert [turn for turn in ("alpha", "beta", "gamma", "delta") if turn in said["gamma"]] == ["alpha", "gamma"]
    assert [turn for turn in ("alpha", "beta", "gamma", "delta") if turn in said["delta"]] == ["alpha", "beta", "delta"]


async def test_each_turn_uses_its_own_permissions_and_system_prompt(conversation: Conversation) -> None:
    made = conversation.machine.project / "made"
    write = f"[[tool=write path={made} content=hi]]"
    session = await conversation.first(f"alpha {write}", sandbox_mode="read-only", system_prompt="You are a pirate.")
    assert not made.exists()
    assert "You are a pirate." in conversation.sent("alpha")
    await conversation.turn(
        f"beta {write}", session_id=session.id, sandbox_mode="workspace", system_prompt="You are a poet."
    )
    assert made.read_text().strip() == "hi"
    assert "alpha" in conversation.sent("beta")
    assert "You are a poet." in conversation.sent("beta")
    await conversation.turn(f"gamma {write.replace('made', 'more')}", session_id=session.id, sandbox_mode="read-only")
    assert not (conversation.machine.project / "more").exists()


@pytest.mark.parametrize("approval", ["default", "none"])
async def test_other_gemini_runs_do_not_delete_a_conversation(machine: Machine, approval: str) -> None:
    """What is resumed in another minute leaves a file without content; by default the next start takes all for spoilt.

    The minute stands in the file's name.
    """
    conversation = Conversation(machine, "gemini")
    session = await conversation.first("alpha [[say=one]]")
    (record,) = conversation.records()
    shutil.move(record, record.with_name(record.name.replace("session-2", "session-1", 1)))
    await conversation.turn("beta [[say=two]]", session_id=session.id, approval_mode=approval)
    kept = conversation.records()
    assert len(kept) == 2
    await conversation.first("other [[words=1]]", approval_mode=approval)
    assert {path: conversation.records().get(path) for path in kept} == kept
    result, _ = await conversation.turn("gamma [[say=three]]", session_id=session.id)
    assert result.text == "three"
    assert "alpha" in conversation.sent("gamma")
