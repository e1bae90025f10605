"""Rules that decide approvals instead of a person: of those that match an action, the strictest decides. Pure."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple, get_args
from urllib.parse import urlsplit

from clinvk.types.interaction import ApprovalRule, Effect, Interaction

_STRICTEST_FIRST: tuple[Effect, ...] = get_args(Effect)
_MCP_TOOL = re.compile(r"mcp__(?P<server>.+?)__.+")

_UNCLEAR = "the command is more than simple commands of literal words, so no rule for a command allows it"


class Decision(NamedTuple):
    """What the rules say about an action: `rule` is the name of the rule that decides, empty if none matches.

    `explanation` says why in words, for example which part of a command has no rule.
    """

    effect: Effect | None
    rule: str = ""
    explanation: str = ""


class Action(NamedTuple):
    """An action that awaits approval.

    Attributes:
        paths: the files and directories that the action uses, absolute, without symbolic links.
        directories: the directories of the run in the same form; the first is the working directory.
    """

    agent: str
    tool: str
    command: str | None = None
    host: str = ""
    mcp_server: str = ""
    paths: Sequence[str] = ()
    directories: Sequence[str] = ("/",)


def action_of(interaction: Interaction, paths: Sequence[str], directories: Sequence[str]) -> Action:
    """Return the action of an approval; paths and directories as in `Action`."""
    host, url = interaction.input.get("host"), interaction.input.get("url")
    if not isinstance(host, str):
        host = _host(url) if isinstance(url, str) else ""
    tool = _MCP_TOOL.fullmatch(interaction.tool)
    return Action(
        interaction.backend,
        interaction.tool,
        interaction.command,
        host,
        tool["server"] if tool else "",
        paths,
        directories,
    )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_command(text: str) -> bool:
    """Return whether a text is one simple command of literal words, as the `command` of a rule must be."""
    return bool(_rule_words(text))


@cache
def _rule_words(command: str) -> tuple[str, ...]:
    from clinvk.policy.shell_commands import parse  # the parser is loaded only for rules with commands

    line = parse(command)
    return line.commands[0] if line.is_understood and len(line.commands) == 1 else ()


def decide(rules: Mapping[str, ApprovalRule], action: Action) -> Decision:
    """Return what the rules, by name, say about an action.

    Each part of a command needs a rule of its own; the strictest outcome of all parts decides.
    """
    matching = {name: rule for name, rule in rules.items() if _matches(rule, action)}
    if action.command is None or not any(rule.command for rule in matching.values()):
        return _strictest(matching)
    from clinvk.policy.shell_commands import parse

    line = parse(action.command)
    decisions = [
        _strictest({name: rule for name, rule in matching.items() if _begins(words, rule)}, shlex.join(words))
        for words in line.commands
    ]
    if not line.is_understood:
        whole = _strictest({name: rule for name, rule in matching.items() if not rule.command})
        strict = [part for part in decisions if part.effect in ("deny", "ask")]
        decisions = [*strict, whole if whole.effect else Decision(None, "", _UNCLEAR)]
    return min(decisions, key=lambda part: _rank(part.effect))


def _rank(effect: Effect | None) -> float:
    """Return the rank of an outcome, the strictest first; an outcome without a rule is looser than `ask`."""
    return 1.5 if effect is None else _STRICTEST_FIRST.index(effect)


def _strictest(rules: Mapping[str, ApprovalRule], part: str = "") -> Decision:
    what = f"{part!r}: " if part else ""
    if not rules:
        return Decision(None, "", f"{what}no rule matches")
    name = min(rules, key=lambda each: _rank(rules[each].effect))
    return Decision(rules[name].effect, name, f"{what}rule {name}: {rules[name].effect}")


def _begins(words: Sequence[str], rule: ApprovalRule) -> bool:
    start = _rule_words(rule.command) if rule.command else ()
    return tuple(words[: len(start)]) == start


def _matches(rule: ApprovalRule, action: Action) -> bool:
    """Return whether the conditions of a rule match an action; those on a command are checked for each part."""
    is_allow = rule.effect == "allow"
    if is_allow and action.command is not None and action.host and not rule.host:
        return False  # the permission to run a command is none to reach a host
    return (
        any((rule.tool, rule.path, rule.command, rule.host, rule.mcp_server))
        and fnmatchcase(action.agent, rule.agent or "*")
        and fnmatchcase(action.tool, rule.tool or "*")
        and fnmatchcase(action.host, rule.host or "*")
        and fnmatchcase(action.mcp_server, rule.mcp_server or "*")
        and bool(action.command or not rule.command)
        and bool(action.host or not rule.host)
        and bool(action.mcp_server or not rule.mcp_server)
        and _matches_paths(rule, action, is_allow)
    )


def _matches_paths(rule: ApprovalRule, action: Action, is_allow: bool) -> bool:
    """Return whether the paths fit: all of them for `allow`, one of them for other effects.

    Without `path`, a rule allows only actions within the directories of the run.
    """
    if not rule.path:
        return not is_allow or all(_is_inside(path, action.directories) for path in action.paths)
    pattern = _path_pattern(rule.path if rule.path.startswith("/") else f"{action.directories[0]}/{rule.path}")
    found = [bool(pattern.fullmatch(path)) for path in action.paths]
    return bool(found) and (all(found) if is_allow else any(found))


def _is_inside(path: str, directories: Iterable[str]) -> bool:
    return any(path == directory or path.startswith(directory.rstrip("/") + "/") for directory in directories)


@cache
def _path_pattern(path: str) -> re.Pattern[str]:
    """Return the expression for a path; a directory stands for all that it contains."""
    parts = re.split(r"(\*\*|\*)", path.rstrip("/"))
    words = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + "(/.*)?", re.DOTALL)
