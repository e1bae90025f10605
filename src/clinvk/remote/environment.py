"""The part of a command's environment on which the agent of a run depends.

The command and the server each compute digests of the values that must be equal. If a value differs, the command runs
the prompt in its own process. Digests are compared so that no key is sent. The command sends its other variables with
the request, so the agent gets the environment of the command. Terminal variables keep the values of the server: agents
have no terminal, and no two terminals are equal. Settings of servers keep the values of the server too: agents ignore
these settings, and different values would separate the agents of HTTP clients from the agents of commands.
"""

import os
import resource
from collections.abc import Collection, Mapping
from contextlib import suppress
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING

from clinvk import __version__
from clinvk.config.model import Settings
from clinvk.policy.rules import DEPTH_VARIABLE
from clinvk.types.redaction import names_secret, without_secrets

if TYPE_CHECKING:
    from clinvk.backends.base import Backend

_DECISIVE = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", DEPTH_VARIABLE)
_PROXY = "_proxy"
_OF_TERMINAL = frozenset(
    (
        *("PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLORTERM", "COLUMNS", "LINES", "WINDOW", "WINDOWID", "WINDOWPATH"),
        *("TMUX", "TMUX_PANE", "STY", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "GPG_TTY", "VTE_VERSION"),
        *("XDG_SEAT", "XDG_VTNR", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID"),
        *("STARSHIP_SESSION_KEY", "CLINVK_PROCESS_ID"),
    )
)
_OF_TERMINALS = (
    *("TERM_", "XDG_SESSION_", "ALACRITTY_", "GHOSTTY_", "ITERM_", "KITTY_", "KONSOLE_", "WEZTERM_", "ZELLIJ"),
    *("GNOME_TERMINAL_", "TERMINATOR_", "TILIX_", "WT_", "MEMORY_PRESSURE_"),
)

_SETTING = "CLINVK_"
_OF_SERVERS = tuple(f"{_SETTING}{section}__" for section in ("SERVER", "POLICY", "WARM", "LOG", "TRACING"))
_OF_BACKENDS = f"{_SETTING}BACKENDS__"

_LIMITS = {"CPU": resource.RLIMIT_CPU, "FSIZE": resource.RLIMIT_FSIZE, "AS": resource.RLIMIT_AS}
"""Limits that are set only on purpose. The limit on open files is not compared: agents raise it."""

_NAMESPACES = ("mnt", "net", "pid", "user")

_SETTINGS = (
    *("agents", "notifications", "store", "unified_flags.max_depth", "session.default_tags"),
    *("session.store_token_usage", "server.no_progress_timeout_secs"),
)
"""Settings that a run reads from the process instead of the request, besides those of its backend."""

_BACKEND_SETTINGS = ("enabled", "executable", "extra_flags", "acp", "command")


def decisive_variables(registry: Mapping[str, "Backend"]) -> list[str]:
    """Return the variables without secrets that must be equal, such as those of the folders of agents' logins."""
    folders = (folder for backend in registry.values() for folder in backend.folders if folder[0] == "$")
    return [*_DECISIVE, *(folder[1:].partition("/")[0] for folder in folders)]


def caller_environment(
    settings: Settings, environ: Mapping[str, str], variables: Collection[str], backends: Collection[str]
) -> dict[str, str]:
    """Return the digests, by name, of all values that must be equal for runs of the backends. Blocks briefly.

    `variables` are the `decisive_variables`; variables that may be keys or that name a proxy must be equal, too.
    """
    found: dict[str, object] = {"the version of clinvk": __version__, **_process(), **_settings(settings, backends)}
    hidden = settings.notifications.secret_variables  # no agent inherits them
    for name, value in without_secrets(environ).items():
        if name in hidden:
            continue
        if _is_secret(name, value) or (not _stays(name) and (name in variables or name.lower().endswith(_PROXY))):
            found[_shown(name)] = value
    return {name: blake2b(repr(found[name]).encode(), digest_size=8).hexdigest() for name in found}


def environment_difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Return the names of the differing values, or an empty text. Ignore settings of backends missing in `mine`."""
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    found = [name for name in names if name in mine or not name.startswith("backends.")]
    if not found:
        return ""
    return f"{', '.join(found)} {'differs' if len(found) == 1 else 'differ'}"


def own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command to send for the agent."""
    return {name: value for name, value in without_secrets(environ).items() if _is_sent(name, value)}


def merge_environment(server: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: the server's environment with the variables sent by the command."""
    return {**{name: value for name, value in server.items() if not _is_sent(name, value)}, **own}


def _stays(name: str) -> bool:
    """Return whether agents get the variable as the server has it."""
    return name in _OF_TERMINAL or name.startswith(_OF_TERMINALS) or name.upper().startswith(_OF_SERVERS)


def _is_secret(name: str, value: str) -> bool:
    """Return whether a variable may be a key, or is not UTF-8, which a frame cannot carry: neither is ever sent."""
    if _stays(name):
        return False
    # In the names of clinvk's own settings, `token` is a number of tokens; agents' variables among them may be keys.
    is_own_setting = name.startswith(_SETTING) and "__" in name and not name.upper().startswith(_OF_BACKENDS)
    return (names_secret(name) and not is_own_setting) or _shown(name + value) != name + value


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _is_sent(name: str, value: str) -> bool:
    return not (_stays(name) or _is_secret(name, value))


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
