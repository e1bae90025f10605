"""The REST views of interactions, and the answer's body."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import json_bodies
from clinvk.dialects.dialect import copy_as
from clinvk.dialects.rest.views import time
from clinvk.types.interaction import Choice, Interaction, InteractionAnswer, InteractionStatus, QuestionField

_Time = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds.")]


class InteractionView(msgspec.Struct, frozen=True, kw_only=True):
    """An approval or a question that an agent awaits."""

    id: Annotated[str, Meta(description="32 hex digits.")]
    kind: Annotated[
        Literal["approval", "question", "budget"],
        Meta(description="budget: clinvk itself asks whether the run may use its budget again."),
    ]
    run_id: str
    session_id: Annotated[str | None, Meta(description="The session of the run; null if none is stored.")]
    backend: str
    tool: Annotated[str, Meta(description="The agent's name for the tool; empty unless it is an approval.")]
    title: Annotated[str, Meta(description="One line that says what is asked.")]
    note: Annotated[str, Meta(description="Why the agent asks, and facts in lines that start with `clinvk: `.")]
    input: Annotated[dict[str, object], Meta(description="The input of the tool.")]
    command: Annotated[str | None, Meta(description="The shell command to approve.")]
    workdir: Annotated[str | None, Meta(description="Directory of the command; null: the run's.")]
    diff: Annotated[str | None, Meta(description="The edit to approve, as a unified diff.")]
    fields: Annotated[tuple[QuestionField, ...], Meta(description="The fields of a question.")]
    choices: Annotated[tuple[Choice, ...], Meta(description="The choices that the agent accepts.")]
    editable: Annotated[bool, Meta(description="`allow` may send a changed `input`.")]
    accepts_reason: Annotated[bool, Meta(description="The model reads the `reason` of a denial.")]
    key: Annotated[str | None, Meta(description="The name of the API key of the run; null if none was required.")]
    status: Annotated[InteractionStatus, Meta(description="withdrawn: the run no longer waits for the answer.")]
    created_at: _Time
    expires_at: Annotated[_Time, Meta(description="An interaction that expires is denied.")]
    resolved_at: _Time | None
    answered_by: Annotated[
        str | None,
        Meta(description="An API key's name; `user`: the machine's user; `rule NAME` or `no rule`: the rules."),
    ]
    choice: Annotated[Choice | None, Meta(description="The choice of the answer.")]
    reason: Annotated[str, Meta(description="Why the action was denied.")]
    edited_input: Annotated[dict[str, object] | None, Meta(description="The input that the answer allowed instead.")]
    answers: Annotated[
        dict[str, str | list[str]], Meta(description="The answers to a question, by the id of the field.")
    ]


class InteractionList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Interactions, newest first."""

    interactions: list[InteractionView]
    truncated: Annotated[bool, Meta(description="The list ends early, at 8 MiB; `offset` continues the list.")] = False


class InteractionListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a list of interactions."""

    status: Annotated[InteractionStatus | None, Meta(description="Filter by status.")] = None
    run_id: Annotated[str | None, Meta(description="Filter by run: id or unique prefix.")] = None
    session_id: Annotated[str | None, Meta(description="Filter by session: id or unique prefix.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of items.")] = 100
    offset: Annotated[int, Meta(ge=0, le=2_147_483_647, description="Number of newest items to skip.")] = 0


class AnswerBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to an interaction."""

    choice: Annotated[Choice, Meta(description="One of the interaction's `choices`.")]
    reason: Annotated[str, Meta(max_length=10_000, description="Why, with `deny`; the model may read it.")] = ""
    input: Annotated[dict[str, object] | None, Meta(description="The changed input, with `allow`.")] = None
    answers: Annotated[
        dict[str, str | list[str]], Meta(description="The values of a question's fields, by id, with `answer`.")
    ] = {}


_bodies = json_bodies.decoder(AnswerBody)


def parse_answer(body: bytes) -> InteractionAnswer:
    """Parse an answer.

    Raises:
        InvalidRequest: names the field.
    """
    return msgspec.convert(json_bodies.decode(body, _bodies), InteractionAnswer, from_attributes=True)


def interaction_view(interaction: Interaction) -> InteractionView:
    """Return the view of an interaction."""
    answer, resolved_at = interaction.answer, interaction.resolved_at
    return copy_as(
        InteractionView,
        interaction,
        key=interaction.key_name or None,
        created_at=time(interaction.created_at),
        expires_at=time(interaction.expires_at),
        resolved_at=None if resolved_at is None else time(resolved_at),
        choice=answer.choice if answer else None,
        reason=answer.reason if answer else "",
        edited_input=answer.input if answer else None,
        answers=answer.answers if answer else {},
    )
