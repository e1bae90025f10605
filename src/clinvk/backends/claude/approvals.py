"""Approvals of Claude Code: `can_use_tool` requests of the control protocol (2.1.332).

https://code.claude.com/docs/en/agent-sdk/permissions. Claude Code asks for one action after the other, and withdraws a
request with `control_cancel_request`, for example after an interrupt.
"""

from difflib import unified_diff

import msgspec

from clinvk.types.events import InteractionRequested, InteractionResolved
from clinvk.types.interaction import Interaction, InteractionAnswer


class PermissionRequest(msgspec.Struct, frozen=True):
    """The content of a `can_use_tool` request."""

    subtype: str = ""
    tool_name: str = ""
    input: dict[str, object] = {}
    permission_suggestions: list[dict[str, object]] = []
    title: str = ""
    description: str = ""


class Approvals:
    """The open requests of one process, pure: requests in, answers out."""

    def __init__(self) -> None:
        self._open: dict[str, PermissionRequest] = {}

    def receive(self, request_id: str, request: PermissionRequest) -> InteractionRequested:
        """Return the event that asks the user."""
        self._open[request_id] = request
        command = request.input.get("command")
        return InteractionRequested(
            Interaction(
                id=request_id,
                tool=request.tool_name,
                title=request.title or request.description or request.tool_name,
                input=request.input,
                command=command if isinstance(command, str) else None,
                diff=_diff(request.input),
                editable=True,
            )
        )

    def resolve(self, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the answer to a request; empty if Claude Code has withdrawn the request."""
        request = self._open.pop(request_id, None)
        if request is None:
            return b""
        if answer.choice not in ("allow", "allow_session"):
            return denial(request_id, answer.reason or "the user denied the action")
        allowed: dict[str, object] = {"behavior": "allow", "updatedInput": answer.input or request.input}
        if answer.choice == "allow_session":
            allowed["updatedPermissions"] = [
                {**suggestion, "destination": "session"} for suggestion in request.permission_suggestions
            ]
        return _response(request_id, allowed)

    def cancel(self, request_id: str) -> InteractionResolved | None:
        """Return the event of a request that Claude Code has withdrawn; None if the request is not open."""
        if self._open.pop(request_id, None):
            return InteractionResolved(Interaction(id=request_id))
        return None


def denial(request_id: str, reason: str) -> bytes:
    """Return the answer that denies a request; the model reads the reason."""
    return _response(request_id, {"behavior": "deny", "message": reason})


def control_response(response: dict[str, object]) -> bytes:
    """Return the line of a response to a control request."""
    return msgspec.json.encode({"type": "control_response", "response": response}) + b"\n"


def _response(request_id: str, response: dict[str, object]) -> bytes:
    return control_response({"subtype": "success", "request_id": request_id, "response": response})


def _diff(tool_input: dict[str, object]) -> str | None:
    """Return the edit of a tool's input as a unified diff; None if the tool is no edit."""
    path = tool_input.get("file_path")
    old, new = tool_input.get("old_string", ""), tool_input.get("new_string", tool_input.get("content"))
    if not (isinstance(path, str) and isinstance(old, str) and isinstance(new, str)):
        return None
    lines = unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), path, path)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
