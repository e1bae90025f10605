"""What the user's own settings of Codex say that matters to its sandbox: `config.toml`, read and never written."""

from collections.abc import Iterable
from pathlib import PurePath

import msgspec

from clinvk.backends.base import Host

_SYSTEM_CONFIG = "/etc/codex/config.toml"


class Unreadable(Exception):
    """The settings cannot be found or read; the message says why."""


class _Project(msgspec.Struct):
    trust_level: str = ""


class Settings(msgspec.Struct):
    """The tables and values of one file, or of all together."""

    mcp_servers: dict[str, object] = {}
    projects: dict[str, _Project] = {}
    sandbox_mode: object = None
    default_permissions: object = None

    @property
    def names_a_sandbox(self) -> bool:
        """The sandbox is chosen here, where no flag does."""
        return self.sandbox_mode is not None or self.default_permissions is not None

    def untrusted(self, places: Iterable[str]) -> list[str]:
        """Give those of the directories in which the user does not trust."""
        return [place for place in places if self.projects.get(place, _Project()).trust_level != "trusted"]


def read(host: Host, workdir: str) -> Settings:
    """Read the machine's settings, then the user's over them.

    Raises:
        Unreadable: one of the files is there but makes no sense, or nobody knows where the user's is.
    """
    home = host.env.get("CODEX_HOME")
    if not home and not host.env.get("HOME"):
        raise Unreadable("neither CODEX_HOME nor HOME is in the agent's environment")
    folder = str(PurePath(workdir) / home) if home else "~/.codex"
    machine, user = _file(host, _SYSTEM_CONFIG), _file(host, f"{folder}/config.toml")
    return Settings(
        mcp_servers={**machine.mcp_servers, **user.mcp_servers},
        projects={**machine.projects, **user.projects},
        sandbox_mode=machine.sandbox_mode if user.sandbox_mode is None else user.sandbox_mode,
        default_permissions=machine.default_permissions
        if user.default_permissions is None
        else user.default_permissions,
    )


def _file(host: Host, path: str) -> Settings:
    data = host.read(path)
    if not data:
        return Settings()
    import tomllib  # costs more than all else in starting Codex, and many have no such file

    try:
        return msgspec.convert(tomllib.loads(data.decode()), Settings)
    except (ValueError, msgspec.ValidationError) as exc:
        raise Unreadable(f"{path}: {exc}") from exc
