"""Interactions: what an agent asks its user, and the answer."""

from typing import Literal

import msgspec

from clinvk.types.errors import InvalidRequest

Choice = Literal["allow", "allow_session", "deny", "deny_and_stop", "answer"]

APPROVAL_CHOICES: tuple[Choice, ...] = ("allow", "allow_session", "deny", "deny_and_stop")
QUESTION_CHOICES: tuple[Choice, ...] = ("answer", "deny", "deny_and_stop")

USER = "user"
"""The name, in `Interaction.answered_by`, of this machine's user."""

RULE = "rule "
"""The beginning, in `Interaction.answered_by`, of the name of a rule."""

NO_RULE = "no rule"
"""The value of `Interaction.answered_by` if no rule allows an action that nobody is asked about."""

BY_RULES = "approvals.rules say what is allowed"
"""The `advice` of a denial by the rules."""

InteractionStatus = Literal["pending", "answered", "expired", "withdrawn"]


Effect = Literal["deny", "ask", "allow"]


class ApprovalRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule that decides an approval instead of a person. All conditions that are not empty must match.

    A rule without a condition besides `agent` matches nothing.

    Attributes:
        agent, tool, host, mcp_server: names, in which `*` stands for any text.
        path: a path or a pattern; `*` stands for any text without a slash, `**` for any text. A relative path is below
            the directory of the run.
        command: the first words of a simple command.
        reason: why; the agent reads it.
    """

    effect: Effect = "ask"
    agent: str = ""
    tool: str = ""
    path: str = ""
    command: str = ""
    host: str = ""
    mcp_server: str = ""
    reason: str = ""


class FieldOption(msgspec.Struct, frozen=True):
    """A value that a field of a question offers."""

    value: str
    label: str = ""
    description: str = ""


class QuestionField(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a question. With `options`, the answer is one of the values, or a list of values if `multiple`.

    With `other`, the answer may also be a text that is not among the options.
    """

    id: str
    label: str
    options: tuple[FieldOption, ...] = ()
    multiple: bool = False
    other: bool = False


class InteractionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an interaction.

    Attributes:
        reason: why the action is denied; the model reads the reason if its agent can pass it on.
        input: the input of the tool as the user has changed it, with `allow`.
        answers: the values of a question's fields, by field id.
    """

    choice: Choice
    reason: str = ""
    input: dict[str, object] | None = None
    answers: dict[str, str | list[str]] = {}


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """An approval or a question that an agent awaits; times are in seconds since the epoch.

    A channel sets `id` to the id of the agent's request. The runtime replaces the id, and adds the run and the times.

    Attributes:
        id: 32 hex digits.
        kind: with `budget`, clinvk itself asks whether the run may use its budget again.
        tool: the CLI's name for the tool to approve; empty unless the interaction is an approval. A stored name
            is one visible line of at most `MAX_TOOL_CHARS`.
        title: one line that says what is asked.
        note: why the agent asks, in its own words; lines that start with `clinvk: ` are facts that clinvk knows.
        command: the shell command to approve.
        workdir: the directory of the command, if it is not the directory of the run.
        diff: the edit to approve, as a unified diff.
        editable: the input of the tool can be changed with `allow`.
        accepts_reason: the model reads the reason of a denial.
        key_name: the name of the API key of the run; empty if no key was required.
        answered_by: the name of the API key, `user` for this machine's user, `rule NAME`, or `no rule`.
    """

    id: str
    kind: Literal["approval", "question", "budget"] = "approval"
    run_id: str = ""
    session_id: str | None = None
    backend: str = ""
    tool: str = ""
    title: str = ""
    note: str = ""
    input: dict[str, object] = {}
    command: str | None = None
    workdir: str | None = None
    diff: str | None = None
    fields: tuple[QuestionField, ...] = ()
    choices: tuple[Choice, ...] = APPROVAL_CHOICES
    editable: bool = False
    accepts_reason: bool = False
    key_name: str = ""
    status: InteractionStatus = "pending"
    created_at: float = 0
    expires_at: float = 0
    resolved_at: float | None = None
    answered_by: str | None = None
    answer: InteractionAnswer | None = None

    @property
    def answerer(self) -> str:
        """Who has answered."""
        if self.answered_by == USER:
            return "this machine's user"
        return str(self.answered_by) if self.is_answered_by_rule else f"API key {self.answered_by!r}"

    @property
    def is_answered_by_rule(self) -> bool:
        """Whether the rules have answered: the name of an API key has no space."""
        return " " in (self.answered_by or "")

    @property
    def outcome(self) -> str:
        """The choice of the answer, or else the status."""
        return self.answer.choice if self.answer else self.status


MAX_TOOL_CHARS = 200
MAX_COMMAND_BYTES = 64 * 1024
MAX_PART_BYTES = 2**20
"""The maximum size of an input, of a diff, and of all else that an agent asks, each as JSON."""


def json_size(value: object) -> int:
    """Return the number of bytes of a value as JSON."""
    return len(msgspec.json.encode(value))


def too_long(interaction: Interaction) -> str:
    """Return why an interaction is too long to be shown whole, or an empty text."""
    rest = msgspec.structs.replace(interaction, input={}, diff=None)
    sizes = (
        ("command", len((interaction.command or "").encode()), MAX_COMMAND_BYTES),
        ("input", json_size(interaction.input), MAX_PART_BYTES),
        ("diff", json_size(interaction.diff), MAX_PART_BYTES),
        ("request", json_size(rest), MAX_PART_BYTES),
    )
    for part, size, most in sizes:
        if size > most:
            return f"the {part} has {size:,} bytes, and at most {most:,} can be shown"
    return ""


def check_answer(interaction: Interaction, answer: InteractionAnswer) -> None:
    """Check that an answer fits the interaction.

    Raises:
        InvalidRequest: names the field.
    """
    if answer.choice not in interaction.choices:
        raise InvalidRequest(f"choice must be one of {', '.join(interaction.choices)}, got {answer.choice!r}", "choice")
    if answer.input is not None and not (interaction.editable and answer.choice == "allow"):
        raise InvalidRequest("input can be changed only with the choice allow, if the interaction is editable", "input")
    fields = {field.id: field for field in interaction.fields if answer.choice == "answer"}
    if unknown := answer.answers.keys() - fields.keys():
        raise InvalidRequest(f"answers: the interaction has no field {min(unknown)!r}", "answers")
    for id_, field in fields.items():
        if id_ not in answer.answers:
            raise InvalidRequest(f"answers: the field {id_!r} is missing", "answers")
        value = answer.answers[id_]
        if isinstance(value, list) and not field.multiple:
            raise InvalidRequest(f"answers.{id_} must be a text", f"answers.{id_}")
        offered = {option.value for option in field.options}
        if offered and not field.other and not offered.issuperset([value] if isinstance(value, str) else value):
            raise InvalidRequest(f"answers.{id_} must be one of {', '.join(sorted(offered))}", f"answers.{id_}")
