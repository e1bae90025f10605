"""What a run has from where it is asked for, beside its request.

A command and a server each look at themselves. What is decisive must be alike, or the run stays with the command;
values are compared by their digests, so that no key is sent. The other variables of the command go along with the
request: its agent has them as if the command had started it. What belongs to a terminal is left as the server has it:
agents have none, and no two terminals are alike. So is what configures a server: it says nothing to an agent, and would
keep those of its HTTP clients and those of its commands apart.
"""

import os
import resource
from collections.abc import Collection, Mapping
from contextlib import suppress
from hashlib import blake2b

from clinvk import __version__
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings
from clinvk.policy import rules
from clinvk.runtime.process.executables import without_secrets
from clinvk.types.redaction import names_secret

_DECISIVE = frozenset(("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", rules.DEPTH_VARIABLE))
_PROXY = "_proxy"
_HOMES = frozenset(
    folder[1:].partition("/")[0] for backend in BACKENDS.values() for folder in backend.folders if folder[0] == "$"
)
"""The variables that say where an agent keeps its login."""

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
"""Among these settings are variables of the agents, keys too."""

_LIMITS = {"CPU": resource.RLIMIT_CPU, "FSIZE": resource.RLIMIT_FSIZE, "AS": resource.RLIMIT_AS}
"""Limits that somebody has set on purpose if there are any; that on open files agents raise by themselves."""

_NAMESPACES = ("mnt", "net", "pid", "user")


def circumstances(settings: Settings, environ: Mapping[str, str], backends: Collection[str]) -> dict[str, str]:
    """Give a digest of each thing that is decisive for runs of these backends, by its name. Blocks, for a moment."""
    found: dict[str, object] = {"the version of clinvk": __version__}
    found |= _process()
    found |= _settings(settings, backends)
    found |= {_shown(name): value for name, value in without_secrets(environ).items() if _is_decisive(name, value)}
    return {name: _digest(value) for name, value in found.items()}


def difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Say what is not alike; empty where nothing is. What the server tells of other backends is passed over."""
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    found = [name for name in names if name in mine or not name.startswith("backends.")]
    if not found:
        return ""
    return f"{', '.join(found)} {'differs' if len(found) == 1 else 'differ'}"


def own(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables of a command that its agent is to have, and that need not be alike."""
    return {name: value for name, value in without_secrets(environ).items() if _goes_along(name, value)}


def together(server: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of a command whose circumstances are those of the server, from its `own` variables."""
    return {**{name: value for name, value in server.items() if not _goes_along(name, value)}, **own}


def _stays(name: str) -> bool:
    """Say whether a variable is left as the server has it."""
    return name in _OF_TERMINAL or name.startswith(_OF_TERMINALS) or name.upper().startswith(_OF_SERVERS)


def _is_decisive(name: str, value: str) -> bool:
    if _stays(name):
        return False
    is_named = name in _DECISIVE or name in _HOMES or name.lower().endswith(_PROXY)
    return is_named or (names_secret(name) and not _is_own_setting(name)) or not _is_text(name + value)


def _is_own_setting(name: str) -> bool:
    """Say whether it is a setting of clinvk itself: of these tokens are only counted."""
    return name.startswith(_SETTING) and "__" in name and not name.upper().startswith(_OF_BACKENDS)


def _is_text(text: str) -> bool:
    """Say whether it was UTF-8: other bytes have no place in a frame."""
    return text.isascii() or _shown(text) == text


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _goes_along(name: str, value: str) -> bool:
    return not (_stays(name) or _is_decisive(name, value))


def _process() -> dict[str, object]:
    """Give what an agent inherits of the process that starts it."""
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
        with suppress(OSError):  # no Linux
            found[f"the {name} namespace"] = os.readlink(f"/proc/self/ns/{name}")
    return found


def _settings(settings: Settings, backends: Collection[str]) -> dict[str, object]:
    """Give the settings that a run takes from where it is started; the others are in its request by then."""
    found: dict[str, object] = {
        "agents": settings.agents,
        "unified_flags.max_depth": settings.unified_flags.max_depth,
        "session.default_tags": settings.session.default_tags,
        "session.store_token_usage": settings.session.store_token_usage,
        "server.no_progress_timeout_secs": settings.server.no_progress_timeout_secs,
    }
    for name in backends:
        of = settings.backend(name)
        found |= {
            f"backends.{name}.enabled": of.enabled,
            f"backends.{name}.executable": of.executable,
            f"backends.{name}.extra_flags": of.extra_flags,
            f"backends.{name}.env": sorted(of.env.items()),
        }
    return found


def _digest(value: object) -> str:
    return blake2b(repr(value).encode(errors="surrogateescape"), digest_size=8).hexdigest()
