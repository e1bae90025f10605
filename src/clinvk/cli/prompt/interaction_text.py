"""What agents ask, as text for a terminal. Pure. Text of agents cannot control the terminal, or look like clinvk's."""

from typing import NamedTuple

from clinvk.cli.terminal.output import BOLD, CYAN, GREEN, RED, paint
from clinvk.cli.terminal.table import one_line, width
from clinvk.types.interaction import Interaction, QuestionField
from clinvk.types.text import visible

_INDENT = "    "
_TAB = "    "
_DIFF_COLORS = {"---": BOLD, "+++": BOLD, "@@ ": CYAN, "+": GREEN, "-": RED}


class Key(NamedTuple):
    """A key that answers a question: the choice, or what else the key does; its label, and its help."""

    action: str
    label: str
    help: str


_KEYS = {
    "y": Key("allow", "[y]es", "allow this action"),
    "a": Key("allow_session", "[a]lways in this session", "allow it, and do not ask about similar actions again"),
    "r": Key("answer", "[r]eply", "answer the question"),
    "n": Key("deny", "[n]o", "deny it; the agent continues"),
    "s": Key("deny_and_stop", "[s]top", "deny it, and cancel the run"),
    "e": Key("edit", "[e]dit", "change it before you allow it"),
    "v": Key("view", "[v]iew all", "show everything in a pager"),
    "?": Key("help", "[?]", "show this help"),
}

_BUDGET_KEYS = {
    "y": Key("allow", "[y]es", "continue with as much again"),
    "n": Key("deny", "[n]o", "end the run and keep the answer"),
}


def keys_of(interaction: Interaction, is_cut: bool, is_edited: bool = False) -> dict[str, Key]:
    """Return the keys for an interaction. What was edited cannot be allowed for the session."""
    offered = {*interaction.choices, "help"}
    if interaction.editable and "allow" in offered:
        offered.add("edit")
    if is_cut:
        offered.add("view")
    if is_edited:
        offered.discard("allow_session")
    keys = _KEYS | _BUDGET_KEYS if interaction.kind == "budget" else _KEYS
    return {key: each for key, each in keys.items() if each.action in offered}


def headline(interaction: Interaction, agent: str, directory: str) -> str:
    """Return the first line of a question."""
    if interaction.kind == "question":
        what = "asks"
    elif interaction.kind == "budget":
        what = "has used its budget"
    else:
        actions = [f"run a command in {directory}"] if interaction.command is not None else []
        if interaction.diff is not None:
            actions.append(f"{'create' if interaction.diff.startswith('--- /dev/null') else 'edit'} a file")
        actions = actions or [f"use {one_line(interaction.tool, 60) or 'a tool'}"]
        what = f"wants to {' and '.join(actions)}"
    return visible(f"{agent} {what}:")


def safe_lines(text: str) -> list[str]:
    """Return the lines of an agent's text, which cannot control the terminal."""
    return [visible(line) for line in text.expandtabs(4).split("\n")]


def field_question(field: QuestionField) -> str:
    """Return the question for the answer to a field."""
    if not field.options:
        what = "Answer"
    else:
        what = f"{'Numbers' if field.multiple else 'Number'} from 1 to {len(field.options)}"
        what += ", separated by commas" if field.multiple else ""
        what += ", or another answer" if field.other else ""
    return f"{visible(one_line(field.label, 60))} — {what}: "


def field_value(field: QuestionField, line: str) -> str | list[str]:
    """Return the answer to a field: numbers stand for the values of options."""
    if not field.options:
        return line
    values = {str(number): option.value for number, option in enumerate(field.options, 1)}
    words = [word.strip() for word in line.split(",")] if field.multiple else [line.strip()]
    if not all(word in values for word in words) and field.other:
        words = [line.strip()]
    chosen = [values.get(word, word) for word in words]
    return chosen if field.multiple else chosen[0]


def question_lines(text: str, columns: int, rows: int, is_colored: bool) -> tuple[list[str], int]:
    """Return the content of an interaction in lines for a terminal, and how many characters are left out."""
    shown, missing = _rows(text, columns - len(_INDENT), rows)
    lines = [f"{_INDENT}{paint(row, _diff_color(start) if is_colored else '')}" if row else "" for row, start in shown]
    return lines, missing


def _rows(text: str, columns: int, most: int) -> tuple[list[tuple[str, str]], int]:
    """Return rows of at most `columns` cells, each with the start of its line, and how many characters are left out."""
    rows: list[tuple[str, str]] = []
    start = 0
    for line in text.split("\n"):
        row, room = "", columns
        for at, char in enumerate(line):
            shown = _TAB if char == "\t" else visible(char)
            cells = max(1, width(shown))
            if cells > room:
                rows.append((row, line[:3]))
                row, room = "", columns
                if len(rows) == most:
                    return rows, len(text) - start - at
            row, room = row + shown, room - cells
        rows.append((row, line[:3]))
        if len(rows) == most:
            return rows, max(0, len(text) - start - len(line) - 1)
        start += len(line) + 1
    return rows, 0


def _diff_color(start: str) -> str:
    return _DIFF_COLORS.get(start) or _DIFF_COLORS.get(start[:1], "")


def outcome(resolved: Interaction) -> str:
    """Return how an interaction ended, and by whom."""
    if resolved.status == "answered" and resolved.answer:
        reason = f" ({resolved.answer.reason})" if resolved.answer.reason else ""
        return one_line(f"answered by {resolved.answerer}: {resolved.answer.choice}{reason}")
    return "nobody answered in time: denied" if resolved.status == "expired" else "no longer asked"
