"""Approvals of Claude Code: `can_use_tool` requests of the control protocol (2.1.332).

https://code.claude.com/docs/en/agent-sdk/permissions. Claude Code asks for one action after the other, and withdraws a
request with `control_cancel_request`, for example after an interrupt.
"""

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import Host
from clinvk.backends.shared import approval_note, edit_title, input_paths, unified_diff
from clinvk.types.events import InteractionRequested, InteractionResolved
from clinvk.types.interaction import QUESTION_CHOICES, FieldOption, Interaction, InteractionAnswer, QuestionField

_MAX_FILE_BYTES = 2**20

_EDITABLE = ("Bash", "Edit", "Write")
"""The tools whose input a user may want to change."""

_ONCE = ("allow", "deny", "deny_and_stop")
"""The choices for a plan, and for a command without a rule for similar commands."""

_SESSION_UPDATES = ("addRules", "addDirectories", "setMode")


class PermissionRequest(msgspec.Struct, frozen=True):
    """The content of a `can_use_tool` request."""

    subtype: str = ""
    tool_name: str = ""
    input: dict[str, object] = {}
    permission_suggestions: list[dict[str, object]] = []
    title: str = ""
    description: str = ""
    blocked_path: str | None = None
    tool_use_id: str = ""
    decision_reason: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and directories that the action uses."""
        own = () if self.tool_name.startswith("mcp__") else input_paths(self.input)
        return (*([self.blocked_path] if self.blocked_path else ()), *own)


class _Option(msgspec.Struct, frozen=True):
    label: str
    description: str = ""


class _Question(msgspec.Struct, frozen=True, rename="camel"):
    """A question of the tool `AskUserQuestion`."""

    question: str
    options: tuple[_Option, ...] = ()
    multi_select: bool = False


class Approvals:
    """The open requests of one process.

    `calls` are the ids of the tool calls that the process has asked about since the start of the current run.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: dict[str, PermissionRequest] = {}
        self.calls: set[str] = set()

    def receive(self, request_id: str, request: PermissionRequest) -> InteractionRequested:
        """Return the event that asks the user."""
        self._open[request_id] = request
        self.calls.add(request.tool_use_id)
        title = request.title or ": ".join(filter(None, (request.tool_name, request.description)))
        words = request.title
        command = diff = None
        is_own = request.tool_name in _EDITABLE  # the input of another tool may have more than a command or an edit
        if is_own:
            if request.tool_name == "Bash":
                command = request.input.get("command")
            else:
                diff = self._diff(request.input)
            action = "add" if diff and diff.startswith("--- /dev/null") else "update"
            title = "Run a command" if command else edit_title(str(request.input.get("file_path", "")), action)
            words = request.title or (request.description if command else "")
        approval = Interaction(
            id=request_id,
            tool=request.tool_name,
            title=title,
            note=approval_note([words, request.decision_reason]),
            input=request.input,
            command=command if isinstance(command, str) else None,
            diff=diff,
            editable=is_own,
            accepts_reason=True,
        )
        if request.tool_name == "ExitPlanMode" or (request.tool_name == "Bash" and not _suggestions(request)):
            approval = replace(approval, choices=_ONCE)
        return InteractionRequested(_question(approval) or approval, request.paths)

    def resolve(self, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the answer to a request; empty if Claude Code has withdrawn the request."""
        request = self._open.pop(request_id, None)
        if request is None:
            return b""
        if answer.choice in ("deny", "deny_and_stop"):
            return denial(request_id, answer.reason or "the user denied the action")
        tool_input = request.input if answer.input is None else answer.input
        if answer.choice == "answer":
            values = answer.answers.items()
            answers = {asked: value if isinstance(value, str) else ", ".join(value) for asked, value in values}
            tool_input = {**tool_input, "answers": answers}
        allowed: dict[str, object] = {"behavior": "allow", "updatedInput": tool_input}
        if answer.choice == "allow_session":
            allowed["updatedPermissions"] = _session_updates(request)
        return success(request_id, allowed)

    def cancel(self, request_id: str) -> InteractionResolved | None:
        """Return the event of a request that Claude Code has withdrawn; None if the request is not open."""
        if self._open.pop(request_id, None):
            return InteractionResolved(Interaction(id=request_id))
        return None

    def _diff(self, tool_input: dict[str, object]) -> str | None:
        """Return the edit of a tool's input as a unified diff; None if the tool is no edit, or writes a long file."""
        path, old = tool_input.get("file_path"), tool_input.get("old_string") or None
        new = tool_input.get("new_string", tool_input.get("content"))
        if not (isinstance(path, str) and isinstance(old, str | None) and isinstance(new, str)):
            return None
        data = self._host.read_range(path, 0, _MAX_FILE_BYTES)
        is_long = data is not None and len(data) == _MAX_FILE_BYTES
        present = None if data is None else data.decode(errors="replace").replace("\r\n", "\n")
        if old is None:
            return None if is_long else unified_diff(path, present, new) or None
        if present and old in present and not is_long:
            old, new = present, present.replace(old, new, -1 if tool_input.get("replace_all") is True else 1)
        return unified_diff(path, old, new) or None


def _session_updates(request: PermissionRequest) -> list[dict[str, object]]:
    """Return the suggestions of Claude Code for this session only, or else the permission to use the tool."""
    rules: dict[str, object] = {"type": "addRules", "rules": [{"toolName": request.tool_name}], "behavior": "allow"}
    return _suggestions(request) or [{**rules, "destination": "session"}]


def _suggestions(request: PermissionRequest) -> list[dict[str, object]]:
    """Return the suggestions of Claude Code that allow something, for this session only."""
    return [
        {**suggestion, "destination": "session"}
        for suggestion in request.permission_suggestions
        if suggestion.get("type") in _SESSION_UPDATES
        and suggestion.get("behavior", "allow") == "allow"
        and suggestion.get("mode", "acceptEdits") == "acceptEdits"
    ]


def _question(approval: Interaction) -> Interaction | None:
    """Return the questions of `AskUserQuestion`, whose ids are their texts; None for any other tool."""
    if approval.tool != "AskUserQuestion":
        return None
    try:
        asked = msgspec.convert(approval.input.get("questions"), tuple[_Question, ...])
    except msgspec.ValidationError:
        return None
    fields = tuple(
        QuestionField(
            id=one.question,
            label=one.question,
            options=tuple(FieldOption(option.label, "", option.description) for option in one.options),
            multiple=one.multi_select,
            other=True,
        )
        for one in asked
    )
    title = asked[0].question if asked else approval.title
    return replace(approval, kind="question", tool="", title=title, input={}, fields=fields, choices=QUESTION_CHOICES)


def denial(request_id: str, reason: str) -> bytes:
    """Return the answer that denies a request; the model reads the reason."""
    return success(request_id, {"behavior": "deny", "message": reason})


def control_response(response: dict[str, object]) -> bytes:
    """Return the line of a response to a control request."""
    return msgspec.json.encode({"type": "control_response", "response": response}) + b"\n"


def success(request_id: str, response: dict[str, object]) -> bytes:
    """Return the line of a response to a control request that was carried out."""
    return control_response({"subtype": "success", "request_id": request_id, "response": response})
