"""`clinvk approvals list`, `show` and `answer`: what agents ask, in any clinvk process of this home."""

import asyncio
import os
from collections.abc import Sequence
from typing import get_args

import msgspec

from clinvk.cli.parse.flags import AnswerFlags, ApprovalsFlags, JsonFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.prompt import interaction_text
from clinvk.cli.prompt.questions import Question, TerminalQuestions
from clinvk.cli.sessions import session_text as text
from clinvk.cli.sessions.answers import print_answer
from clinvk.cli.sessions.local_store import ALL, find, open_store, over_store
from clinvk.cli.terminal import streams
from clinvk.cli.terminal.output import duration
from clinvk.cli.terminal.table import Column, one_line
from clinvk.dialects.rest.interactions import interaction_view
from clinvk.runtime.interactions import Interactions
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.waiting import in_background
from clinvk.store.protocol import InteractionQuery, SessionStore
from clinvk.types.errors import InvalidRequest
from clinvk.types.interaction import Choice, Interaction, InteractionAnswer
from clinvk.types.interaction_text import answer_command, content, subject
from clinvk.types.text import unknown_name

NOBODY_WAITS = "no agent waits for an answer"
_POLL_S = 0.2


def list_all(flags: ApprovalsFlags, context: CommandContext) -> int:
    """Print what agents ask; with `--all` also what was asked before."""
    query = InteractionQuery() if flags.all else InteractionQuery(status="pending", limit=ALL)
    found = over_store(context, lambda store: store.interactions(query))
    nothing = "no agent has asked anything yet" if flags.all else NOBODY_WAITS

    def answer() -> dict[str, object]:
        return {"interactions": [*map(interaction_view, found)]}

    return print_answer(flags, context, answer, lambda view: _table(found, view, flags.all), "" if found else nothing)


def _table(found: Sequence[Interaction], view: text.TextView, has_status: bool) -> list[str]:
    last: text.Fields[Interaction] = (
        ((text.STATE, _outcome),)
        if has_status
        else ((Column("EXPIRES", is_spare=True), lambda each: f"in {duration(max(0, each.expires_at - view.now))}"),)
    )
    fields: text.Fields[Interaction] = (
        (Column("ID"), lambda each: text.short_id(each.id)),
        (text.BACKEND, lambda each: one_line(each.backend)),
        (text.CREATED, lambda each: view.ago(each.created_at)),
        *last,
        (Column("ASKS", 20), lambda each: view.title(subject(each))),
    )
    return view.table(fields, found)


def _outcome(found: Interaction) -> str:
    return f"{found.outcome} ({found.answered_by})" if found.is_answered_by_rule else found.outcome


def show(flags: JsonFlags, context: CommandContext) -> int:
    """Print what an agent asks, and how to answer.

    Raises:
        InteractionNotFound, AmbiguousId: the ID names no interaction, or several.
    """
    found = over_store(context, lambda store: find(store.interaction(flags.words[0])))

    how = f"to answer: {answer_command(found)}" if found.status == "pending" else ""
    return print_answer(flags, context, lambda: interaction_view(found), lambda view: _details(found, view), how)


def _details(found: Interaction, view: text.TextView) -> list[str]:
    fields = {
        "id": text.short_id(found.id),
        "backend": found.backend,
        "run": text.short_id(found.run_id),
        "session": text.short_id(found.session_id or ""),
        "tool": found.tool,
        "directory": view.directory(found.workdir or ""),
        "status": "pending" if found.status == "pending" else interaction_text.outcome(found),
        "created": view.when(found.created_at),
        "answers": ", ".join(found.choices),
        "fields": ", ".join(field.id for field in found.fields),
    }
    return [*text.named_lines(fields), "", *interaction_text.safe_lines(content(found))]


def answer(flags: AnswerFlags, context: CommandContext) -> int:
    """Answer what an agent asks; without a choice, ask on the terminal.

    Raises:
        InteractionNotFound, AmbiguousId: the ID names no interaction, or several.
        InvalidRequest: the answer does not fit, or there is no terminal to ask on.
        InteractionAnswered, InteractionEnded: the interaction is not pending.
        AgentCannotAnswer: an agent has started this command.
    """
    process_tags.refuse_agent(os.getpid())
    if len(flags.words) < 2 and not (flags.words and flags.set):
        return streams.run(_ask(flags.words[0] if flags.words else None, context))
    reference, choice, *_ = *flags.words, "answer"

    async def answered(store: SessionStore) -> Interaction:
        interaction = await find(store.interaction(reference))
        given = _answer(flags, choice, interaction)
        return await Interactions(store, context.settings.interactions).answer(interaction.id, given)

    resolved = over_store(context, answered)
    done = f"{choice} {text.short_id(resolved.id)}  {subject(resolved)}"
    return print_answer(flags, context, lambda: interaction_view(resolved), lambda _: [done])


def _answer(flags: AnswerFlags, choice: str, interaction: Interaction) -> InteractionAnswer:
    """Return the answer of the flags."""
    if choice not in get_args(Choice):
        raise InvalidRequest(unknown_name("choice", choice, interaction.choices), "choice")
    multiple = {field.id for field in interaction.fields if field.multiple}
    answers: dict[str, str | list[str]] = {}
    for assignment in flags.set:
        field, _, value = assignment.partition("=")
        earlier = answers.get(field, [])
        answers[field] = [*earlier, value] if field in multiple else value
    given: dict[str, object] = {"choice": choice, "reason": flags.reason or "", "answers": answers}
    if flags.input is not None:
        try:
            given["input"] = msgspec.json.decode(flags.input, type=dict[str, object])
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidRequest(f"--input is not a JSON object: {exc}", "--input") from exc
    return msgspec.convert(given, InteractionAnswer)


async def _ask(reference: str | None, context: CommandContext) -> int:
    """Ask on the terminal for the answer to one interaction, or to each that is pending."""
    questions = TerminalQuestions(context.notes, context.environ)
    if not questions.can_ask:
        raise InvalidRequest("answer needs ID and CHOICE: there is no terminal to ask on; see clinvk approvals list")
    async with open_store(context, imports=True) as store, in_background(questions.run()):
        answer = Interactions(store, context.settings.interactions).answer
        found = await store.interactions(InteractionQuery(status="pending", limit=ALL))
        for interaction in reversed(found) if reference is None else [await find(store.interaction(reference))]:
            workdir = (await store.run(interaction.run_id)).workdir
            questions.open(Question(interaction, interaction.backend, workdir, answer))
        if not questions.pending:
            context.notes.info(NOBODY_WAITS)
        while questions.pending:
            for interaction in questions.pending:
                stored = await store.interaction(interaction.id)
                if stored.status != "pending":
                    await questions.close(stored)
            await asyncio.sleep(_POLL_S)
    return 0
