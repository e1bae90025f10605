"""The table of commands: what each one takes and calls. A command of two words belongs to a group.

The help of each command is in `help.txt`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from clinvk.cli.parse import flags as flag_types


class Command(NamedTuple):
    """A command.

    Attributes:
        start: the function that runs the command, as `module:function` of this package; empty if `entry` answers. The
            function takes the flags, the environment and the notes.
        flags: the type of the flags.
        arguments: the arguments that are not flags. `?` marks an optional one, `...` one that may be repeated,
            `?...` one that may be repeated or left out. ID, KEY, COMMAND, MANAGER and SHELL are completed.
    """

    start: str
    flags: type[flag_types.Flags] = flag_types.Flags
    arguments: tuple[str, ...] = ()

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

PROMPT = Command("prompt.prompt:prompt", flag_types.PromptFlags, ("PROMPT?",))

COMMANDS = {
    "resume": Command("prompt.resume:resume", flag_types.ResumeFlags, ("ID?", "PROMPT?")),
    "sessions list": Command("sessions.sessions:list_all", flag_types.ListFlags),
    "sessions show": Command("sessions.sessions:show", flag_types.JsonFlags, ("ID",)),
    "sessions delete": Command("sessions.sessions:delete", flag_types.DeleteFlags, ("ID...",)),
    "sessions clean": Command("sessions.sessions:clean", flag_types.CleanFlags),
    "sessions fork": Command("sessions.sessions:fork", flag_types.JsonFlags, ("ID",)),
    "sessions tag": Command("sessions.sessions:tag", flag_types.TagFlags, ("ID", "TAG?...")),
    "sessions rename": Command("sessions.sessions:rename", flag_types.JsonFlags, ("ID", "TITLE")),
    "sessions export": Command("sessions.sessions:export", flag_types.ExportFlags, ("ID",)),
    "parallel": Command("orchestrate.orchestrate:parallel", flag_types.ParallelFlags),
    "chain": Command("orchestrate.orchestrate:chain", flag_types.ChainFlags),
    "compare": Command("orchestrate.orchestrate:compare", flag_types.CompareFlags, ("PROMPT?",)),
    "runs list": Command("sessions.runs:list_all", flag_types.RunsFlags),
    "runs show": Command("sessions.runs:show", flag_types.JsonFlags, ("ID",)),
    "runs follow": Command("prompt.follow:follow", flag_types.Flags, ("ID",)),
    "usage": Command("sessions.usage:usage", flag_types.UsageFlags),
    "worktrees list": Command("admin.worktrees:list_all", flag_types.WorktreesFlags),
    "worktrees show": Command("admin.worktrees:show", flag_types.WorktreeShowFlags, ("ID",)),
    "worktrees apply": Command("admin.worktrees:apply", flag_types.ApplyFlags, ("ID",)),
    "worktrees discard": Command("admin.worktrees:discard", flag_types.DeleteFlags, ("ID...",)),
    "serve": Command("admin.serve:serve", flag_types.ServeFlags),
    "open": Command("admin.serve:open_page", flag_types.OpenFlags),
    "service print": Command("admin.service:show", flag_types.ServicePrintFlags, ("MANAGER?",)),
    "service uninstall": Command("admin.service:uninstall", flag_types.ServiceFlags, ("MANAGER?",)),
    "keys create": Command("admin.keys:create", flag_types.KeyFlags, ("NAME",)),
    "keys list": Command("admin.keys:list_all", flag_types.JsonFlags),
    "keys revoke": Command("admin.keys:revoke", flag_types.Flags, ("NAME",)),
    "config show": Command("admin.config:show", flag_types.JsonFlags),
    "config get": Command("admin.config:get", flag_types.JsonFlags, ("KEY",)),
    "config set": Command("admin.config:set_key", flag_types.Flags, ("KEY", "VALUE")),
    "config unset": Command("admin.config:unset", flag_types.Flags, ("KEY",)),
    "config path": Command("admin.config:path"),
    "config edit": Command("admin.config:edit"),
    "backends": Command("admin.backends:backends", flag_types.JsonFlags),
    "models": Command("admin.backends:models", flag_types.JsonFlags),
    "doctor": Command("admin.doctor:doctor", flag_types.JsonFlags),
    "completion": Command("admin.completion:completion", flag_types.Flags, ("SHELL",)),
    "version": Command(""),
    "help": Command("", flag_types.Flags, ("COMMAND?", "COMMAND?")),
}

GROUPS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name))
"""The first words of the commands of two words."""

ALONE = {group: f"{group} {'show' if group == 'config' else 'list'}" for group in GROUPS if group != "service"}
"""The command that the first word alone stands for."""

FIRST_WORDS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS))

REMOVED: dict[str, str] = dict.fromkeys(
    ("service install", "service status"),
    "was removed: clinvk service print prints the files and two commands to copy; systemctl status clinvk "
    "(launchctl print on macOS) shows the service",
)
"""Commands of earlier versions, with what to do instead."""


def command_of(name: str) -> Command:
    """Return the command of a name; the empty name is a prompt."""
    return COMMANDS[name] if name else PROMPT


def members(group: str) -> tuple[str, ...]:
    """Return the second words of the commands of a group."""
    return tuple(name.split()[1] for name in COMMANDS if name.startswith(f"{group} "))


def load(start: str) -> Callable[..., int]:
    """Import a function of this package, `module:function`. No command waits for the imports of another one."""
    module, _, function = start.partition(":")
    return getattr(import_module(f"clinvk.cli.{module}"), function)
