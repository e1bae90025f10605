"""The sandbox of `read-only` and `workspace`: bubblewrap with `--bind-fd` (https://github.com/containers/bubblewrap).

The file system is read-only for the agent and everything that it starts, except for the agent's own folders and, in
`workspace`, the directories of the request. The process sees no other processes. `/tmp` and `/run` are empty, because
their Unix sockets lead to programs outside: the user's service manager, container engines, SSH agents. clinvk's own
home is empty for the same reason. The network is open, because the agent needs its model.
"""

from clinvk.backends.base import HELD, PRIVATE, Host
from clinvk.backends.refusals import install_command
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

NEEDS_BUBBLEWRAP = "sandbox_mode read-only and workspace need bubblewrap (Linux)"

_BASE = (
    *("bwrap", "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    *("--cap-drop", "ALL", "--ro-bind", "/", "/"),
)
_EMPTY = ("/tmp", "/var/tmp", "/run")  # noqa: S108  # no file is created
_KERNEL = tuple(f"/proc/{name}" for name in ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "mtrr", "pressure"))
"""Kernel settings, which root can write even without capabilities."""

_NAME_SERVICE = ("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/nscd")
"""Folders that `/etc/resolv.conf` may lead to."""


def is_available(host: Host) -> bool:
    """Return whether bubblewrap is installed."""
    return "bwrap" in host.commands


def wrapper(request: RunRequest, directory: str, folders: tuple[str, ...], host: Host) -> tuple[str, ...]:
    """Return the command before the agent's own that runs the agent in a sandbox; empty if the mode needs none.

    Args:
        request: the request with the sandbox mode.
        directory: the working directory without symbolic links.
        folders: the folders that the agent writes; those that do not exist are skipped.
        host: the machine.

    Raises:
        Unsupported: bubblewrap is not installed.
    """
    if request.sandbox_mode not in ("read-only", "workspace"):
        return ()
    if not is_available(host):
        raise Unsupported(
            f"backend {request.backend!r}: {NEEDS_BUBBLEWRAP}{install_command('bubblewrap')}", "sandbox_mode"
        )
    home = host.env.get("HOME", "")
    own = [host.resolve(f"{home}{folder[1:]}" if folder.startswith("~/") else folder) for folder in folders]
    used = [directory, *map(host.resolve, request.add_dirs)]
    clinvk_home = host.resolve(host.env.get("CLINVK_HOME") or f"{home}/.clinvk")
    parent, _, name = clinvk_home.rpartition("/")
    hidden = [f"{parent}/{name}"] if host.find(parent, name) else []
    bind = "--bind-fd" if request.sandbox_mode == "workspace" else "--ro-bind-fd"
    mounts = {folder: ("--tmpfs", folder) for folder in (*_EMPTY, *hidden)}
    mounts |= {folder: ("--ro-bind-try", folder, folder) for folder in (*_NAME_SERVICE, *_KERNEL)}
    mounts |= {folder: (bind, f"{HELD}{folder}", folder) for folder in used}
    mounts |= {folder: ("--bind-try", folder, folder) for folder in own}
    mounts |= {"/dev": ("--dev", "/dev"), "/proc": ("--proc", "/proc")}
    words = (word for _, mount in sorted(mounts.items()) for word in mount)  # a folder before the folders inside
    bridge = (PRIVATE, *(word for word in host.tool_bridge if word.startswith(_EMPTY))) if request.client_tools else ()
    tools = (word for path in bridge for word in ("--ro-bind", path, path))  # in a folder that is empty otherwise
    return (*_BASE, *words, *tools, "--chdir", directory, "--")
