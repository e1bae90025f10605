"""The table of commands: what each one takes and calls, and its help. A command of two words belongs to a group.

`help.txt` has the texts of the help.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import islice
from typing import NamedTuple

from clinvk.cli.parse import flags as flag_types
from clinvk.cli.parse.flag import Flag


class Command(NamedTuple):
    """A command.

    Attributes:
        start: the function that runs the command, as `module:function` of this package; empty if `entry` answers. The
            function takes the flags and a `CommandContext`.
        flags: the type of the flags.
        arguments: the arguments that are not flags. `?` marks an optional one, `...` one that may be repeated,
            `?...` one that may be repeated or left out. ID, KEY, COMMAND, MANAGER and SHELL are completed.
        common: the common flags that act on the command, with their help if it differs from the general one. The
            parser accepts the other common flags too; help and completion leave them out.
    """

    start: str
    flags: type[flag_types.Flags] = flag_types.Flags
    arguments: tuple[str, ...] = ()
    common: Mapping[str, str] = {"config": ""}

    @property
    def least(self) -> int:
        """The minimum number of arguments."""
        return sum(not word.removesuffix("...").endswith("?") for word in self.arguments)

    @property
    def most(self) -> int | None:
        """The maximum number of arguments; None is any."""
        return None if any(word.endswith("...") for word in self.arguments) else len(self.arguments)


COMPLETE = "__complete"
"""The command that the completion scripts of the shells call; users do not see it."""

_NO_FLAGS: Mapping[str, str] = {}
_DRY_RUN = {"dry_run": ""}
_CHANGE = {"config": "", "dry_run": ""}
_AGENT = {"backend": "only this agent", "config": ""}
_PLACE = {"workdir": "only those of DIR", "config": ""}
_ALL = ("backend", "model", "workdir", "output_format", "config", "dry_run", "ephemeral")
_PROMPT: Mapping[str, str] = dict.fromkeys(_ALL, "")
_RESUME = dict.fromkeys(_ALL[:-1], "") | _AGENT | _PLACE
_TASKS = {
    **_PROMPT,
    **dict.fromkeys(("backend", "model", "workdir"), "default of tasks and steps that name none"),
    "output_format": "text (default), json, stream-json",
}
_COMPARE = dict.fromkeys(_ALL[1:], "") | {"output_format": "text (default), json, stream-json"}
_FOLLOW = {"output_format": "text (default) or stream-json", "config": ""}
_SERVE = {
    **dict.fromkeys(("backend", "model", "workdir"), "default of requests"),
    **{"config": "", "dry_run": "answer requests with the commands of agents"},
}
_EDITOR = {"backend": "the first agent to choose", "model": "its model", "config": ""}
_RULES = {"backend": "the agent that asks", "workdir": "the directory of the run", "config": ""}
_MCP = {"backend": "agent of runs that name none", "workdir": "directory of runs that name none", "config": ""}

PROMPT = Command("prompt.prompt:prompt", flag_types.PromptFlags, ("PROMPT?",), _PROMPT)

COMMANDS = {
    "acp": Command("acp.command:acp", flag_types.AcpFlags, common=_EDITOR),
    "resume": Command("prompt.resume:resume", flag_types.ResumeFlags, ("ID?", "PROMPT?"), _RESUME),
    "sessions list": Command("sessions.sessions:list_all", flag_types.ListFlags, common=_AGENT | _PLACE),
    "sessions search": Command("sessions.sessions:search", flag_types.SearchFlags, ("TEXT...",), _AGENT | _PLACE),
    "sessions show": Command("sessions.sessions:show", flag_types.ShowFlags, ("ID",)),
    "sessions delete": Command("sessions.sessions:delete", flag_types.DeleteFlags, ("ID...",), _CHANGE),
    "sessions clean": Command("sessions.sessions:clean", flag_types.CleanFlags, common=_CHANGE),
    "sessions archive": Command("sessions.sessions:archive", flag_types.JsonFlags, ("ID...",), _CHANGE),
    "sessions unarchive": Command("sessions.sessions:unarchive", flag_types.JsonFlags, ("ID...",), _CHANGE),
    "sessions fork": Command("sessions.sessions:fork", flag_types.JsonFlags, ("ID",), _CHANGE),
    "sessions tag": Command("sessions.sessions:tag", flag_types.TagFlags, ("ID", "TAG?..."), _CHANGE),
    "sessions rename": Command("sessions.sessions:rename", flag_types.JsonFlags, ("ID", "TITLE"), _CHANGE),
    "sessions export": Command("sessions.sessions:export", flag_types.ExportFlags, ("ID",)),
    "parallel": Command("orchestrate.orchestrate:parallel", flag_types.ParallelFlags, common=_TASKS),
    "chain": Command("orchestrate.orchestrate:chain", flag_types.ChainFlags, common=_TASKS),
    "compare": Command("orchestrate.orchestrate:compare", flag_types.CompareFlags, ("PROMPT?",), _COMPARE),
    "runs list": Command("sessions.runs:list_all", flag_types.RunsFlags, common=_AGENT | _PLACE),
    "runs show": Command("sessions.runs:show", flag_types.JsonFlags, ("ID?",)),
    "runs cancel": Command("sessions.runs:cancel", flag_types.JsonFlags, ("ID",), _CHANGE),
    "runs follow": Command("prompt.background:follow", flag_types.Flags, ("ID",), _FOLLOW),
    "approvals list": Command("prompt.approvals:list_all", flag_types.ApprovalsFlags),
    "approvals show": Command("prompt.approvals:show", flag_types.JsonFlags, ("ID",)),
    "approvals answer": Command("prompt.approvals:answer", flag_types.AnswerFlags, ("ID?", "CHOICE?")),
    "approvals rules": Command("prompt.approval_rules:rules", flag_types.JsonFlags),
    "approvals check": Command("prompt.approval_rules:check", flag_types.JsonFlags, ("ACTION",), _RULES),
    "show": Command("sessions.runs:show", flag_types.JsonFlags, ("ID?",)),
    "usage": Command("sessions.runs:usage", flag_types.UsageFlags, common=_AGENT | {"model": "only this model"}),
    "worktrees list": Command("admin.worktrees:list_all", flag_types.WorktreesFlags, common=_PLACE),
    "worktrees show": Command("admin.worktrees:show", flag_types.WorktreeShowFlags, ("ID",)),
    "worktrees apply": Command("admin.worktrees:apply", flag_types.ApplyFlags, ("ID",), _CHANGE),
    "worktrees commit": Command("prompt.commit:commit", flag_types.CommitFlags, ("ID",), _CHANGE),
    "worktrees discard": Command("admin.worktrees:discard", flag_types.DeleteFlags, ("ID...",), _CHANGE),
    "serve": Command("admin.serve:serve", flag_types.ServeFlags, common=_SERVE),
    "worker": Command("admin.serve:work", flag_types.WorkerFlags, common=_SERVE),
    "cluster up": Command("admin.cluster:up", flag_types.ClusterUpFlags, common=_NO_FLAGS),
    "cluster status": Command("admin.cluster:status", flag_types.ClusterStatusFlags),
    "mcp": Command("admin.mcp:mcp", common=_MCP),
    "open": Command("admin.serve:open_page", flag_types.OpenFlags, common=_CHANGE),
    "keys create": Command("admin.keys:create", flag_types.KeyFlags, ("NAME",), _CHANGE),
    "keys list": Command("admin.keys:list_all", flag_types.JsonFlags, common=_NO_FLAGS),
    "keys revoke": Command("admin.keys:revoke", flag_types.Flags, ("NAME",), _DRY_RUN),
    "keys off": Command("admin.keys:off", flag_types.ConfirmedFlags, common=_DRY_RUN),
    "notify": Command("admin.notify:notify", flag_types.Flags, ("TARGET?...",), _CHANGE),
    "config show": Command("admin.config:show", flag_types.JsonFlags),
    "config get": Command("admin.config:get", flag_types.JsonFlags, ("KEY",)),
    "config set": Command("admin.config:set_key", flag_types.Flags, ("KEY", "VALUE"), _CHANGE),
    "config unset": Command("admin.config:unset", flag_types.Flags, ("KEY",), _CHANGE),
    "config path": Command("admin.config:path"),
    "config edit": Command("admin.config:edit", common=_CHANGE),
    "backends": Command("admin.backends:backends", flag_types.JsonFlags, common=_AGENT),
    "models": Command("admin.backends:models", flag_types.JsonFlags, common=_AGENT),
    "doctor": Command("admin.doctor:doctor", flag_types.JsonFlags, common=_AGENT),
    "completion": Command("admin.completion:completion", flag_types.Flags, ("SHELL",), _NO_FLAGS),
    "version": Command("", common=_NO_FLAGS),
    "help": Command("admin.documentation:show", flag_types.HelpFlags, ("COMMAND?", "COMMAND?"), _DRY_RUN),
}

GROUPS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name))
"""The first words of the commands of two words."""

ALONE = {
    **{group: f"{group} list" for group in GROUPS},
    **{"config": "config show", "cluster": "cluster status"},
}
"""The command that the first word alone stands for."""

SECTIONS = {
    "run agents and see what happened": (
        *("resume", "compare", "parallel", "chain"),
        *("show", "sessions", "runs", "approvals", "usage", "worktrees"),
    ),
    "serve and set up": ("serve", "open", "keys", "config", "doctor"),
}
"""The commands that the main help describes, in its order; the help lists the others."""

FIRST_WORDS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS))


def command_of(name: str) -> Command:
    """Return the command of a name; the empty name is a prompt."""
    return COMMANDS[name] if name else PROMPT


def flags_shown(name: str) -> Iterator[Flag]:
    """Yield the flags of a command, its own first. A common flag that does not act on the command has no help."""
    command = command_of(name)
    return flag_types.flags_of(command.flags, command.common)


class SplitWords(NamedTuple):
    """Words of a command line, where flags stand before or after the command.

    Attributes:
        arguments: the words that are neither flags nor values of flags.
        values: the values of flags, by field.
        open_flag: the flag whose value comes next.
        is_ended: whether `--` has ended the flags.
    """

    arguments: Sequence[str]
    values: Mapping[str, str]
    open_flag: Flag | None
    is_ended: bool


def all_flags() -> dict[str, Flag]:
    """Return the flags of all commands by name: a name takes a value in each command, or in none.

    Except `-p`, which is the port of a server, and takes no value in a prompt.
    """
    return {name: flag for command in ("", *COMMANDS) for flag in flags_shown(command) for name in flag.names}


def split_words(words: Iterable[str]) -> SplitWords:
    """Split words into flags and arguments. An unknown flag takes no value."""
    flags = all_flags()
    arguments: list[str] = []
    values: dict[str, str] = {}
    open_flag: Flag | None = None
    is_ended = False
    for word in words:
        if open_flag and (word == "-" or not word.startswith("-")):
            values[open_flag.field], open_flag = word, None
        elif is_ended or word == "-" or not word.startswith("-"):
            arguments.append(word)
        elif word == "--":
            is_ended = True
        else:
            open_flag = flag if (flag := flags.get(word)) and flag.metavar else None
    return SplitWords(arguments, values, open_flag, is_ended)


def members(group: str) -> tuple[str, ...]:
    """Return the second words of the commands of a group."""
    return tuple(name.split()[1] for name in COMMANDS if name.startswith(f"{group} "))


def load(start: str) -> Callable[..., int]:
    """Import a function of this package, `module:function`. No command waits for the imports of another one."""
    module, _, function = start.partition(":")
    return getattr(import_module(f"clinvk.cli.{module}"), function)


_NAMED = 6
"""How many commands of a group the main help names."""

OVERVIEW = "clinvk"
"""The name of the main help."""

DOCUMENTATION = "https://github.com/OWNER/clinvk/blob/main/docs/index.md"
"""The address in pyproject.toml, whose copy in the package would take longer to read than the help."""

_TEXTS = os.path.join(os.path.dirname(__file__), "help.txt")
_EXAMPLES = r"((?:examples?:\n(?:  .+\n)+)?)"
_SECTION = re.compile(
    rf"^== (.+) ==\n(?:usage: ((?:.+\n)+)\n)?((?:.+\n)+)\n*{_EXAMPLES}\n*((?:(?!== ).*\n)*)", re.MULTILINE
)


class Help(NamedTuple):
    """The help of a command around its flags. `usage` begins with `clinvk`."""

    usage: str
    description: str
    examples: str
    epilog: str


@cache
def _texts() -> dict[str, Help]:
    """Return the sections of `help.txt`: an optional usage, a description, examples, and what follows the flags."""
    with open(_TEXTS, encoding="utf-8") as file:  # pathlib would be another import
        found = _SECTION.findall(file.read())
    sections = ((names, Help(*(text.rstrip("\n") for text in texts))) for names, *texts in found)
    return {name: section for names, section in sections for name in names.split(", ")}


def help_of(name: str) -> Help:
    """Return the help of a command, a group or the overview; the empty name is a prompt."""
    usage, description, examples, epilog = _texts()[name or "prompt"]
    if name in GROUPS:
        names = [f"{name} {word}" for word in members(name)]
        usage = f"clinvk {name} COMMAND"
        first = (line for each in names for line in _texts()[each].examples.splitlines()[1:2])
        examples = examples or "\n".join(["examples:", *islice(first, 3)])
        table = _table("commands", map(_line, names))
        epilog = "\n\n".join([table, *filter(None, [epilog]), f"Help for each: clinvk help {names[0]}"])
    elif name == OVERVIEW:
        tables = (_table(heading, map(_line, words)) for heading, words in SECTIONS.items())
        more = ", ".join(word for word in FIRST_WORDS if not any(word in words for words in SECTIONS.values()))
        description = "\n\n".join([description, *tables, f"more commands:\n  {more}"])
    return Help(usage or f"clinvk {name} [flags] {_arguments(name)}".rstrip(), description, examples, epilog)


def topics() -> dict[str, str]:
    """Return the text of each topic of `clinvk help`, by name."""
    prefix = "topic "
    return {
        name.removeprefix(prefix): "\n\n".join(filter(None, text))
        for name, text in _texts().items()
        if name.startswith(prefix)
    }


def summary(name: str) -> str:
    """Return the first sentence of the help of a command or a group."""
    return " ".join(_texts()[name].description.split()).split(". ")[0].split(": ")[0].rstrip(".")


def _arguments(name: str) -> str:
    words = dict.fromkeys(command_of(name).arguments)
    return " ".join(f"[{word.replace('?', '')}]" if "?" in word else word for word in words)


def _line(name: str) -> tuple[str, str]:
    """Return how a command is called, and its summary; of a group its first commands."""
    if name in GROUPS:
        words = members(name)
        return f"{name} COMMAND", ", ".join(words[:_NAMED]) + (" …" if len(words) > _NAMED else "")
    return f"{name} {_arguments(name)}".rstrip(), summary(name)


def _table(heading: str, lines: Iterable[tuple[str, str]]) -> str:
    lines = list(lines)
    width = max(24, *(len(called) for called, _ in lines))
    return "\n".join([f"{heading}:", *(f"  {called:{width}}  {text}" for called, text in lines)])
