"""The registry of commands: what each one does, takes and calls. A command of two words belongs to a group."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from clinvk.cli.parse import flags as flag_types


class Command(NamedTuple):
    """A command.

    Attributes:
        about: its help; the first sentence is the summary in lists of commands.
        arguments: the arguments that are not flags. `?` marks an optional one, `...` one that may be repeated,
            `?...` one that may be repeated or left out. ID, KEY, COMMAND and SHELL are completed.
        flags: the type of its flags.
        start: the function that runs it, as `module:function` of this package. The function takes the flags, the
            environment and the notes.
    """

    about: str
    arguments: tuple[str, ...] = ()
    flags: type[flag_types.Flags] = flag_types.Flags
    start: str = ""

    @property
    def least(self) -> int:
        """The minimum number of arguments."""
        return sum(not word.removesuffix("...").endswith("?") for word in self.arguments)

    @property
    def most(self) -> int | None:
        """The maximum number of arguments; None is any."""
        return None if any(word.endswith("...") for word in self.arguments) else len(self.arguments)


COMPLETE = "__complete"
"""The command that the completion scripts of the shells call; it is not for people."""

PROMPT = Command(
    "Run a coding agent on this machine: Claude Code, Codex or Gemini CLI.",
    ("PROMPT?",),
    flag_types.PromptFlags,
    "prompt.prompt:prompt",
)

COMMANDS = {
    "resume": Command(
        "Resume a conversation. The agent works in the directory of the conversation,\n"
        "wherever you are. ID may be its first digits, 4 or more. Without ID, on a\n"
        "terminal, choose from a list. Without PROMPT, stdin is the prompt, or clinvk\n"
        "asks for one.",
        ("ID?", "PROMPT?"),
        flag_types.ResumeFlags,
        "prompt.resume:resume",
    ),
    "sessions list": Command(
        "List conversations, the newest first.", (), flag_types.ListFlags, "sessions.sessions:list_all"
    ),
    "sessions show": Command(
        "Show a conversation, its turns and their tokens.", ("ID",), flag_types.JsonFlags, "sessions.sessions:show"
    ),
    "sessions delete": Command(
        "Delete conversations with their turns. On a terminal clinvk asks first; without\n"
        "one it needs --yes. The agent's own record of a conversation stays.",
        ("ID...",),
        flag_types.DeleteFlags,
        "sessions.sessions:delete",
    ),
    "sessions clean": Command(
        "Delete old conversations. A conversation is old if it was last used longer ago\n"
        "than session.retention_days, or --older-than. --dry-run shows how many.",
        (),
        flag_types.CleanFlags,
        "sessions.sessions:clean",
    ),
    "sessions fork": Command(
        "Start a conversation from another one. The other one stays as it is; the new\n"
        "id is printed, and its first prompt branches off: clinvk resume ID PROMPT.",
        ("ID",),
        flag_types.JsonFlags,
        "sessions.sessions:fork",
    ),
    "sessions tag": Command(
        "Tag a conversation. Tags that it has already stay.",
        ("ID", "TAG?..."),
        flag_types.TagFlags,
        "sessions.sessions:tag",
    ),
    "sessions rename": Command(
        "Set the title of a conversation. Lists show the title instead of the first\n"
        "prompt; an empty title removes it.",
        ("ID", "TITLE"),
        flag_types.JsonFlags,
        "sessions.sessions:rename",
    ),
    "sessions export": Command(
        "Export all prompts and answers of a conversation.", ("ID",), flag_types.ExportFlags, "sessions.sessions:export"
    ),
    "parallel": Command(
        "Run the tasks of a file, or of stdin, in parallel. The answers and a table are\n"
        "printed in the order of the tasks.",
        (),
        flag_types.ParallelFlags,
        "orchestrate.orchestrate:parallel",
    ),
    "chain": Command(
        "Run the steps of a file, or of stdin, in order. The first step that fails ends\nthe chain.",
        (),
        flag_types.ChainFlags,
        "orchestrate.orchestrate:chain",
    ),
    "compare": Command(
        "Send one prompt to several agents. Each answer is shown.",
        ("PROMPT?",),
        flag_types.CompareFlags,
        "orchestrate.orchestrate:compare",
    ),
    "runs list": Command(
        "List runs, the newest first. The list has the runs of the command line and of\n"
        "servers, also those in progress. Several agents together are one line; --parts\n"
        "adds a line for each.",
        (),
        flag_types.RunsFlags,
        "sessions.runs:list_all",
    ),
    "runs show": Command(
        "Show a run: its result, the prompt and the answer; of parallel, chain and\ncompare the parts.",
        ("ID",),
        flag_types.JsonFlags,
        "sessions.runs:show",
    ),
    "worktrees list": Command(
        "List worktrees, the oldest first: in use, changed, unchanged, or broken\n(clinvk cannot read it).",
        (),
        flag_types.WorktreesFlags,
        "admin.worktrees:list_all",
    ),
    "worktrees show": Command(
        "Show a worktree: its prompt, its changes and the diff, which apply would bring\ninto your tree.",
        ("ID",),
        flag_types.WorktreeShowFlags,
        "admin.worktrees:show",
    ),
    "worktrees apply": Command(
        "Apply the changes of a worktree to your tree. They are not committed, and the\n"
        "worktree is removed. If they do not apply, nothing is changed. --dry-run only\n"
        "checks.",
        ("ID",),
        flag_types.ApplyFlags,
        "admin.worktrees:apply",
    ),
    "worktrees discard": Command(
        "Remove worktrees, their branches and all changes. On a terminal clinvk asks\n"
        "first; without one it needs --yes.",
        ("ID...",),
        flag_types.DeleteFlags,
        "admin.worktrees:discard",
    ),
    "serve": Command(
        "Serve the agents of this machine over HTTP. Ctrl-C lets running requests\n"
        "finish for server.shutdown_grace_secs; a second Ctrl-C stops at once.",
        (),
        flag_types.ServeFlags,
        "admin.serve:serve",
    ),
    "service print": Command(
        "Print a systemd unit or a launchd property list. Nothing is installed; the\n"
        "commands that install it are printed on stderr.",
        ("MANAGER?",),
        flag_types.ServicePrintFlags,
        "admin.service:show",
    ),
    "service uninstall": Command(
        "Stop the service and remove its files. Sessions, settings and keys stay. This\n"
        "command will be removed in the next release.",
        ("MANAGER?",),
        flag_types.ServiceFlags,
        "admin.service:uninstall",
    ),
    "keys create": Command(
        "Create an API key and print it. The key is the last line of stdout, and is not\n"
        "shown again. NAME is for people and logs.",
        ("NAME",),
        flag_types.KeyFlags,
        "admin.keys:create",
    ),
    "keys list": Command("List the keys, without the secrets.", (), flag_types.JsonFlags, "admin.keys:list_all"),
    "keys revoke": Command(
        "Revoke a key. Requests with it are refused from then on, and so are its runs\n"
        "that wait. After the last key is revoked, the server refuses everybody.",
        ("NAME",),
        start="admin.keys:revoke",
    ),
    "config show": Command(
        "Show all settings and where each comes from. A setting comes from the default,\n"
        "FILE:LINE, a variable or the command line. The output is YAML.",
        (),
        flag_types.JsonFlags,
        "admin.config:show",
    ),
    "config get": Command(
        "Print one setting. A list or a section is printed as YAML.", ("KEY",), flag_types.JsonFlags, "admin.config:get"
    ),
    "config set": Command(
        "Write one setting to the settings file. The file is ~/.clinvk/config.yaml,\n"
        "CLINVK_CONFIG or --config. Comments and order stay; invalid values are refused.",
        ("KEY", "VALUE"),
        start="admin.config:set_key",
    ),
    "config unset": Command(
        "Remove a setting from the settings file. KEY may be a whole section. The\n"
        "default applies again. --dry-run only checks.",
        ("KEY",),
        start="admin.config:unset",
    ),
    "doctor": Command(
        "Check the agents, the settings and this machine. Of the agents: the CLIs, their\n"
        "versions, flags and logins. Also clinvk's own files and the port. Calls no\n"
        "model, changes nothing, works offline. --backend checks only one agent.",
        (),
        flag_types.JsonFlags,
        "admin.doctor:doctor",
    ),
    "completion": Command(
        "Print the completion script for bash, zsh or fish.", ("SHELL",), start="admin.completion:completion"
    ),
    "version": Command("Show the version."),
    "help": Command("Show help for clinvk or for one of its commands.", ("COMMAND?", "COMMAND?")),
}

GROUPS = {
    "sessions": "The conversations that clinvk keeps.",
    "runs": "What was run: each prompt, and several agents together.",
    "worktrees": "The git worktrees in which agents changed something.",
    "service": "The server as a service of systemd or launchd.",
    "keys": "The API keys of clinvk serve. Running servers follow within seconds.",
    "config": "Show the settings, and change the settings file.",
}
"""The first words of the commands of two words, with their help."""

REMOVED: dict[str, str] = dict.fromkeys(
    ("service install", "service status"),
    "was removed: clinvk service print prints the files and two commands to copy; systemctl status clinvk "
    "(launchctl print on macOS) shows the service",
)
"""Commands of earlier versions, with what to do instead."""

FIRST_WORDS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS))


def command_of(name: str) -> Command:
    """Return the command of a name; the empty name is a prompt."""
    return COMMANDS[name] if name else PROMPT


def members(group: str) -> tuple[str, ...]:
    """Return the second words of the commands of a group."""
    return tuple(name.split()[1] for name in COMMANDS if name.startswith(f"{group} "))


def about(name: str) -> str:
    """Return the help of a command or a group; the empty name is a prompt."""
    return GROUPS[name] if name in GROUPS else command_of(name).about


def summary(name: str) -> str:
    """Return the first sentence of the help of a command or a group."""
    return " ".join(about(name).split()).split(". ")[0].split(": ")[0].rstrip(".")


def start_of(name: str) -> Callable[..., int]:
    """Return the function that runs a command."""
    return load(command_of(name).start)


def load(start: str) -> Callable[..., int]:
    """Import a function of this package, `module:function`. No command waits for the imports of another one."""
    module, _, function = start.partition(":")
    return getattr(import_module(f"clinvk.cli.{module}"), function)
