"""Pending interactions: limits, and stores that fail or lose an interaction."""

import asyncio
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.config.model import InteractionSettings
from clinvk.dialects.rest.interactions import interaction_view
from clinvk.runtime import interactions as module
from clinvk.runtime.interactions import Interactions, ReadyAnswer, RunInteractions
from clinvk.runtime.process.waiting import Lookups
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import InteractionQuery
from clinvk.types.errors import InteractionNotFound, StoreUnavailable
from clinvk.types.events import Event, InteractionRequested, InteractionResolved, Progress
from clinvk.types.interaction import BY_RULES, ApprovalRule, Interaction, InteractionAnswer, QuestionField
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from clinvk.types.text import visible
from polling import until
from records import run

REQUESTED = InteractionRequested(Interaction(id="q"))


async def begun(store: MemoryStore) -> RunRecord:
    """Begin an ephemeral run."""
    await store.begin(record := run(), None)
    return record


def test_view_of_a_question_has_the_answers() -> None:
    answer = InteractionAnswer(choice="answer", answers={"colour": "Blue"})
    view = interaction_view(Interaction(id="q", kind="question", status="answered", answer=answer))
    assert (view.choice, view.answers) == ("answer", {"colour": "Blue"})
    assert interaction_view(REQUESTED.interaction).answers == {}


def of_run(interactions: Interactions, record: RunRecord) -> RunInteractions:
    return RunInteractions(interactions, record, RunRequest(prompt="", backend=record.backend), lambda: None)


async def test_concurrent_requests_keep_to_the_limit_of_waiting_runs() -> None:
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings(max_waiting=1))
        runs = [of_run(interactions, await begun(store)) for _ in range(20)]
        logged = await asyncio.gather(*(each.record(REQUESTED) for each in runs))
        interactions.close()
    assert sum(isinstance(event, InteractionRequested) for (event,) in logged) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("edit\n\u202eclinvk approvals answer 1\0\x1b[2J\r\n", r"edit \u202eclinvk approvals answer 1\x00\x1b[2J"),
        ("x" * 300, "x" * 200),
    ],
)
async def test_name_of_a_tool_is_one_visible_line(name: str, shown: str) -> None:
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings())
        asked = InteractionRequested(Interaction(id="q", tool=name))
        (event,) = await of_run(interactions, await begun(store)).record(asked)
        interactions.close()
    assert isinstance(event, InteractionRequested)
    assert event.interaction.tool == shown


@pytest.mark.parametrize(
    ("path", "add_dirs", "is_outside"),
    [
        ("a", (), False),
        ("{home}/p", (), False),
        ("{home}/p/a", (), False),
        ("{home}/p/../o/x", (), True),
        ("../o/x", (), True),
        ("{home}/p/link", (), True),
        ("{home}/pp", (), True),
        ("/o\nclinvk: is safe", (), True),
        ("a\0/../../o", (), True),
        ("{home}/p/link", ("o",), False),
        ("{home}/o/x", ("more", "o"), False),
        ("{home}/x", ("more", "o"), True),
    ],
)
async def test_path_outside_of_the_directories_of_a_run_is_named(
    tmp_path: Path, path: str, add_dirs: tuple[str, ...], is_outside: bool
) -> None:
    for name in ("p", "o", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "p" / "link").symlink_to(tmp_path / "o" / "x")
    workdir, *others = (str(tmp_path / name) for name in ("p", *add_dirs))
    request = RunRequest(prompt="", backend="b", workdir=workdir, add_dirs=tuple(others))
    named = path.format(home=tmp_path)
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings())
        asking = RunInteractions(interactions, await begun(store), request, lambda: None)
        (event,) = await asking.record(InteractionRequested(Interaction(id="q", note="Because."), (named, named)))
        interactions.close()
    assert isinstance(event, InteractionRequested)
    places = f"the directories {', '.join([workdir, *others])}" if others else f"the directory {workdir}"
    facts = [f"clinvk: {visible(named)} is outside of {places}"] if is_outside else []
    assert (event.interaction.note.split("\n"), event.paths) == (["Because.", *facts], ())


async def test_file_system_that_does_not_answer_holds_no_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def resolve(path: str) -> str:
        is_over.wait(60)
        return path

    monkeypatch.setattr(module, "resolve", resolve)
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings())
        interactions.lookups = Lookups(timeout_s=0.1)
        asking = of_run(interactions, await begun(store))
        (event,) = await asyncio.wait_for(asking.record(replace(REQUESTED, paths=("/net/a",))), 30)
        is_over.set()
        interactions.close()
    assert isinstance(event, InteractionRequested)
    assert event.interaction.note == "clinvk: the file system of /net/a does not answer"


WIDE = "\u20ac" * 21_845  # 65,535 bytes of UTF-8
LONG = "x" * (2**20 - 100)


@pytest.mark.parametrize(
    ("interaction", "reason"),
    [
        (Interaction(id="q", command=WIDE + "x", input={"command": WIDE + "x"}), None),
        (Interaction(id="q", command=WIDE + "xy"), "the command has 65,537 bytes, and at most 65,536 can"),
        (Interaction(id="q", input={"content": LONG}, diff=LONG), None),
        (Interaction(id="q", input={"content": LONG, "path": "p" * 100}), "the input has 1,048,"),
        (Interaction(id="q", input={str(number): "x" * 65_000 for number in range(17)}), "the input has 1,105,"),
        (Interaction(id="q", diff=LONG + "x" * 100), "the diff has 1,048,578 bytes, and at most 1,048,576 can"),
        (Interaction(id="q", fields=(QuestionField(id="f", label=LONG * 2),)), "the request has 2,09"),
        (Interaction(id="q", workdir=LONG * 2), "the request has 2,09"),
    ],
)
async def test_interaction_is_stored_whole_or_denied(interaction: Interaction, reason: str | None) -> None:
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings())
        asking = of_run(interactions, await begun(store))
        (event,) = await asking.record(InteractionRequested(interaction))
        interactions.close()
        stored = await store.interactions(InteractionQuery())
        answers = [ready.answer for ready in asking.take_answers()]
    if reason is None:
        assert event == InteractionRequested(stored[0])
        shown = replace(interaction, id="", run_id="", backend="", created_at=0, expires_at=0)
        assert replace(stored[0], id="", run_id="", backend="", created_at=0, expires_at=0) == shown
    else:
        assert isinstance(event, Progress)
        (answer,) = answers
        assert answer.choice == "deny"
        assert answer.reason.startswith(reason)
        assert event.message == f"1 action was denied: {answer.reason}"
        assert stored == []


@pytest.mark.parametrize(
    ("bytes_each", "expected", "reason"),
    [(1, 20, "20 requests of this run wait"), (1_000_000, 16, "the requests of this run have 16,0")],
)
async def test_pending_interactions_of_a_run_are_bounded(bytes_each: int, expected: int, reason: str) -> None:
    """600 requests of 0.9 MB would need over a gigabyte of memory."""
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings())
        asking, other = [of_run(interactions, await begun(store)) for _ in range(2)]
        for number in range(30):
            asked = Interaction(id=str(number), input={"content": "x" * bytes_each})
            await asking.record(InteractionRequested(asked))
        denials = [ready.answer for ready in asking.take_answers()]
        stored = len(await store.interactions(InteractionQuery(limit=100)))
        (event,) = await other.record(REQUESTED)
        interactions.close()
    assert (stored, len(denials)) == (expected, 30 - expected)
    assert all(denial.choice == "deny" and denial.reason.startswith(reason) for denial in denials)
    assert isinstance(event, InteractionRequested)


async def test_other_interactions_expire_after_one_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    changed: list[Interaction] = []
    async with MemoryStore() as store:
        deleted, other = await begun(store), await begun(store)
        interactions = Interactions(store, InteractionSettings(timeout_secs=1), changed.append)
        for record in (deleted, other):
            await of_run(interactions, record).record(REQUESTED)
        await store.end(replace(deleted, state="finished"), None, [])
        await until(lambda: len(changed) > 2)
    assert [(each.run_id, each.status) for each in changed[2:]] == [(other.id, "expired")]


@pytest.mark.parametrize("is_withdrawn", [False, True], ids=["the run ends", "the agent no longer waits"])
async def test_answer_that_the_run_has_not_passed_on_stays_the_answer(is_withdrawn: bool) -> None:
    changes: list[str] = []
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings(), lambda each: changes.append(each.status))
        asking = of_run(interactions, await begun(store))
        (requested,) = await asking.record(REQUESTED)
        assert isinstance(requested, InteractionRequested)
        answered = await interactions.answer(requested.interaction.id, InteractionAnswer(choice="allow"))
        events = await asking.record(InteractionResolved(Interaction(id="q"))) if is_withdrawn else asking.end()
        assert events == [InteractionResolved(answered)]
        interactions.close()
    assert changes == ["pending", "answered"]


class _LosingStore(MemoryStore):
    """A store that does not find the interactions whose ids are in `lost`."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[str] = set()

    async def interaction(self, reference: str) -> Interaction:
        if reference in self.lost:
            raise InteractionNotFound("it was deleted")
        return await super().interaction(reference)


async def test_run_whose_interaction_was_deleted_hears_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    async with _LosingStore() as store:
        interactions, of_another = (
            Interactions(store, InteractionSettings()),
            Interactions(store, InteractionSettings()),
        )
        asking = of_run(interactions, await begun(store))
        (first,) = await asking.record(REQUESTED)
        assert isinstance(first, InteractionRequested)
        store.lost.add(first.interaction.id)
        await until(lambda: asking.answers)
        (second,) = await asking.record(InteractionRequested(Interaction(id="r")))
        assert isinstance(second, InteractionRequested)
        await of_another.answer(second.interaction.id, InteractionAnswer(choice="allow"))
        await until(lambda: len(asking.answers) == 2)
        interactions.close()
    assert [ready.answer.choice for ready in asking.answers] == ["deny", "allow"]


class _FailingStore(MemoryStore):
    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        raise StoreUnavailable("the disk is full")


async def test_request_is_withdrawn_though_the_store_fails() -> None:
    async with _FailingStore() as store:
        interactions = Interactions(store, InteractionSettings())
        asking = of_run(interactions, await begun(store))
        await asking.record(REQUESTED)
        (withdrawn,) = await asking.record(InteractionResolved(Interaction(id="q")))
        assert not asking.is_waiting
        interactions.close()
    assert isinstance(withdrawn, InteractionResolved)
    assert withdrawn.interaction.status == "withdrawn"


RULES = {
    "tests": ApprovalRule(effect="allow", command="npm test"),
    "secrets": ApprovalRule(effect="deny", path="secrets", reason="they are secret"),
}


async def decided(
    interaction: Interaction, *paths: str, workdir: str = "/", rules_only: bool = False, max_waiting: int = 100
) -> tuple[list[Event], list[ReadyAnswer], RunInteractions]:
    """Record what a run asks; return the events, the answers that are ready, and the interactions of the run."""
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings(max_waiting=max_waiting), rules=RULES)
        request = RunRequest(backend="fake", workdir=workdir, rules_only=rules_only)
        of_run = RunInteractions(interactions, await begun(store), request, lambda: None)
        logged = await of_run.record(InteractionRequested(interaction, paths))
        interactions.close()
        return logged, of_run.answers, of_run


async def test_rule_answers_before_anybody_is_asked() -> None:
    logged, [(_, answer, resolved)], of_run = await decided(Interaction(id="q", command="npm test"), max_waiting=0)
    assert logged == []
    assert answer.choice == "allow"
    assert resolved
    assert (resolved.status, resolved.answered_by, resolved.answerer) == ("answered", "rule tests", "rule tests")
    assert resolved.resolved_at
    assert not of_run.is_waiting


async def test_denial_of_a_rule_has_the_reason(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "secrets")
    asked = Interaction(id="q", tool="Edit", title="Edit key.pem")
    logged, [(_, answer, _)], _ = await decided(asked, "link/key.pem", workdir=str(tmp_path))
    assert (answer.choice, answer.reason) == ("deny", "they are secret")
    assert logged == [Progress("denied", "1 action was denied: Edit key.pem: they are secret", advice=BY_RULES)]


async def test_what_no_rule_decides_is_asked_or_with_rules_alone_denied() -> None:
    asked = Interaction(id="q", command="ls")
    logged, answers, of_run = await decided(asked)
    assert isinstance(logged[0], InteractionRequested)
    assert answers == []
    assert of_run.is_waiting
    _, [(_, answer, resolved)], _ = await decided(asked, rules_only=True)
    assert answer.choice == "deny"
    assert resolved
    assert resolved.answered_by == "no rule"


async def test_question_is_no_matter_of_rules() -> None:
    asked = Interaction(id="q", kind="question", fields=(QuestionField(id="f", label="Why?"),))
    logged, _, _ = await decided(asked)
    assert isinstance(logged[0], InteractionRequested)
    _, [(_, answer, _)], _ = await decided(asked, rules_only=True)
    assert answer.choice == "deny"


async def test_budget_is_asked_about_with_rules_alone() -> None:
    logged, _, _ = await decided(Interaction(id="q", kind="budget"), rules_only=True)
    assert isinstance(logged[0], InteractionRequested)
