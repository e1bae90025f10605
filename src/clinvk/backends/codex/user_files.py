"""The user's files that Codex reads: `config.toml` for the sandbox, and the project's `AGENTS.md`.

clinvk reads `config.toml` and never writes it. Codex omits `AGENTS.md` for a project marked as untrusted, and clinvk
uses the mark to disable the project's `.codex`. The text of `AGENTS.md` is for the model and weakens no restriction.
This module finds, cuts and frames the text as Codex 0.163.0 to 0.171.0 do for an unmarked project.

A thread keeps the developer instructions from its start. If Codex had read the file itself, Codex informs the model in
a marked turn that "the previously provided AGENTS.md instructions no longer apply".
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

import msgspec

from clinvk.backends.base import Host

_SYSTEM_CONFIG = "/etc/codex/config.toml"


class ConfigUnreadable(Exception):
    """The settings cannot be found or read; the message says why."""


class _Project(msgspec.Struct):
    trust_level: str = ""


class _Provider(msgspec.Struct):
    env_key: str = ""
    requires_openai_auth: bool = False


class CodexConfig(msgspec.Struct):
    """The tables and values of one settings file, or of several merged files."""

    mcp_servers: dict[str, object] = {}
    features: dict[str, object] = {}
    otel: dict[str, object] = {}
    projects: dict[str, _Project] = {}
    sandbox_workspace_write: dict[str, object] = {}
    model_providers: dict[str, _Provider] = {}
    model_provider: str = ""
    sandbox_mode: object = None
    default_permissions: object = None
    developer_instructions: str | None = None
    project_doc_max_bytes: int | None = None
    project_doc_fallback_filenames: list[str] | None = None
    project_root_markers: list[str] | None = None

    @property
    def names_a_sandbox(self) -> bool:
        """Whether the settings choose the sandbox, which applies if no flag does."""
        return self.sandbox_mode is not None or self.default_permissions is not None

    def trust(self, places: Iterable[str]) -> str:
        """Return the trust level of the first directory that has a trust level, or "" if none has."""
        levels = (self.projects.get(place, _Project()).trust_level for place in places)
        return next((level for level in levels if level), "")

    def untrusted(self, places: Iterable[str]) -> list[str]:
        """Return the directories that the user does not trust."""
        return [place for place in places if self.projects.get(place, _Project()).trust_level != "trusted"]


def read(host: Host, workdir: str) -> CodexConfig:
    """Read the machine's settings and merge the user's settings over them.

    Raises:
        Unreadable: A file is invalid, or the environment does not locate the user's file.
    """
    if not host.env.get("CODEX_HOME") and not host.env.get("HOME"):
        raise ConfigUnreadable("neither CODEX_HOME nor HOME is in the agent's environment")
    machine, user = load(host, _SYSTEM_CONFIG), load(host, f"{folder(host, workdir)}/config.toml")
    merged = msgspec.structs.asdict(machine)
    for name, value in msgspec.structs.asdict(user).items():
        if isinstance(value, dict):
            merged[name].update(value)
        elif value is not None:
            merged[name] = value
    return CodexConfig(**merged)


def folder(host: Host, workdir: str) -> str:
    """Return the user's Codex folder."""
    home = host.env.get("CODEX_HOME")
    return str(PurePath(workdir) / home) if home else "~/.codex"


def load(host: Host, path: str) -> CodexConfig:
    """Read one settings file; a missing file has no settings.

    Raises:
        Unreadable: the file is invalid.
    """
    data = host.read(path)
    if not data:
        return CodexConfig()
    import tomllib  # the import dominates the cost of starting Codex, and many users have no such file

    try:
        return msgspec.convert(tomllib.loads(data.decode()), CodexConfig)
    except (ValueError, msgspec.ValidationError) as exc:
        raise ConfigUnreadable(f"{path} is not valid: {exc}") from exc


def rollouts(host: Host, workdir: str, thread: str) -> Sequence[str]:
    """Return the paths of the files in which Codex records a thread."""
    return host.find(f"{folder(host, workdir)}/sessions", f"*/*/*/rollout-*{thread}.jsonl")


INSTRUCTIONS = ("AGENTS.override.md", "AGENTS.md")
"""The names of instruction files. In each directory, Codex reads the first file that exists."""

_MAX_BYTES = 32 * 1024
_FRAME = "# AGENTS.md instructions for "
_RETRACTED = b"AGENTS.md instructions no longer apply"
_SEARCHED_BYTES = 4 * 1024 * 1024
_FIT_IN_AN_ARGUMENT = 60_000
"""A size in bytes that fits into an argument even if every byte doubles as TOML."""


def project_instructions(host: Host, settings: CodexConfig, workdir: PurePath) -> str:
    """Return the instructions from the project root down to the working directory; "" if there are no files."""
    most = _MAX_BYTES if settings.project_doc_max_bytes is None else settings.project_doc_max_bytes
    left = min(most, _FIT_IN_AN_ARGUMENT)
    texts: list[str] = []
    top = root(host, settings.project_root_markers, workdir) or workdir
    for place in (place for place in reversed((workdir, *workdir.parents)) if place.is_relative_to(top)):
        data = _first(host, place, (*INSTRUCTIONS, *(settings.project_doc_fallback_filenames or ())), left)
        text = data.decode(errors="replace")
        if text.strip():
            texts.append(text)
            left -= len(data)
    joined = "\n\n".join(texts)
    return f"{_FRAME}{workdir}\n\n<INSTRUCTIONS>\n{joined}\n</INSTRUCTIONS>" if texts else ""


def knows_instructions(host: Host, workdir: str, thread: str, instructions: str) -> bool:
    """Return whether a thread has the instructions as developer instructions that Codex has not retracted."""
    text = msgspec.json.encode(instructions.partition("<INSTRUCTIONS>\n")[2].removesuffix("\n</INSTRUCTIONS>"))[1:-1]
    found = rollouts(host, workdir, thread)
    lines = (host.read_range(found[0], 0, _SEARCHED_BYTES) or b"").splitlines() if found else []
    ours = any(b'"role":"developer"' in line and _FRAME.encode() in line for line in lines)
    return ours and not any(b'"role":"user"' in line and (text in line or _RETRACTED in line) for line in lines)


def root(host: Host, markers: list[str] | None, workdir: PurePath) -> PurePath | None:
    """Return the nearest directory that contains a marker, by default `.git`."""
    names = [name for name in ([".git"] if markers is None else markers) if name and not name.startswith("/")]
    places = (workdir, *workdir.parents)
    return next((place for place in places if any(host.find(str(place), name) for name in names)), None)


def _first(host: Host, place: PurePath, names: tuple[str, ...], size: int) -> bytes:
    """Return the beginning of the first file that exists, even if the file is blank."""
    found = (host.read_range(str(place / name), 0, size) for name in names) if size > 0 else iter(())
    return next((data for data in found if data is not None), b"")
