"""Plug-ins: installed packages that add a backend by an entry point of the group `clinvk.backends`.

The entry point has the name of the backend, and names a subclass of `clinvk.plugin.Backend` that needs no arguments
(https://packaging.python.org/en/latest/specifications/entry-points/).
"""

from collections.abc import Collection, Iterator
from importlib.metadata import EntryPoint, distributions
from typing import NamedTuple, get_type_hints

import msgspec

from clinvk.backends.base import API_VERSION, Backend, Channel, Host, Launch
from clinvk.backends.registry import PRESETS
from clinvk.types.errors import BackendUnavailable
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from clinvk.types.text import BACKEND_NAME, BACKEND_NAME_RULE

GROUP = "clinvk.backends"


class BrokenPlugin(Backend):
    """A plug-in that cannot be used; `error` says why."""

    executable = install = ""

    def __init__(self, name: str, error: str) -> None:
        self.name = name
        self.error = error

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Raise BackendUnavailable."""
        raise BackendUnavailable(self.error)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Raise BackendUnavailable."""
        raise BackendUnavailable(self.error)


class PluginError(Exception):
    """A plug-in does not fulfil the interface; the message says what is wrong."""


class Plugin(NamedTuple):
    """An installed plug-in; `error` says why it cannot be loaded."""

    entry_point: EntryPoint
    error: str = ""

    def backend(self, name: str) -> Backend:
        """Import the plug-in, and return its backend."""
        try:
            return self._load()
        except (Exception, SystemExit) as exc:  # noqa: BLE001  # the code of other people fails in any way
            why = str(exc) if isinstance(exc, PluginError) else f"{type(exc).__name__}: {exc}"
            return BrokenPlugin(name, f"the plug-in {self.entry_point.name!r} of {self.source} cannot be used: {why}")

    @property
    def source(self) -> str:
        """The name of the package, with its version."""
        package = self.entry_point.dist
        return f"{package.name} {package.version}" if package else "an unknown package"

    def _load(self) -> Backend:
        if self.error:
            raise PluginError(self.error)
        kind = self.entry_point.load()
        if not (isinstance(kind, type) and Backend in kind.__mro__):
            raise PluginError(f"{self.entry_point.value} is not a subclass of clinvk.plugin.Backend")
        if (version := getattr(kind, "api_version", None)) != API_VERSION:
            raise PluginError(f"its api_version is {version}, and this clinvk supports version {API_VERSION} only")
        backend: Backend = kind()
        if wrong := wrong_attribute(backend):
            raise PluginError(wrong)
        if backend.name != self.entry_point.name:
            raise PluginError(f"its backend is named {backend.name!r}")
        backend.checkup(Host())  # the start of a server and doctor need it
        if backend.claims_model(""):
            raise PluginError("it claims every model")
        return backend


def wrong_attribute(backend: Backend) -> str:
    """Return what is wrong with an attribute of a backend; empty if all attributes have the right types."""
    for name, type_ in get_type_hints(Backend).items():
        try:
            msgspec.convert(getattr(backend, name, None), type_)
        except msgspec.ValidationError as exc:
            return f"its attribute {name} is wrong: {exc}"
    return ""


def _entry_points() -> Iterator[EntryPoint]:
    """Yield the entry points of plug-ins, except those of packages whose metadata cannot be read."""
    names: set[str] = set()
    for package in distributions():
        try:
            found = package.entry_points.select(group=GROUP)
        except (OSError, TypeError, ValueError):
            continue
        if found and package.name not in names:  # the first folder of sys.path wins
            names.add(package.name)
            yield from found


def installed(taken: Collection[str]) -> dict[str, Plugin]:
    """Return the installed plug-ins by the names of their backends; `taken` are the names of other backends.

    A plug-in whose name is taken is not loaded, and is listed as `PACKAGE:NAME`.
    """
    found: dict[str, Plugin] = {}
    plugins = [Plugin(each) for each in _entry_points()]
    for plugin in sorted(plugins, key=lambda each: (each.entry_point.name, each.source)):
        name = plugin.entry_point.name
        if not BACKEND_NAME.fullmatch(name):
            found[name] = plugin._replace(error=f"the name of a backend must be {BACKEND_NAME_RULE}")
        elif name in taken or name in PRESETS or name in found:
            found[f"{plugin.source.partition(' ')[0]}:{name}"] = plugin._replace(error="the name is taken")
        else:
            found[name] = plugin
    return found
