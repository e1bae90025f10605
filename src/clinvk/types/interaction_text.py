"""What agents ask, as text. Pure."""

import json
import re
from contextlib import suppress

import msgspec

from clinvk.types.events import ToolCall
from clinvk.types.interaction import Interaction, QuestionField
from clinvk.types.text import on_one_line, visible
from clinvk.types.tool_text import tool_text

_SHORT_DIGITS = 8
_MAX_TITLE = 1000
_EDIT_FIELDS = ("content", "old_string", "oldString", "new_string", "newString")
"""The texts of a tool's input that a diff shows."""

_ACTION = re.compile("^(add|update|delete) ")
"""The words before a path, as Codex names a change."""


def subject(interaction: Interaction) -> str:
    """Return what an interaction is about on one line."""
    if not interaction.tool:
        return on_one_line(visible(interaction.title)[:_MAX_TITLE])
    given = {name: value for name, value in interaction.input.items() if name != "command"} or interaction.input
    if interaction.command is not None:
        given: dict[str, object] = {"command": interaction.command}
    return visible(tool_text(ToolCall(interaction.id, interaction.tool, given)))


def answer_command(interaction: Interaction) -> str:
    """Return the command that answers an interaction."""
    if interaction.kind == "question":
        return f"clinvk approvals answer {interaction.id[:_SHORT_DIGITS]}"
    return f"clinvk approvals answer {interaction.id[:_SHORT_DIGITS]} {interaction.choices[0]}"


def waiting_note(interaction: Interaction, agent: str) -> str:
    """Return the note that an agent waits, and how to answer."""
    who = f"{agent}: " if agent != interaction.backend else ""
    what = "an answer" if interaction.kind == "question" else "approval"
    return f"{who}waiting for {what}: {subject(interaction)}; answer it with: {answer_command(interaction)}"


def content(interaction: Interaction, with_diff: bool = True) -> str:
    """Return all that a user has to know about an interaction, as the agent has sent it."""
    if interaction.kind != "approval":
        parts = [interaction.title, *map(_field_text, interaction.fields)]
    elif interaction.command or interaction.diff:
        diff = interaction.diff if with_diff else None
        parts = [interaction.note, interaction.command, diff, _json(_other_input(interaction))]
    else:
        title = "" if interaction.title == interaction.tool else interaction.title
        parts = [title, interaction.note, _json(interaction.input) or "{}"]
    return "\n\n".join(part.strip("\n") for part in parts if part)


def _other_input(interaction: Interaction) -> dict[str, object]:
    """Return the input that neither the command nor the diff nor the texts of an interaction show."""
    diff = interaction.diff or ""
    shown = [interaction.command, diff, interaction.title, *interaction.note.split("\n")]
    shown += [line[4:] for line in diff.splitlines() if line.startswith(("--- ", "+++ "))]

    def is_shown(name: str, value: object) -> bool:
        if isinstance(value, str):
            return bool(value and value in shown) or bool(diff and name in _EDIT_FIELDS)
        texts = _texts(value) if diff else []
        return bool(texts) and all(text and _ACTION.sub("", text) in shown for text in texts)

    return {name: value for name, value in interaction.input.items() if not is_shown(name, value)}


def _texts(value: object) -> list[str]:
    """Return a list of texts; an empty list if the value is anything else."""
    with suppress(msgspec.ValidationError):
        return msgspec.convert(value, list[str])
    return []


def _json(given: dict[str, object]) -> str:
    return json.dumps(given, indent=2, ensure_ascii=False) if given else ""


def _field_text(field: QuestionField) -> str:
    options = (
        f"{number}  {option.label or option.value}{f': {option.description}' if option.description else ''}"
        for number, option in enumerate(field.options, 1)
    )
    return "\n".join([field.label, *options])
