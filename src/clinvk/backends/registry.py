"""The registry of agent CLIs: built in, defined in the settings, and from plug-ins; and the agents that speak ACP."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clinvk.types.errors import BackendUnavailable, ModelNotFound
from clinvk.types.text import unknown_name

if TYPE_CHECKING:
    from clinvk.backends.base import Backend
    from clinvk.backends.plugins import Plugin


class Preset(NamedTuple):
    """The command line of an agent, its installation command, its login instructions, and the folders of its data."""

    argv: tuple[str, ...]
    install: str
    login: str
    folders: tuple[str, ...]


PRESETS = {
    "auggie": Preset(("auggie", "--acp"), "npm install -g @augmentcode/auggie", "auggie login", ("~/.augment",)),
    "cline": Preset(("cline", "--acp"), "npm install -g cline", "cline auth", ("~/.cline",)),
    "copilot": Preset(
        ("copilot", "--acp", "--stdio"), "npm install -g @github/copilot", "copilot login", ("~/.copilot",)
    ),
    "cursor": Preset(
        ("cursor-agent", "acp"), "see https://cursor.com/cli", "cursor-agent login", ("~/.cursor", "~/.config/cursor")
    ),
    "goose": Preset(
        ("goose", "acp"),
        "see https://block.github.io/goose",
        "goose configure",
        ("~/.config/goose", "~/.local/share/goose", "~/.local/state/goose"),
    ),
    "grok": Preset(("grok", "agent", "stdio"), "npm install -g @xai-official/grok", "grok login", ("~/.grok",)),
    "junie": Preset(("junie", "--acp=true"), "see https://junie.jetbrains.com", "junie", ("~/.junie",)),
    "kimi": Preset(("kimi", "acp"), "uv tool install kimi-cli", "kimi login", ("~/.kimi",)),
    "kiro": Preset(
        ("kiro-cli", "acp"), "see https://kiro.dev/cli", "kiro-cli login", ("~/.kiro", "~/.local/share/kiro-cli")
    ),
    "opencode": Preset(
        ("opencode", "acp"),
        "npm install -g opencode-ai",
        "opencode auth login",
        ("~/.config/opencode", "~/.local/share/opencode", "~/.local/state/opencode", "~/.cache/opencode"),
    ),
    "openhands": Preset(("openhands", "acp"), "uv tool install openhands", "openhands login", ("~/.openhands",)),
    "qwen": Preset(("qwen", "--acp"), "npm install -g @qwen-code/qwen-code", "qwen auth", ("~/.qwen",)),
    "vibe": Preset(("vibe-acp",), "uv tool install mistral-vibe", "vibe --setup", ("~/.vibe",)),
}


def enabling_command(name: str) -> str:
    """Return the command that adds the agent of a preset to the settings."""
    return f"clinvk config set backends.{name}.acp {shlex.quote(shlex.join(PRESETS[name].argv))}"


class Definition(NamedTuple):
    """A backend of the settings: the argv of an ACP agent, or of a program that prints text.

    Without either, the definition is that of the preset with the name of the backend.
    """

    acp: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class _Registry(Mapping[str, "Backend"]):
    """Backends by name, each imported at its first use: most commands of the command line need the names only.

    The search for plug-ins takes milliseconds, so it waits for an undefined name, or for the list of all names.
    """

    def __init__(self, definitions: Mapping[str, str | Definition]) -> None:
        self._definitions = definitions
        self._backends: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> "Backend":
        if name not in self._backends:
            definition = self._definitions.get(name)
            self._backends[name] = _backend(name, definition) if definition else self._plugins[name].backend(name)
        return self._backends[name]

    def __contains__(self, name: object) -> bool:
        return name in self._definitions or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        yield from self._definitions
        yield from self._plugins

    def __len__(self) -> int:
        return len(self._definitions) + len(self._plugins)

    @cached_property
    def _plugins(self) -> "Mapping[str, Plugin]":
        if not _has_plugins():
            return {}
        from clinvk.backends import plugins

        return plugins.installed(self._definitions)


def _has_plugins() -> bool:
    """Return whether a package may have a plug-in. The imports for a proper search take 3 MB of memory."""
    for folder in sys.path:
        for file in Path(folder).glob("*-info/entry_points.txt"):
            with suppress(OSError):
                if b"[clinvk.backends]" in file.read_bytes():
                    return True
    return False


def _backend(name: str, definition: str | Definition) -> "Backend":
    if isinstance(definition, str):
        return getattr(import_module(f"clinvk.backends.{name}"), definition)()
    if definition.command:
        from clinvk.backends.text import TextBackend

        return TextBackend(name, definition.command)
    from clinvk.backends.acp import AcpBackend

    return AcpBackend(name, definition.acp, definition.folders)


Backends = Mapping[str, "Backend"]

BUILT_IN = {"claude": "Claude", "codex": "Codex", "gemini": "Gemini"}
"""The classes of the backends that are built in; the module of a backend has its name."""

BACKENDS: Backends = _Registry(BUILT_IN)
"""The backends that are built in, and those of plug-ins."""


def with_definitions(definitions: Mapping[str, Definition]) -> Backends:
    """Return the built-in backends, those of the settings, and those of plug-ins."""
    return _Registry({**BUILT_IN, **definitions})


KEPT_BY_DEFAULT = ("claude", "codex")
"""The backends whose processes a server keeps unless the settings say otherwise: a kept process of Gemini CLI reports
less than a process of one prompt.
"""

_ASKING = {"claude": ("default", "full"), "codex": ("default",), "gemini": ()}
"""The sandbox modes in which the approval mode `ask` differs from `default` only in its questions.

Codex asks about nothing with `default` and `full`, but about each command with `ask`. Gemini CLI cannot continue every
conversation that asks.
"""


def can_ask(name: str, sandbox_mode: str | None, is_acp: bool) -> bool:
    """Return whether a backend can ask about the actions that the approval mode `default` denies; imports nothing."""
    others = ("default", "full") if is_acp or name in PRESETS else ()
    return (sandbox_mode or "default") in _ASKING.get(name, others)


def backend_named(name: str, registry: Backends) -> "Backend":
    """Return the backend with this name.

    Raises:
        BackendUnavailable: no backend has this name.
    """
    if name in registry:
        return registry[name]
    raise BackendUnavailable(unknown_backend(name, registry))


def unknown_backend(name: str, registry: Backends) -> str:
    """Return the message for a name that no backend has; for an agent that clinvk knows, with the enabling command."""
    if name in PRESETS:
        return f"backend {name!r} is not in the settings; to enable it: {enabling_command(name)}"
    if ">" in name:
        return f"unknown backend {name!r}; the agents after > belong in --fallback, or in fallback over REST"
    return unknown_name("backend", name, registry)


def resolve_model(model: str, default: str, registry: Backends) -> tuple[str, str | None]:
    """Return the backend for a model name and the model to request, or None for the backend's default model.

    `claude` names a backend, `claude/opus` a model of a backend, and `opus` or `gpt-5.5` a model that a backend claims.
    Any other name selects the `default` backend and its default model, because clients send names of foreign models.
    What follows a `>` is the fallback.

    Raises:
        ModelNotFound: the name before the slash is not a backend.
    """
    model = model.partition(">")[0].strip()
    owner, slash, name = model.partition("/")
    if owner in registry:
        return owner, name or None
    if slash:
        raise ModelNotFound(f"unknown model {model!r:.100}: {unknown_name('backend', owner, registry)}")
    claimed = next((backend.name for backend in registry.values() if backend.claims_model(model)), None)
    return (claimed, model) if claimed else (default, None)
