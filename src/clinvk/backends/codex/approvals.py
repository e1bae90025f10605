"""Approvals and questions of Codex: the requests of `codex app-server` to its user (0.171.0).

Codex runs an accepted command outside its sandbox. `decline` and `acceptForSession` work even if `availableDecisions`
does not list them, and no response to an approval has a reason. `acceptWithExecpolicyAmendment` would write a rule into
the user's settings, so clinvk never sends it.
"""

from msgspec.structs import replace

from clinvk.backends.codex.wire import Change, Params
from clinvk.backends.shared import approval_note
from clinvk.types.interaction import QUESTION_CHOICES, FieldOption, Interaction, InteractionAnswer, QuestionField

REFUSALS: dict[str, dict[str, object]] = {
    "item/commandExecution/requestApproval": {"decision": "decline"},
    "item/fileChange/requestApproval": {"decision": "decline"},
    "item/permissions/requestApproval": {"permissions": {}},
    "item/tool/requestUserInput": {"answers": {}},
    "mcpServer/elicitation/request": {"action": "cancel"},
}
"""Responses to requests that nobody is asked about."""

_DECISIONS = {"allow": "accept", "allow_session": "acceptForSession", "deny": "decline", "deny_and_stop": "cancel"}


def interaction(request_id: str, method: str, params: Params, changes: tuple[Change, ...]) -> Interaction | None:
    """Return what a request asks; None if a person cannot see or answer it. `changes` are the changes of its item."""
    asked = Interaction(id=request_id, note=approval_note([params.reason]))
    match method:
        case "item/commandExecution/requestApproval" if params.command or params.network_approval_context:
            return _command(asked, params)
        case "item/fileChange/requestApproval" if changes:
            edits = [f"{change.action} {change.path}" for change in changes]
            diff = "".join(change.unified_diff for change in changes)
            title = ", ".join(change.title for change in changes) or "Edit files"
            return replace(asked, tool="file_change", title=title, input={"changes": edits}, diff=diff or None)
        case "item/permissions/requestApproval":
            title = "Use more permissions"
            return replace(asked, tool="request_permissions", title=title, input=params.permissions)
        case "item/tool/requestUserInput":
            return _questions(asked, params)
        case "mcpServer/elicitation/request":
            return _elicitation(asked, params)
        case _:
            return None


def paths(params: Params, changes: tuple[Change, ...]) -> tuple[str, ...]:
    """Return the files and directories that a request uses."""
    return (*(path for change in changes for path in (change.path, change.target)), *filter(None, [params.cwd]))


def result(method: str, params: Params, answer: InteractionAnswer) -> dict[str, object]:
    """Return the response to a request."""
    is_denied = answer.choice in ("deny", "deny_and_stop")
    is_for_session = answer.choice == "allow_session"
    match method:
        case "item/permissions/requestApproval":
            return {
                "permissions": {} if is_denied else params.permissions,
                "scope": "session" if is_for_session else "turn",
            }
        case "item/tool/requestUserInput":
            return {
                "answers": {
                    question: {"answers": [value] if isinstance(value, str) else value}
                    for question, value in answer.answers.items()
                }
            }
        case "mcpServer/elicitation/request":
            result = params.requested_schema.result(answer)
            persistence = {"persist": "session"} if is_for_session else None
            return result if is_denied else {**result, "_meta": persistence}
        case _:
            return {"decision": _DECISIONS[answer.choice]}


def _command(asked: Interaction, params: Params) -> Interaction:
    """Return the approval of a command, or of the access to a host."""
    decisions, host = params.available_decisions, params.network_approval_context
    is_acceptable = decisions is None or "accept" in decisions
    return replace(
        asked,
        tool="command_execution",
        title=f"Access {host.host}" if host else "Run a command",
        note=approval_note([params.reason], [f"access to {host.host}" if host else "without a sandbox"]),
        input={"command": params.command, **({"host": host.host} if host else {})},
        command=params.command,
        workdir=params.cwd,
        choices=asked.choices if is_acceptable else ("deny", "deny_and_stop"),
    )


def _questions(asked: Interaction, params: Params) -> Interaction | None:
    """Return the questions of the model; None if an answer is secret, because answers are stored."""
    if not params.questions or any(question.is_secret for question in params.questions):
        return None
    fields = tuple(
        QuestionField(
            id=question.id,
            label=question.question,
            options=tuple(FieldOption(option.label, "", option.description) for option in question.options or ()),
            other=question.is_other,
        )
        for question in params.questions
    )
    return replace(asked, kind="question", title=fields[0].label, fields=fields, choices=QUESTION_CHOICES)


def _elicitation(asked: Interaction, params: Params) -> Interaction | None:
    """Return the approval of a call of an MCP tool, or the form or the address that an MCP server shows."""
    call = params.meta
    if call and call.codex_approval_kind == "mcp_tool_call":
        tool = f"mcp__{params.server_name}__{call.tool_name}"
        return replace(asked, tool=tool, title=params.message, input=call.tool_params)
    if params.mode not in ("form", "url"):
        return None
    title = f"{params.server_name}: {params.message} {params.url}".rstrip()
    fields = params.requested_schema.questions
    return replace(asked, kind="question", title=title, fields=fields, choices=QUESTION_CHOICES)
