"""The activity of an agent, and tool calls, as one line of text for people."""

import shlex
from contextlib import suppress

import msgspec

from clinvk.types.events import Event, InteractionRequested, ThinkingDelta, ToolCall
from clinvk.types.text import on_one_line

_MOST_TELLING = ("file_path", "path", "command", "cmd", "pattern", "query", "url", "description", "prompt")
_INPUT_SHOWN = 200
_EDITS = frozenset({"old_string", "content", "new_source", "edits"})


def activity(event: Event) -> str:
    """Return an agent's activity on one line; empty for an event that shows no activity."""
    match event:
        case ToolCall():
            return tool_text(event)
        case ThinkingDelta():
            return "thinking"
        case InteractionRequested():
            return "waiting for approval"
        case _:
            return ""


def tool_text(call: ToolCall) -> str:
    """Return a tool call on one line: the tool, and its most telling argument or else all of them."""
    name, text = tool_action(call)
    return f"{name} {text}"


def tool_action(call: ToolCall) -> tuple[str, str]:
    """Return the name of a tool, and the most telling argument of its call or else all of them, each on one line."""
    name, given = call.name, call.input
    match name, given:
        case "command_execution", {"command": str(command)}:
            name, text = "Shell", _without_shell(command)
        case "file_change", {"changes": changes} if paths := changed_paths(changes):
            name, text = "Edit", ", ".join(paths)
        case _:
            telling = (text for field in _MOST_TELLING if isinstance(text := given.get(field), str) and text)
            text = next(telling, None) or msgspec.json.encode(given).decode(errors="replace")
    return name, on_one_line(text[:_INPUT_SHOWN])


def changed_paths(changes: object) -> list[str]:
    """Return the paths of a `file_change`: objects in events, and texts such as `add a.txt` in interactions."""
    with suppress(msgspec.ValidationError):
        known = msgspec.convert(changes, list[dict[str, str] | str])
        paths = (each.partition(" ")[2] if isinstance(each, str) else each.get("path", "") for each in known)
        return [*filter(None, paths)]
    return []


def edited_paths(call: ToolCall) -> list[str]:
    """Return the paths of the files that a tool edits."""
    match call.input:
        case {"changes": changes}:
            return changed_paths(changes)
        case {"file_path": str(path)} if call.input.keys() & _EDITS:
            return [path]
        case _:
            return []


def _without_shell(command: str) -> str:
    """Return the script of a command such as `/bin/bash -lc 'echo hi'`, or the command itself."""
    with suppress(ValueError):
        shell, option, script = shlex.split(command)
        if shell.endswith("sh") and option in ("-c", "-lc"):
            return script
    return command
