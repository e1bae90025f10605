"""The sandbox of `read-only` and `workspace`: bubblewrap with `--bind-fd` (https://github.com/containers/bubblewrap).

The file system is read-only for the agent and everything that it starts, except for the agent's own folders and, in
`workspace`, the directories of the request. The process sees no other processes. `/tmp` and `/run` are empty, because
their Unix sockets lead to programs outside: the user's service manager, container engines, SSH agents. clinvk's own
home is empty for the same reason. The network is open, because the agent needs its model. Without bubblewrap, landlock
protects the same files, but leaves more open: docs/acp.md.
"""

from collections.abc import Mapping
from typing import NamedTuple

from clinvk.backends.base import HELD, PRIVATE, Host
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

_PLACEHOLDER = "temporary"
"""A private file, so that the private folder exists."""

_BASE = (
    *(
        "bwrap",
        "--die-with-parent",
        "--new-session",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--cap-drop",
        "ALL",
    ),
    *("--ro-bind", "/", "/"),
)
_EMPTY = ("/tmp", "/var/tmp", "/run")  # noqa: S108  # no file is created
_KERNEL = tuple(f"/proc/{name}" for name in ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "mtrr", "pressure"))
"""Kernel settings, which root can write even without capabilities."""

_NAME_SERVICE = ("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/nscd")
"""Folders that `/etc/resolv.conf` may lead to."""


class Sandbox(NamedTuple):
    """The command before the agent's own that runs the agent in a sandbox, with the variables and files it needs."""

    wrapper: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    files: Mapping[str, bytes] = {}


def sandbox(request: RunRequest, directory: str, folders: tuple[str, ...], host: Host) -> Sandbox:
    """Return the sandbox of a request; empty if the mode needs none.

    Args:
        request: the request with the sandbox mode.
        directory: the working directory without symbolic links.
        folders: the folders that the agent writes; those that do not exist are skipped.
        host: the machine.

    Raises:
        Unsupported: the machine has neither bubblewrap nor landlock.
    """
    if request.sandbox_mode not in ("read-only", "workspace"):
        return Sandbox()
    home = host.env.get("HOME", "")
    own = [host.resolve(f"{home}{folder[1:]}" if folder.startswith("~/") else folder) for folder in folders]
    used = [directory, *map(host.resolve, request.add_dirs)]
    is_writing = request.sandbox_mode == "workspace"
    clinvk_home = host.resolve(host.env.get("CLINVK_HOME") or f"{home}/.clinvk")
    if "bwrap" not in host.commands:
        return _landlock(request, [*own, *used] if is_writing else own, clinvk_home, host)
    parent, _, name = clinvk_home.rpartition("/")
    hidden = [f"{parent}/{name}"] if host.find(parent, name) else []
    bind = "--bind-fd" if is_writing else "--ro-bind-fd"
    mounts = {folder: ("--tmpfs", folder) for folder in (*_EMPTY, *hidden)}
    mounts |= {folder: ("--ro-bind-try", folder, folder) for folder in (*_NAME_SERVICE, *_KERNEL)}
    mounts |= {folder: (bind, f"{HELD}{folder}", folder) for folder in used}
    mounts |= {folder: ("--bind-try", folder, folder) for folder in own}
    mounts |= {"/dev": ("--dev", "/dev"), "/proc": ("--proc", "/proc")}
    words = (word for _, mount in sorted(mounts.items()) for word in mount)  # a folder before the folders inside
    bridge = (PRIVATE, *(word for word in host.tool_bridge if word.startswith(_EMPTY))) if request.client_tools else ()
    tools = (word for path in bridge for word in ("--ro-bind", path, path))  # in a folder that is empty otherwise
    return Sandbox((*_BASE, *words, *tools, "--chdir", directory, "--"))


def _landlock(request: RunRequest, writable: list[str], clinvk_home: str, host: Host) -> Sandbox:
    """Return the sandbox without bubblewrap: `/tmp` is read-only, and the private folder takes its place.

    It has no Unix sockets, so the tool bridge does not work, and cannot exclude a folder inside a writable one.
    """
    mode = f"sandbox_mode {request.sandbox_mode}"
    need = f"needs bwrap (bubblewrap) on PATH for {request.backend}"
    if not host.landlock:
        raise Unsupported(f"{mode} {need}, or Linux 6.12 or later with landlock", "sandbox_mode")
    if request.client_tools:
        raise Unsupported(f"{mode} with tools of the client {need}", "sandbox_mode")
    if any(f"{clinvk_home}/".startswith(f"{folder.rstrip('/')}/") for folder in writable):
        raise Unsupported(f"{mode} in a directory with clinvk's home {need}", "sandbox_mode")
    return Sandbox((*host.landlock, *writable, PRIVATE, "--"), {"TMPDIR": PRIVATE}, {_PLACEHOLDER: b""})
