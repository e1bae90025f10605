"""`clinvk approvals rules` and `check`: the rules that decide approvals, and what they say about an action."""

import re

from msgspec.structs import asdict

from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions import session_text as text
from clinvk.cli.sessions.answers import print_answer
from clinvk.cli.terminal.table import Column, one_line
from clinvk.policy.approval_rules import Action, Decision, action_of, decide
from clinvk.runtime.process.executables import resolve
from clinvk.types.errors import InvalidRequest
from clinvk.types.interaction import ApprovalRule, Interaction

_SHELLS = ("bash", "command_execution", "execute", "run_shell_command", "shell")
"""The names of tools that take a shell command, in lower case."""

_CONDITIONS = ("agent", "tool", "path", "command", "host", "mcp_server")

_WITHOUT_RULE = "with approval_mode ask somebody is asked; with default the action is denied"


def rules(flags: JsonFlags, context: CommandContext) -> int:
    """Print the rules for approvals."""
    found = context.settings.approvals.rules
    fields: text.Fields[tuple[str, ApprovalRule]] = (
        (Column("NAME"), lambda each: each[0]),
        (Column("EFFECT"), lambda each: each[1].effect),
        (Column("MATCHES", 20), lambda each: one_line(_conditions(each[1]))),
        (Column("REASON", is_spare=True), lambda each: one_line(each[1].reason)),
    )

    def answer() -> dict[str, object]:
        return {"rules": [{"name": name, **asdict(rule)} for name, rule in found.items()]}

    nothing = (
        "" if found else "there are no rules; to add one: clinvk config set approvals.rules.NAME.command 'npm test'"
    )
    return print_answer(flags, context, answer, lambda view: view.table(fields, [*found.items()]), nothing)


def _conditions(rule: ApprovalRule) -> str:
    found = {name: value for name in _CONDITIONS if (value := getattr(rule, name))}
    return ", ".join(f"{name} {value}" for name, value in found.items()) if {*found} - {"agent"} else "nothing"


def check(flags: JsonFlags, context: CommandContext) -> int:
    """Print what the rules say about an action, such as `Bash: npm test`.

    Raises:
        InvalidRequest: the action names no tool.
    """
    action = _action(flags.words[0], flags.backend or context.settings.default_backend, flags.workdir)
    decision = decide(context.settings.approvals.rules, action)
    return print_answer(flags, context, decision._asdict, lambda _: [*_explained(decision, context)])


def _explained(decision: Decision, context: CommandContext) -> list[str]:
    if decision.effect is None:
        return [f"no rule decides: {one_line(decision.explanation)}", _WITHOUT_RULE]
    reason = context.settings.approvals.rules[decision.rule].reason
    return [
        f"{decision.effect}: {one_line(decision.explanation)}",
        *([f"reason: {one_line(reason)}"] if reason else []),
    ]


def _action(written: str, agent: str, workdir: str | None) -> Action:
    """Return the action that is written as `TOOL: COMMAND`, `TOOL: PATH`, `TOOL: URL` or `TOOL`."""
    found = re.fullmatch(r"(?s)([\w.-]+)(?:: *(.+))?", written.strip())
    if not found:
        raise InvalidRequest(f"{written!r} is no action; write for example: 'Bash: npm test' or 'Edit: src/a.py'")
    tool, target = found[1], found[2] or ""
    directory = resolve(workdir or "")
    is_url, is_command = target.startswith(("http://", "https://")), tool.lower() in _SHELLS
    asked = Interaction(
        id="",
        backend=agent,
        tool=tool,
        command=target if is_command else None,
        input={"url": target} if is_url and not is_command else {},
    )
    paths = (
        ()
        if is_command or is_url or not target
        else (resolve(f"{directory}/{target}" if target[0] != "/" else target),)
    )
    return action_of(asked, paths, (directory,))
