"""The registry of commands: what each takes, and the words of its help. A command of two words belongs to a group."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from clinvk.cli.parse import help as texts
from clinvk.cli.parse.flags import (
    ApplyFlags,
    ChainFlags,
    CleanFlags,
    CompareFlags,
    DeleteFlags,
    ExportFlags,
    Flags,
    InstallFlags,
    JsonFlags,
    KeyFlags,
    ListFlags,
    ParallelFlags,
    PromptFlags,
    ResumeFlags,
    RunsFlags,
    ServeFlags,
    ServiceFlags,
    StatusFlags,
    TagFlags,
    WorktreesFlags,
    WorktreeShowFlags,
    add_apply,
    add_chain,
    add_clean,
    add_compare,
    add_delete,
    add_export,
    add_install,
    add_json,
    add_key,
    add_list,
    add_parallel,
    add_prompt,
    add_resume,
    add_runs,
    add_serve,
    add_service,
    add_status,
    add_tag,
    add_worktree_show,
    add_worktrees,
)


class Command(NamedTuple):
    """What a command takes.

    Attributes:
        help: what stands around its flags in its help.
        words: the arguments that are no flags, by what they are; `?` ends one that may be missing,
            `...` one that may come several times, `?...` or not at all. KEY, COMMAND and SHELL are completed.
        flags: the type of its flags.
        add: adds those that are its own to a parser.
        start: what runs it, as `module:function` of this package; takes the flags, the environment and the notes.
    """

    help: texts.Help
    words: tuple[str, ...] = ()
    flags: type[Flags] = Flags
    add: Callable[[argparse.ArgumentParser], None] | None = None
    start: str = ""

    @property
    def least(self) -> int:
        """The number of words, at least."""
        return sum(not word.removesuffix("...").endswith("?") for word in self.words)

    @property
    def most(self) -> int | None:
        """The number of words, at most; None is any."""
        return None if any(word.endswith("...") for word in self.words) else len(self.words)


PROMPT = Command(texts.PROMPT, ("PROMPT?",), PromptFlags, add_prompt, "prompt.prompt:prompt")

COMMANDS = {
    "resume": Command(texts.RESUME, ("ID?", "PROMPT?"), ResumeFlags, add_resume, "prompt.resume:resume"),
    "sessions list": Command(texts.SESSIONS_LIST, (), ListFlags, add_list, "sessions.sessions:list_all"),
    "sessions show": Command(texts.SESSIONS_SHOW, ("ID",), JsonFlags, add_json, "sessions.sessions:show"),
    "sessions delete": Command(
        texts.SESSIONS_DELETE, ("ID...",), DeleteFlags, add_delete, "sessions.session_changes:delete"
    ),
    "sessions clean": Command(texts.SESSIONS_CLEAN, (), CleanFlags, add_clean, "sessions.session_changes:clean"),
    "sessions fork": Command(texts.SESSIONS_FORK, ("ID",), JsonFlags, add_json, "sessions.session_changes:fork"),
    "sessions tag": Command(texts.SESSIONS_TAG, ("ID", "TAG?..."), TagFlags, add_tag, "sessions.session_changes:tag"),
    "sessions rename": Command(
        texts.SESSIONS_RENAME, ("ID", "TITLE"), JsonFlags, add_json, "sessions.session_changes:rename"
    ),
    "sessions export": Command(texts.SESSIONS_EXPORT, ("ID",), ExportFlags, add_export, "sessions.sessions:export"),
    "runs list": Command(texts.RUNS_LIST, (), RunsFlags, add_runs, "sessions.runs:list_all"),
    "runs show": Command(texts.RUNS_SHOW, ("ID",), JsonFlags, add_json, "sessions.runs:show"),
    "worktrees list": Command(texts.WORKTREES_LIST, (), WorktreesFlags, add_worktrees, "admin.worktrees:list_all"),
    "worktrees show": Command(
        texts.WORKTREES_SHOW, ("ID",), WorktreeShowFlags, add_worktree_show, "admin.worktrees:show"
    ),
    "worktrees apply": Command(texts.WORKTREES_APPLY, ("ID",), ApplyFlags, add_apply, "admin.worktrees:apply"),
    "worktrees discard": Command(
        texts.WORKTREES_DISCARD, ("ID...",), DeleteFlags, add_delete, "admin.worktrees:discard"
    ),
    "parallel": Command(texts.PARALLEL, (), ParallelFlags, add_parallel, "orchestrate.parallel:parallel"),
    "chain": Command(texts.CHAIN, (), ChainFlags, add_chain, "orchestrate.chain:chain"),
    "compare": Command(texts.COMPARE, ("PROMPT?",), CompareFlags, add_compare, "orchestrate.compare:compare"),
    "serve": Command(texts.SERVE, (), ServeFlags, add_serve, "admin.serve:serve"),
    "service install": Command(
        texts.SERVICE_INSTALL, ("MANAGER?",), InstallFlags, add_install, "admin.service:install"
    ),
    "service uninstall": Command(
        texts.SERVICE_UNINSTALL, ("MANAGER?",), ServiceFlags, add_service, "admin.service:uninstall"
    ),
    "service status": Command(texts.SERVICE_STATUS, ("MANAGER?",), StatusFlags, add_status, "admin.service:status"),
    "service print": Command(texts.SERVICE_PRINT, ("MANAGER?",), InstallFlags, add_install, "admin.service:show"),
    "keys create": Command(texts.KEYS_CREATE, ("NAME",), KeyFlags, add_key, "admin.keys:create"),
    "keys list": Command(texts.KEYS_LIST, (), JsonFlags, add_json, "admin.keys:list_all"),
    "keys revoke": Command(texts.KEYS_REVOKE, ("NAME",), start="admin.keys:revoke"),
    "config show": Command(texts.CONFIG_SHOW, (), JsonFlags, add_json, "admin.config:show"),
    "config get": Command(texts.CONFIG_GET, ("KEY",), JsonFlags, add_json, "admin.config:get"),
    "config set": Command(texts.CONFIG_SET, ("KEY", "VALUE"), start="admin.config:set_key"),
    "config unset": Command(texts.CONFIG_UNSET, ("KEY",), start="admin.config:unset"),
    "doctor": Command(texts.DOCTOR, (), JsonFlags, add_json, "admin.doctor:doctor"),
    "completion": Command(texts.COMPLETION, ("SHELL",), start="admin.completion:completion"),
    "version": Command(texts.VERSION),
    "help": Command(texts.HELP, ("COMMAND?", "COMMAND?")),
}

GROUPS = {
    "sessions": texts.SESSIONS,
    "runs": texts.RUNS,
    "worktrees": texts.WORKTREES,
    "service": texts.SERVICE,
    "keys": texts.KEYS,
    "config": texts.CONFIG,
}
"""The first words of commands of two."""

FIRST_WORDS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS))


def members(group: str) -> tuple[str, ...]:
    """Give the second words of a group's commands."""
    return tuple(name.split()[1] for name in COMMANDS if name.startswith(f"{group} "))


def help_of(name: str) -> texts.Help:
    """Give the help of a command or a group; the empty name is a prompt."""
    return texts.PROMPT if not name else GROUPS[name] if name in GROUPS else COMMANDS[name].help


def start_of(name: str) -> Callable[..., int]:
    """Give what runs a command. It is imported only here, so that no command waits for the modules of another."""
    module, _, function = (COMMANDS[name] if name else PROMPT).start.partition(":")
    return getattr(import_module(f"clinvk.cli.{module}"), function)
