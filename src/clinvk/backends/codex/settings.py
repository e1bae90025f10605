"""What the user's own settings of Codex say that matters to its sandbox: `config.toml`, read and never written."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import TypeVar

import msgspec

from clinvk.backends.base import Host

_SYSTEM_CONFIG = "/etc/codex/config.toml"


Value = TypeVar("Value")


class Unreadable(Exception):
    """The settings cannot be found or read; the message says why."""


class _Project(msgspec.Struct):
    trust_level: str = ""


class Settings(msgspec.Struct):
    """The tables and values of one file, or of all together."""

    mcp_servers: dict[str, object] = {}
    features: dict[str, object] = {}
    otel: dict[str, object] = {}
    projects: dict[str, _Project] = {}
    sandbox_mode: object = None
    default_permissions: object = None
    developer_instructions: str | None = None
    project_doc_max_bytes: int | None = None
    project_doc_fallback_filenames: list[str] | None = None
    project_root_markers: list[str] | None = None

    @property
    def names_a_sandbox(self) -> bool:
        """The sandbox is chosen here, where no flag does."""
        return self.sandbox_mode is not None or self.default_permissions is not None

    def trust(self, places: Iterable[str]) -> str:
        """Give the trust level of the first of the directories that has one; "" where none has."""
        levels = (self.projects.get(place, _Project()).trust_level for place in places)
        return next((level for level in levels if level), "")

    def untrusted(self, places: Iterable[str]) -> list[str]:
        """Give those of the directories in which the user does not trust."""
        return [place for place in places if self.projects.get(place, _Project()).trust_level != "trusted"]


def read(host: Host, workdir: str) -> Settings:
    """Read the machine's settings, then the user's over them.

    Raises:
        Unreadable: one of the files is there but makes no sense, or nobody knows where the user's is.
    """
    if not host.env.get("CODEX_HOME") and not host.env.get("HOME"):
        raise Unreadable("neither CODEX_HOME nor HOME is in the agent's environment")
    machine, user = _file(host, _SYSTEM_CONFIG), _file(host, f"{folder(host, workdir)}/config.toml")
    return Settings(
        mcp_servers={**machine.mcp_servers, **user.mcp_servers},
        features={**machine.features, **user.features},
        otel={**machine.otel, **user.otel},
        projects={**machine.projects, **user.projects},
        sandbox_mode=_either(user.sandbox_mode, machine.sandbox_mode),
        default_permissions=_either(user.default_permissions, machine.default_permissions),
        developer_instructions=_either(user.developer_instructions, machine.developer_instructions),
        project_doc_max_bytes=_either(user.project_doc_max_bytes, machine.project_doc_max_bytes),
        project_doc_fallback_filenames=_either(
            user.project_doc_fallback_filenames, machine.project_doc_fallback_filenames
        ),
        project_root_markers=_either(user.project_root_markers, machine.project_root_markers),
    )


def folder(host: Host, workdir: str) -> str:
    """Give the user's folder of Codex."""
    home = host.env.get("CODEX_HOME")
    return str(PurePath(workdir) / home) if home else "~/.codex"


def _either(users: Value | None, machines: Value | None) -> Value | None:
    return machines if users is None else users


def _file(host: Host, path: str) -> Settings:
    data = host.read(path)
    if not data:
        return Settings()
    import tomllib  # costs more than all else in starting Codex, and many have no such file

    try:
        return msgspec.convert(tomllib.loads(data.decode()), Settings)
    except (ValueError, msgspec.ValidationError) as exc:
        raise Unreadable(f"{path}: {exc}") from exc
