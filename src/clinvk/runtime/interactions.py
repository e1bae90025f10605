"""The approvals and questions that runs of this process await: storing, answers, expiry.

An answer is a change in the store, so any process that uses the store can give it. The process of the run learns of an
answer that was given elsewhere by reading the store twice a second, while an interaction is pending.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.backends.registry import can_ask
from clinvk.config.model import InteractionSettings, Settings
from clinvk.policy.approval_rules import Decision, action_of, decide
from clinvk.runtime.process.executables import resolve
from clinvk.runtime.process.waiting import Lookups
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import (
    InteractionAnswered,
    InteractionEnded,
    InteractionNotFound,
    InvalidRequest,
    StoreUnavailable,
)
from clinvk.types.events import Event, InteractionRequested, InteractionResolved, Progress
from clinvk.types.interaction import (
    BY_RULES,
    MAX_TOOL_CHARS,
    NO_RULE,
    RULE,
    USER,
    ApprovalRule,
    Interaction,
    InteractionAnswer,
    check_answer,
    json_size,
    too_long,
)
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from clinvk.types.text import visible

logger = logging.getLogger(__name__)

POLL_S = 0.5

MAX_PENDING = 20
"""How many interactions of one run may be pending."""

MAX_BYTES = 16 * 2**20
"""The maximum size of all interactions of one run, which its log keeps in memory, as JSON."""


def asking(request: RunRequest, settings: Settings) -> RunRequest:
    """Return a completed request that asks about the actions that `default` denies, if its agents can ask."""
    request = replace(request, fallback=tuple(asking(each, settings) for each in request.fallback or ()))
    is_acp = bool(settings.backend(request.backend).acp)
    asks = request.approval_mode == "default" and can_ask(request.backend, request.sandbox_mode, is_acp)
    return replace(request, approval_mode="ask") if asks else request


class Interactions:
    """The interactions of the runs of this process. `close` before the store is closed.

    `on_change` is called with each interaction that is requested or resolved in this process. `lookups` access the
    directories of the runs. The `rules`, by name, decide approvals before anybody is asked.
    """

    def __init__(
        self,
        store: SessionStore,
        settings: InteractionSettings,
        on_change: Callable[[Interaction], None] = lambda _: None,
        lookups: Lookups | None = None,
        rules: Mapping[str, ApprovalRule] = {},
    ) -> None:
        self.lookups = lookups or Lookups()
        self.rules = rules
        self._store = store
        self._settings = settings
        self._on_change = on_change
        self._runs: dict[str, RunInteractions] = {}
        self._adding = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def _pending(self) -> list[Interaction]:
        return [asked for run in self._runs.values() for asked in run.asked.values() if asked.status == "pending"]

    @property
    def waiting_runs(self) -> set[str]:
        """The ids of the runs of this process that wait for an answer."""
        return {pending.run_id for pending in self._pending}

    async def add(self, run: "RunInteractions", key: str, interaction: Interaction) -> Interaction | InteractionAnswer:
        """Store what the agent of a run asks, or what a rule has answered, and add it to `run.asked`.

        Return the interaction with id and times; a denial if too many runs wait, or the store fails.
        """
        at = time.time()
        expires_at, resolved_at = at + self._settings.timeout_secs, at if interaction.answer else None
        changes = {"created_at": at, "expires_at": expires_at, "resolved_at": resolved_at}
        interaction = replace(interaction, id=os.urandom(16).hex(), **changes)
        async with self._adding:
            waiting = self.waiting_runs | {interaction.run_id}
            if not interaction.answer and len(waiting) > self._settings.max_waiting:
                return _NO_ROOM
            try:
                await self._store.add_interaction(interaction)
            except StoreUnavailable as exc:
                logger.warning("an interaction of run %s cannot be stored: %s", interaction.run_id, exc.message)
                return _NOT_STORED
            self._runs[interaction.run_id], run.asked[key] = run, interaction
        if not interaction.answer and (self._watcher is None or self._watcher.done()):
            self._watcher = asyncio.create_task(self._watch())
        self._on_change(interaction)
        return interaction

    async def answer(self, reference: str, answer: InteractionAnswer, answered_by: str = USER) -> Interaction:
        """Answer an interaction of any process, and return the resolved interaction.

        Raises:
            InteractionNotFound, AmbiguousId: no interaction, or several, match the reference.
            InvalidRequest: the answer does not fit the interaction.
            InteractionAnswered: the interaction was answered before.
            InteractionEnded: the interaction has expired or was withdrawn.
        """
        interaction = await self._store.interaction(reference)
        if interaction.status == "pending":
            check_answer(interaction, answer)
            interaction, is_stored = await self._resolve(interaction, answer, answered_by)
            if is_stored:
                return interaction
        if interaction.status == "answered" and interaction.answer:
            before = f"was answered before: {interaction.answer.choice}, by {interaction.answerer}"
            raise InteractionAnswered(f"interaction {interaction.id!r} {before}")
        raise InteractionEnded(f"interaction {interaction.id!r} {_END_TEXTS[interaction.status]}")

    def forget(self, run_id: str) -> None:
        """Forget a run that has ended."""
        self._runs.pop(run_id, None)

    def mark_withdrawn(self, interaction: Interaction) -> Interaction:
        """Report a pending interaction as withdrawn, and return it. The store withdraws those of an ended run."""
        withdrawn = replace(interaction, status="withdrawn", resolved_at=time.time())
        self._on_change(withdrawn)
        return withdrawn

    async def withdraw(self, interaction: Interaction) -> Interaction:
        """Withdraw a pending interaction whose answer the agent no longer awaits, and return what is stored."""
        withdrawn = self.mark_withdrawn(interaction)
        try:
            return await self._store.resolve_interaction(withdrawn)
        except (StoreUnavailable, InteractionNotFound) as exc:  # the end of the run withdraws the interaction
            logger.warning("an interaction of run %s cannot be withdrawn: %s", interaction.run_id, exc.message)
            return withdrawn

    def close(self) -> None:
        """Stop watching the store."""
        if self._watcher:
            self._watcher.cancel()

    async def _resolve(
        self, interaction: Interaction, answer: InteractionAnswer | None, answered_by: str | None
    ) -> tuple[Interaction, bool]:
        """Resolve a pending interaction; without an answer the interaction expires.

        Return what is stored, and whether this call has stored it.
        """
        status = "answered" if answer else "expired"
        resolved = replace(interaction, status=status, resolved_at=time.time(), answered_by=answered_by, answer=answer)
        stored = await self._store.resolve_interaction(resolved)
        if (is_stored := stored == resolved) or any(pending.id == stored.id for pending in self._pending):
            self._report(stored)
        return stored, is_stored

    def _report(self, stored: Interaction) -> None:
        self._on_change(stored)
        if run := self._runs.get(stored.run_id):
            run.resolve(stored)

    async def _watch(self) -> None:
        """Expire interactions, and report the answers of other processes, while interactions are pending."""
        while self._pending:
            await asyncio.sleep(POLL_S)
            for interaction in self._pending:
                try:
                    if time.time() >= interaction.expires_at:
                        await self._resolve(interaction, None, None)
                    elif (stored := await self._store.interaction(interaction.id)).status != "pending":
                        self._report(stored)
                except InteractionNotFound:  # deleted with an ephemeral run, which another node took for dead
                    if run := self._runs.get(interaction.run_id):
                        run.resolve(replace(interaction, status="expired"))
                except StoreUnavailable as exc:
                    logger.warning("the interactions cannot be read: %s", exc.message)
                    break


_END_TEXTS = {"expired": "has expired, which means deny", "withdrawn": "was withdrawn: its run no longer waits"}


_NO_ROOM = InteractionAnswer(choice="deny", reason="too many runs wait for an answer (interactions.max_waiting)")
_NOT_STORED = InteractionAnswer(choice="deny", reason="what the agent asks cannot be stored")
_EXPIRED = InteractionAnswer(choice="deny", reason="nobody answered in time")


class ReadyAnswer(NamedTuple):
    """An answer to pass on to the agent. `resolved` is None for a denial without an interaction.

    `request_id` is the id of the agent's request.
    """

    request_id: str
    answer: InteractionAnswer
    resolved: Interaction | None


class RunInteractions:
    """The interactions of one run, within limits. `on_resolved` is called when an answer is ready to be passed on.

    Attributes:
        asked: what the agent waits for, by the id of the agent's request. Resolved interactions stay until
            `take_answers`.
    """

    def __init__(
        self, interactions: Interactions, record: RunRecord, request: RunRequest, on_resolved: Callable[[], None]
    ) -> None:
        self._interactions = interactions
        self._run_id = record.id
        self.run = {"run_id": record.id, "session_id": record.session_id}
        self.run |= {"backend": record.backend, "key_name": record.key_name}
        self._directories = (request.workdir or "", *request.add_dirs)
        self._rules_only = request.rules_only
        self.asked: dict[str, Interaction] = {}
        self._denials: dict[str, InteractionAnswer] = {}
        self._bytes = 0
        self._on_resolved = on_resolved

    @property
    def is_waiting(self) -> bool:
        """Whether the agent waits for an answer of a person."""
        return any(not asked.is_answered_by_rule for asked in self.asked.values())

    @property
    def answers(self) -> list[ReadyAnswer]:
        """The answers that are ready to be passed on."""
        ready = [ReadyAnswer(key, denial, None) for key, denial in self._denials.items()]
        resolved = [(key, asked) for key, asked in self.asked.items() if asked.status != "pending"]
        return ready + [ReadyAnswer(key, asked.answer or _EXPIRED, asked) for key, asked in resolved]

    async def record(self, event: InteractionRequested | InteractionResolved) -> list[Event]:
        """Store what the agent asks, or no longer asks, and return the events for the log."""
        request_id = event.interaction.id
        if isinstance(event, InteractionResolved):
            self._denials.pop(request_id, None)
            asked = self.asked.pop(request_id, None)
            if asked and asked.status == "pending":
                asked = await self._interactions.withdraw(asked)
            return [InteractionResolved(asked)] if asked else []
        tool = visible(" ".join(event.interaction.tool.split()))[:MAX_TOOL_CHARS]
        interaction = replace(event.interaction, tool=tool, **self.run)
        outside, decision = await self._look_up(interaction, event.paths)
        note = "\n".join(filter(None, [interaction.note, *outside]))
        stored = await self._add(request_id, self._decided(replace(interaction, note=note), decision))
        if isinstance(stored, InteractionAnswer):
            self._denials[request_id] = stored
            return [Progress("denied", f"1 action was denied: {stored.reason}")]
        if not stored.answer:
            return [InteractionRequested(stored)]
        self._on_resolved()
        what = stored.command or stored.title or stored.tool
        if stored.answer.choice != "deny":
            return []
        return [Progress("denied", f"1 action was denied: {what}: {stored.answer.reason}", advice=BY_RULES)]

    def _decided(self, interaction: Interaction, decision: Decision) -> Interaction:
        """Return an interaction with the answer of the rules, if they answer. A question is no matter of rules."""
        effect = decision.effect if interaction.kind == "approval" else None
        if interaction.kind == "budget" or effect == "ask" or (effect is None and not self._rules_only):
            return interaction
        reason = decision.explanation if interaction.kind == "approval" else "nobody is there to answer"
        if effect and (own := self._interactions.rules[decision.rule].reason):
            reason = own
        answer = InteractionAnswer(choice="allow" if effect == "allow" else "deny", reason=reason)
        by = f"{RULE}{decision.rule}" if effect else NO_RULE
        return replace(interaction, status="answered", answered_by=by, answer=answer)

    async def _look_up(self, interaction: Interaction, paths: Sequence[str]) -> tuple[Sequence[str], Decision]:
        """Return a line for each path that is outside of the directories of the run, and what the rules say."""
        rules = self._interactions.rules
        if not (paths or rules):
            return (), Decision(None)

        def look_up() -> tuple[Sequence[str], Decision]:
            workdir, *others = map(resolve, self._directories)
            targets = [resolve(os.path.join(workdir, path.replace("\0", ""))) for path in paths]
            action = action_of(interaction, targets, (workdir, *others))
            return [*_outside(paths, targets, workdir, others)], decide(rules, action)

        try:
            return await self._interactions.lookups.run(look_up)
        except InvalidRequest:
            what = visible(paths[0] if paths else self._directories[0])
            return [f"clinvk: the file system of {what} does not answer"], Decision(None, "", "its files are unknown")

    async def _add(self, request_id: str, interaction: Interaction) -> Interaction | InteractionAnswer:
        """Store an interaction; return a denial if it is too long, or beyond the limits of the run."""
        reason, size = too_long(interaction), json_size(interaction)
        if not reason and len(self.asked) >= MAX_PENDING:
            reason = f"{MAX_PENDING} requests of this run wait for an answer already"
        if not reason and self._bytes + size > MAX_BYTES:
            reason = f"the requests of this run have {self._bytes:,} bytes already, and at most {MAX_BYTES:,} are kept"
        if reason:
            return InteractionAnswer(choice="deny", reason=reason)
        self._bytes += size
        return await self._interactions.add(self, request_id, interaction)

    def take_answers(self) -> list[ReadyAnswer]:
        """Return the answers to pass on; from now on the agent waits for none of them."""
        answers = self.answers
        for ready in answers:
            self._denials.pop(ready.request_id, None)
            self.asked.pop(ready.request_id, None)
        return answers

    def end(self) -> list[InteractionResolved]:
        """Withdraw the pending interactions of the ended run, and return the events, also of unsent answers."""
        self._interactions.forget(self._run_id)
        mark = self._interactions.mark_withdrawn
        asked, self.asked = self.asked, {}
        return [InteractionResolved(mark(each) if each.status == "pending" else each) for each in asked.values()]

    def resolve(self, resolved: Interaction) -> None:
        """Take the outcome of an interaction."""
        for request_id, asked in self.asked.items():
            if asked.id == resolved.id:
                self.asked[request_id] = resolved
                self._on_resolved()


def _outside(paths: Iterable[str], targets: Iterable[str], workdir: str, others: Sequence[str]) -> Iterator[str]:
    """Yield a line for each path whose target is outside of the directories of the run."""
    places = f"the directory {workdir}" if not others else f"the directories {', '.join([workdir, *others])}"
    for path, target in dict(zip(paths, map(PurePath, targets), strict=True)).items():
        if not any(target.is_relative_to(directory) for directory in (workdir, *others)):
            yield f"clinvk: {visible(path)} is outside of {places}"
