"""Approvals of Gemini CLI: `session/request_permission` of the Agent Client Protocol (0.61.0).

`session/cancel` ends no turn that waits for a permission, until the permission is answered with `cancelled`. An answer
has no reason. In an untrusted folder, the CLI does not allow edits for the whole session, so the channel does.
"""

from clinvk.backends.acp_wire import PermissionOption, Tool, chosen, diff_of, title_of
from clinvk.backends.gemini.turn import tool_input, tool_name
from clinvk.backends.shared import approval_note
from clinvk.types.interaction import APPROVAL_CHOICES, Choice, Interaction

EDIT = "edit"
"""The kind of the tools that edit files."""

_ALWAYS = ("proceed_always", "proceed_always_tool")
"""The options of kind `allow_always` that hold for the session only, and not for all tools of an MCP server."""


def interaction(request_id: str, tool: Tool, options: tuple[PermissionOption, ...]) -> Interaction:
    """Return the approval that a request asks for."""
    changes = [piece for piece in tool.pieces if piece.new_text is not None]
    is_command = tool.kind == "execute"
    return Interaction(
        id=request_id,
        tool=tool_name(tool),
        title="Run a command" if is_command else title_of(changes) or tool.title or tool_name(tool),
        note=approval_note(tool.texts),
        input=tool_input(tool),
        command=tool.title if is_command else None,
        diff=diff_of(changes) or None,
        choices=tuple(
            choice for choice in APPROVAL_CHOICES if choice.startswith("deny") or _option(choice, tool, options)
        ),
    )


def outcome(choice: Choice, tool: Tool, options: tuple[PermissionOption, ...]) -> dict[str, object]:
    """Return the response to a request."""
    return chosen(_option(choice, tool, options))


def _option(choice: Choice, tool: Tool, options: tuple[PermissionOption, ...]) -> PermissionOption | None:
    """Return the option of a choice, or None if the CLI does not offer it."""
    if choice == "allow_session" and tool.kind != EDIT:
        return next((option for option in options if option.option_id in _ALWAYS), None)
    kind = "allow_once" if choice in ("allow", "allow_session") else "reject_once"
    return next((option for option in options if option.kind == kind), None)
