"""The environment of a command, in which an agent of the server works.

The command sends its variables, which may be keys, over the private socket. Before that, both ends verify that the peer
is a process of the same user. The server keeps the variables in memory only, for the agents that get them. Terminal
variables keep the values of the server: agents have no terminal, and no two terminals are equal. Settings of servers
keep the values of the server too: agents ignore these settings, and different values would separate the agents of one
shell from the agents of another.

The server cannot take over everything, such as the umask. The command and the server each compute digests of the other
values. If a value differs, the command runs the prompt in its own process.
"""

import os
import resource
from collections.abc import Collection, Mapping
from contextlib import suppress
from hashlib import blake2b
from operator import attrgetter

from clinvk import __version__
from clinvk.config.model import Settings
from clinvk.policy.rules import DEPTH_VARIABLE, nesting_depth
from clinvk.types.redaction import names_secret, without_secrets

_OF_TERMINAL = frozenset(
    (
        *("PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLORTERM", "COLUMNS", "LINES", "WINDOW", "WINDOWID", "WINDOWPATH"),
        *("TMUX", "TMUX_PANE", "STY", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "GPG_TTY", "VTE_VERSION"),
        *("XDG_SEAT", "XDG_VTNR", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID"),
        *("DESKTOP_STARTUP_ID", "XDG_ACTIVATION_TOKEN", "SHELL_SESSION_ID", "STARSHIP_SESSION_KEY"),
        "CLINVK_PROCESS_ID",
    )
)
_OF_TERMINALS = (
    *("TERM_", "XDG_SESSION_", "ALACRITTY_", "GHOSTTY_", "ITERM_", "KITTY_", "KONSOLE_", "WEZTERM_", "ZELLIJ"),
    *("GNOME_TERMINAL_", "TERMINATOR_", "TILIX_", "WT_", "MEMORY_PRESSURE_", "GIO_LAUNCHED_"),
    *("P9K_", "_P9K_", "ATUIN_", "MCFLY_"),  # prompts and histories of shells
)

_OF_SERVERS = tuple(f"CLINVK_{section}__" for section in ("SERVER", "POLICY", "WARM", "LOG", "TRACING"))

_LIMITS = {"CPU": resource.RLIMIT_CPU, "FSIZE": resource.RLIMIT_FSIZE, "AS": resource.RLIMIT_AS}
"""Limits that are set only on purpose. The limit on open files is not compared: agents raise it."""

_NAMESPACES = ("mnt", "net", "pid", "user")

_SETTINGS = (
    *("agents", "notifications", "store", "unified_flags.max_depth", "session.default_tags"),
    *("session.store_token_usage", "server.no_progress_timeout_secs"),
)
"""Settings that a run reads from the process instead of the request, besides those of its backend."""

_BACKEND_SETTINGS = ("enabled", "executable", "extra_flags", "acp", "command")

_VERSION = "the version of clinvk"
_VARIABLES = "PATH, HOME or a key"
"""What must be equal for a command that sends no variables."""


def environment_digests(
    settings: Settings, environ: Mapping[str, str], backends: Collection[str], sends_variables: bool = False
) -> dict[str, str]:
    """Return the digests, by name, of all values that must be equal for runs of the backends. Blocks briefly.

    The variables need not be equal for a command that sends its own.
    """
    found: dict[str, object] = {_VERSION: __version__, DEPTH_VARIABLE: nesting_depth(environ)}
    found |= {**_process(), **_settings(settings, backends)}
    if not sends_variables:
        found[_VARIABLES] = sorted((name, value) for name, value in without_secrets(environ).items() if _is_key(name))
    return {name: blake2b(repr(found[name]).encode(), digest_size=8).hexdigest() for name in found}


def environment_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Return the names of the values of a command that differ in the server, or an empty text."""
    found = [name for name in mine if mine[name] != theirs.get(name)]
    if _VERSION in found:  # the settings of another version differ too
        found = [_VERSION]
    if not found:
        return ""
    return f"{', '.join(found)} {'differs' if len(found) == 1 else 'differ'}"


def own_variables(environ: Mapping[str, str]) -> bytes:
    """Return the variables of a command to send for the agent, each ended by a NUL. They need not be UTF-8."""
    own = without_secrets(environ).items()
    return os.fsencode("".join(f"{name}={value}\0" for name, value in own if not _stays(name)))


def merge_environment(server: Mapping[str, str], own: bytes) -> dict[str, str]:
    """Return the environment of a command, from the server's environment and the variables sent by the command."""
    sent = (text.partition("=") for text in os.fsdecode(own).split("\0"))
    stays = {name: value for name, value in server.items() if _stays(name)}
    return {**stays, **{name: value for name, _, value in sent if name and not _stays(name)}}


def _stays(name: str) -> bool:
    """Return whether agents get the variable as the server has it."""
    return name in _OF_TERMINAL or name.startswith(_OF_TERMINALS) or name.upper().startswith(_OF_SERVERS)


def _is_key(name: str) -> bool:
    """Return whether a variable decides which program an agent is, and which account it uses."""
    return name in ("PATH", "HOME") or (names_secret(name) and not (name.startswith("CLINVK_") or _stays(name)))


def _process() -> dict[str, object]:
    """Return the process attributes inherited by an agent."""
    mask = os.umask(0o077)
    os.umask(mask)
    root = os.stat("/")
    found: dict[str, object] = {
        "umask": mask,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "the user's groups": (os.getegid(), *sorted(os.getgroups())),
        "the root directory": (root.st_dev, root.st_ino),
    }
    found |= {f"ulimit {name}": resource.getrlimit(limit)[0] for name, limit in _LIMITS.items()}
    for name in _NAMESPACES:
        found[f"the {name} namespace"] = None
        with suppress(OSError):  # not Linux
            found[f"the {name} namespace"] = os.readlink(f"/proc/self/ns/{name}")
    return found


def _settings(settings: Settings, backends: Collection[str]) -> dict[str, object]:
    found = {name: attrgetter(name)(settings) for name in _SETTINGS}
    for name in backends:
        own = settings.backend(name)
        found |= {f"backends.{name}.{key}": getattr(own, key) for key in _BACKEND_SETTINGS}
        found[f"backends.{name}.env"] = sorted(own.env.items())
    return found
