"""The directories that agents may use: the lists in the settings, and the directories that are always blocked.

All paths are absolute and free of symbolic links. The caller resolves each path and passes the resolved path to the
agent, so the checked path is the path in use.
"""

from collections.abc import Iterable

import msgspec

_ALONE = frozenset({"/", "/home", "/users", "/var", "/var/lib", "/private", "/private/var"})
"""Directories above everything or everybody; directories below them are checked separately."""

_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found", "/proc", "/run", "/sbin"),
    *("/snap", "/sys", "/usr", "/var/backups", "/var/cache", "/var/db", "/var/log", "/var/mail", "/var/root"),
    *("/var/run", "/var/spool", "/library", "/system", "/private/etc", "/private/var/db", "/private/var/log"),
    *("/private/var/root", "/private/var/run"),
)
_BELOW_SYSTEM = tuple(f"{path}/" for path in _SYSTEM)
_NOT_SYSTEM = ("/run/media", "/usr/local/src", "/usr/src")
"""User data in system folders: mounted disks, and sources in containers."""

_SECRET = frozenset(
    {
        *(".ssh", ".aws", ".gnupg", ".azure", ".kube", ".docker", ".password-store", ".gcloud", ".mozilla", ".oci"),
        *(".1password", ".aliyun", ".cargo", ".chef", ".databricks", ".electrum", ".fly", ".huggingface", ".kaggle"),
        *(".keychain", ".m2", ".minikube", ".pki", ".pulumi", ".step", ".subversion", ".terraform.d", ".thunderbird"),
        *(".vagrant.d", ".cursor-server", ".vscode-server", ".vscode-server-insiders", ".windsurf-server"),
    }
)
_SECRET_BELOW = {
    ".config": frozenset(
        {
            *("gcloud", "gh", "gopass", "google-chrome", "chromium", "op", "rclone", "systemd", "autostart"),
            *("1password", "age", "bravesoftware", "configstore", "containers", "doctl", "environment.d", "fish"),
            *("git", "github-copilot", "glab-cli", "hcloud", "helm", "microsoft-edge", "mozilla", "ngrok", "nushell"),
            *("plasma-workspace", "scw", "sops", "stripe", "vivaldi", "zsh"),
        }
    ),
    ".local": frozenset(
        {"bin", *(f"share/{name}" for name in ("applications", "dbus-1", "gopass", "keyrings", "kwalletd", "systemd"))}
    ),
    "library": frozenset({"application support", "keychains", "launchagents"}),
}
"""Folders of credentials, or of programs that the system or a shell starts by default, by parent folder in a home."""

_ABOVE_SECRETS = ("/.config", "/.local", "/.local/share")
"""Directories that are blocked although some directories below them are allowed."""


class BuiltInBlocks(msgspec.Struct, frozen=True):
    """The directories blocked whatever the settings say: `/`, system folders, credentials in any home, private folders.

    Paths are compared without regard to case, as some file systems do.

    Attributes:
        private: folders of clinvk and of the agents in the user's home.
        exceptions: directories below the private folders that agents may use.
        temporary: the machine's temporary folders, allowed even inside a system folder.
        defaults: the operator's default directories for agents; a request may also name them.
    """

    private: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()

    def refusal(self, path: str) -> str | None:
        """Return the reason why an agent may not use a directory, or None."""
        if path in self.defaults:
            return None
        folded = path.casefold()
        if folded in _ALONE:
            return "is never allowed: it has too much below it"
        if secret := _secret(folded):
            return f"is never allowed: {secret!r} may hold credentials, or programs that run by themselves"
        if (private := _containing_folded(folded, self.private)) and not containing(path, self.exceptions):
            return f"is never allowed: {private!r} is private to clinvk or an agent"
        if f"{folded}/".startswith(_BELOW_SYSTEM) and not self._is_exempt(path, folded):
            return f"is never allowed: {containing(folded, _SYSTEM)!r} is the system's"
        return None

    def _is_exempt(self, path: str, folded: str) -> bool:
        return bool(containing(folded, _NOT_SYSTEM) or containing(path, self.temporary))


class DirectoryLists(msgspec.Struct, frozen=True):
    """The lists in the settings: nothing outside `allowed` (empty: no limit), nothing inside `blocked`."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether the lists refuse any directory."""
        return bool(self.allowed or self.blocked)

    def refusal(self, path: str) -> str | None:
        """Return the reason why an agent may not use a directory, or None."""
        if forbidden := containing(path, self.blocked):
            return f"is in {forbidden!r}, which server.blocked_workdir_prefixes forbids"
        if self.allowed and not containing(path, self.allowed):
            return f"is in none of {', '.join(map(repr, self.allowed))} (server.allowed_workdir_prefixes)"
        return None


def containing(path: str, directories: Iterable[str]) -> str | None:
    """Return the first directory equal to or above the path: `/home/a` contains `/home/a/b`, but not `/home/ab`."""
    for above in directories:
        if path.startswith(above) and (above.endswith("/") or path[len(above) : len(above) + 1] in ("", "/")):
            return above
    return None


def _containing_folded(folded: str, directories: Iterable[str]) -> str | None:
    return next((above for above in directories if containing(folded, (above.casefold(),))), None)


def _secret(folded: str) -> str | None:
    names = folded.split("/")
    if found := _SECRET.intersection(names):
        return min(found)
    if folded.endswith(_ABOVE_SECRETS):
        return names[-1]
    for index, name in enumerate(names):
        if below := _SECRET_BELOW.get(name):
            for size in (1, 2):
                if (inner := "/".join(names[index + 1 : index + 1 + size])) in below:
                    return f"{name}/{inner}"
    return None
