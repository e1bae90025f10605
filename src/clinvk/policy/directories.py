"""The directories that an agent is let into: by the lists of the settings, and never into some.

All paths are handed in absolute and free of symbolic links. Whoever calls resolves them, and lets the agent into the
resolved path, so that what was judged is what is used.
"""

from collections.abc import Iterable

import msgspec

_ALONE = frozenset({"/", "/home", "/users", "/var", "/var/lib", "/private", "/private/var"})
"""Directories that everything or everybody is below; what is below them is judged by itself."""

_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found", "/proc", "/run", "/sbin"),
    *("/snap", "/sys", "/usr", "/var/backups", "/var/cache", "/var/db", "/var/log", "/var/mail", "/var/root"),
    *("/var/run", "/var/spool", "/library", "/system", "/private/etc", "/private/var/db", "/private/var/log"),
    *("/private/var/root", "/private/var/run"),
)
_BELOW_SYSTEM = tuple(f"{path}/" for path in _SYSTEM)
_NOT_SYSTEM = ("/run/media", "/usr/local/src", "/usr/src")
"""Where people keep their own in a folder of the system: disks that are plugged in, and sources in containers."""

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
"""Folders of credentials, or of programs that the system or a shell runs by itself, by where in a home they are."""

_ABOVE_SECRETS = ("/.config", "/.local", "/.local/share")
"""What is below these is judged by itself."""


class BuiltIn(msgspec.Struct, frozen=True):
    """What is blocked whatever the settings say: `/`, system folders, credentials in any home, and what is private.

    Letters count the same in both cases, as some file systems have it.

    Attributes:
        private: folders of clinvk and of the agents in the user's home.
        kept: what agents may be let into below those.
        temporary: the machine's temporary folder, also where it is in a system folder.
        own: where the operator lets agents work when a request names nothing; to name it is no more.
    """

    private: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def refusal(self, path: str) -> str | None:
        """Say why an agent may not be let into a directory; None if it may."""
        if path in self.own:
            return None
        folded = path.casefold()
        if folded in _ALONE:
            return "is never allowed: it has too much below it"
        if secret := _secret(folded):
            return f"is never allowed: {secret!r} may hold credentials, or programs that run by themselves"
        if (private := _containing_folded(folded, self.private)) and not containing(path, self.kept):
            return f"is never allowed: {private!r} is private to clinvk or an agent"
        if f"{folded}/".startswith(_BELOW_SYSTEM) and not self._is_fine(path, folded):
            return f"is never allowed: {containing(folded, _SYSTEM)!r} is the system's"
        return None

    def refusal_throughout(self, path: str) -> str | None:
        """Say why an agent may be let neither into a directory nor below it; None if it may somewhere."""
        fine = (*_NOT_SYSTEM, *self.kept, *self.temporary, *self.own)
        return None if path.casefold() in _ALONE or _any_in(path, fine) else self.refusal(path)

    def _is_fine(self, path: str, folded: str) -> bool:
        return bool(containing(folded, _NOT_SYSTEM) or containing(path, self.temporary))


class Directories(msgspec.Struct, frozen=True):
    """The lists of the settings: nothing outside `allowed` (empty is no limit), nothing inside `blocked`."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Say whether anything is refused at all."""
        return bool(self.allowed or self.blocked)

    def refusal(self, path: str) -> str | None:
        """Say why an agent may not be let into a directory; None if it may."""
        if forbidden := containing(path, self.blocked):
            return f"is in {forbidden!r}, which server.blocked_workdir_prefixes forbids"
        if self.allowed and not containing(path, self.allowed):
            return f"is in none of {', '.join(map(repr, self.allowed))} (server.allowed_workdir_prefixes)"
        return None

    def refusal_throughout(self, path: str) -> str | None:
        """Say why an agent may be let neither into a directory nor below it; None if it may somewhere."""
        return None if _any_in(path, self.allowed) and not containing(path, self.blocked) else self.refusal(path)


def containing(path: str, directories: Iterable[str]) -> str | None:
    """Give the first directory that is the path or above it: `/home/a` holds `/home/a/b`, but not `/home/ab`."""
    for above in directories:
        if path.startswith(above) and (above.endswith("/") or path[len(above) : len(above) + 1] in ("", "/")):
            return above
    return None


def _any_in(path: str, directories: Iterable[str]) -> bool:
    return any(containing(directory, (path,)) for directory in directories)


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
