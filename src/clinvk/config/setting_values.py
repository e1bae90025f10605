"""Settings by name: dotted keys, sources of values, and checks of values against types."""

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args, get_origin

import msgspec
from msgspec import inspect

from clinvk.config.model import BackendSettings, Settings
from clinvk.types.allowed_values import allowed_values, options
from clinvk.types.errors import ConfigError
from clinvk.types.text import BACKEND_NAME, BACKEND_NAME_RULE, nearest

Value = bool | int | float | str | tuple[str, ...] | dict[str, str] | None
"""The value of a setting; a dict is an empty section."""


class SourcedValue(NamedTuple):
    """A value and the source that has the value.

    Attributes:
        keys: from the top down, e.g. `("server", "port")`.
        value: None is a key without a value, which changes nothing.
        place: `FILE:LINE`, the variable, or the flag.
        written: the value as text, for messages.
        is_text: whether the source has no types (the environment), so `value` is parsed as the type of the key.
    """

    keys: tuple[str, ...]
    value: object
    place: str
    written: str
    is_text: bool = False

    @property
    def where(self) -> str:
        """The key and the value, for a message."""
        return f"{'.'.join(self.keys)} = {self.shown!r}"

    @property
    def shown(self) -> str:
        """The value without the login of an address."""
        return _LOGIN.sub(r"\1********\2", self.written)


_LOGIN = re.compile(r"(://)\S*(@)|(?<=password=)[^&\s]+")


OnInvalid = Callable[[ConfigError], None]
"""Callback for each error. Reading continues if the callback returns."""


def raise_invalid(error: ConfigError) -> None:
    """Raise the first error."""
    raise error


def ignore_invalid(error: ConfigError) -> None:
    """Ignore an error, and read on."""


_BACKENDS = dict[str, BackendSettings]
DEFINING = frozenset(("acp", "command"))
"""The keys that define a backend. Their text is split into words like a command line."""

_LISTED = 12
"""The number of names that an error lists; of more names the error has only the nearest."""


def split(dotted: str) -> tuple[str, ...]:
    """Split a dotted key. The name of an agent's variable may contain dots."""
    parts = tuple(dotted.split(".", 3))
    return parts if is_agent_variable(parts) else tuple(dotted.split("."))


def is_agent_variable(keys: tuple[str, ...]) -> bool:
    """Return whether keys name a variable of an agent: `backends.<name>.env.<variable>`."""
    return len(keys) == 4 and (keys[0], keys[2]) == ("backends", "env")


def is_definition(keys: tuple[str, ...]) -> bool:
    """Return whether keys name a key that defines a backend: `backends.<name>.acp`."""
    return len(keys) == 3 and keys[0] == "backends" and keys[2] in DEFINING


def kind_of(entry: SourcedValue, backends: Collection[str]) -> object:
    """Return the type of the key in `Settings`.

    Raises:
        ConfigError: there is no such key; names the nearest.
    """
    kind: object = Settings
    for depth, key in enumerate(entry.keys):
        if kind == _BACKENDS and key in backends:  # the list of all backends takes longer
            kind = BackendSettings
            continue
        names = members(kind, backends)
        if key in names:
            kind = names[key]
        elif kind == _BACKENDS and is_definition(entry.keys):
            if not BACKEND_NAME.fullmatch(key):
                what = f"the name of a backend must be {BACKEND_NAME_RULE}"
                raise ConfigError(f"{entry.place}: {'.'.join(entry.keys)}: {what}")
            kind = BackendSettings
        elif names:
            what = "backend" if kind == _BACKENDS else "key"
            raise unknown_key(entry, f"unknown {what} {'.'.join(entry.keys[: depth + 1])!r}", key, names)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            above = ".".join(entry.keys[:depth])
            raise ConfigError(f"{entry.place}: {above} has no key {key!r}; it must be {allowed(kind)}")
    return kind


def members(kind: object, backends: Collection[str]) -> Mapping[str, object]:
    """Return the keys of a section with their types, in order; none if the names are free, or if it is no section."""
    if kind == _BACKENDS:
        return dict.fromkeys(backends, BackendSettings)
    return _fields(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else {}


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def is_section(kind: object) -> bool:
    """Return whether a type is a section, which has keys."""
    return get_origin(kind) is dict or bool(members(kind, ()))


def is_list(kind: object) -> bool:
    """Return whether a type takes several texts."""
    return get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))


def all_keys(
    backends: Collection[str], above: tuple[str, ...] = (), kind: object = Settings
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every key below a section with its type; the variables of agents, whose names are free, as one section."""
    names = members(kind, backends)
    for name, inner in names.items():
        yield from all_keys(backends, (*above, name), inner)
    if not names:
        yield above, kind


SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|cookie|header|bearer", re.IGNORECASE)
"""Names of settings, variables and flags whose values are not printed."""


def unknown_key(entry: SourcedValue, what: str, name: str, among: Collection[str]) -> ConfigError:
    """Return the error for an unknown name, with the nearest name and the allowed names."""
    near = nearest(name.lower(), among)
    hints = [f"did you mean {near!r}?"] if near else []
    hints += [] if near and len(among) > _LISTED else [f"allowed: {', '.join(among)}"]
    is_hidden = entry.value is None or "=" in what or SECRET_NAME.search(".".join(entry.keys))
    value = "" if is_hidden else f" (= {entry.shown!r})"
    place = f"{entry.place}: " if entry.place else ""
    return ConfigError(f"{place}{what}{value}; {' '.join(hints)}")


def allowed_words(kind: object) -> tuple[str, ...]:
    """Return the words that a type allows; none if the type allows no words."""
    words: list[str] = []
    for option in options(inspect.type_info(kind)):
        if isinstance(option, inspect.LiteralType):
            words += map(str, option.values)
        elif isinstance(option, inspect.BoolType):
            words += ("true", "false")
    return tuple(words)


def allowed(kind: object) -> str:
    """Describe the values of a type in words."""
    words = allowed_values(options(inspect.type_info(kind)))
    quotes = " (a number or a yes/no word needs quotes)" if kind is str else ""
    return words + quotes + (", or empty" if type(None) in get_args(kind) else "")


_PATHS = frozenset({"executable", "default_workdir", "allowed_workdir_prefixes", "blocked_workdir_prefixes"})
_RELATIVE_OK = frozenset({"executable"})
_OF_BACKENDS = {("default_backend",), ("policy", "allowed_backends"), ("warm", "kept_backends"), ("warm", "prestart")}
_VARIABLES = re.compile(r"[\w.\-%()*?\[\]!]+")
"""Names and patterns of variables."""

_YES_NO = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
"""The words of a variable for true and false: 1, 0, and those that YAML has."""


def checked_values(
    entry: SourcedValue, backends: Collection[str], environ: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield key and value, ready for `Settings`; several for a section that a variable has as JSON.

    Raises:
        ConfigError: an unknown key or a wrong value; names its place, the key, the value and what is allowed.
    """
    kind = kind_of(entry, backends)
    if entry.value is None:
        return
    if is_section(kind):
        for inner in _section_entries(entry):
            yield from checked_values(inner, backends, environ)
        return
    value = _paths(entry, converted(entry, kind), environ)
    _check(entry, value, backends)
    yield entry.keys, value


def _check(entry: SourcedValue, value: object, backends: Collection[str]) -> None:
    """Refuse a value of the right type that cannot be meant."""
    wrong = ""
    name = entry.keys[-1]
    if is_agent_variable(entry.keys) and (name == "" or "=" in name or "\0" in f"{name}{value}"):
        wrong = "must be a variable: a name without '=', and no NUL character"
    if entry.keys == ("server", "host") and not str(value).strip():
        wrong = "must be an address or a name, such as 127.0.0.1, or 0.0.0.0 for every one"
    if entry.keys[:2] == ("approvals", "rules") and name == "command":
        from clinvk.policy.approval_rules import is_command  # an import that few settings need

        if value and not is_command(str(value)):
            wrong = "must be the first words of one simple command, without variables and operators"
    if wrong:
        raise ConfigError(f"{entry.place}: {entry.where}: {wrong}")
    items = msgspec.convert(value, tuple[str, ...]) if isinstance(value, tuple) else (str(value),)
    for item in items:
        is_fallback = entry.keys[0] == "backends" and name == "fallback"
        backend = item.partition("/")[0] if is_fallback else item
        if (is_fallback or entry.keys in _OF_BACKENDS) and backend not in backends:
            raise unknown_key(entry, f"{'.'.join(entry.keys)} = {item!r}", backend, backends)
        if is_fallback and item == entry.keys[1]:
            raise ConfigError(
                f"{entry.place}: {'.'.join(entry.keys)}: {item} cannot replace itself; name another agent"
            )
        if entry.keys == ("agents", "env_allow") and not _VARIABLES.fullmatch(item):
            raise ConfigError(
                f"{entry.place}: {'.'.join(entry.keys)} = {item!r}: must be names of variables, each an item of its "
                "own, in which * stands for any text"
            )


def _section_entries(entry: SourcedValue) -> Iterator[SourcedValue]:
    """Yield the entries of a section that a variable has as a JSON object."""
    try:
        text = entry.written if entry.is_text else ""
        content = msgspec.convert(entry.value if text == "" else msgspec.json.decode(text), dict[str, object])
    except msgspec.MsgspecError:
        raise ConfigError(f"{entry.place}: {entry.where}: must be a section, keys with values") from None
    for key, value in content.items():
        yield SourcedValue((*entry.keys, key), value, entry.place, str(value))


def converted(entry: SourcedValue, kind: object) -> object:
    """Convert the value to the type of its key.

    Raises:
        ConfigError: the value is not of this type.
    """
    value = entry.value
    if value == "" and type(None) in get_args(kind):
        return None
    if entry.keys[-1] == "allowed_tools" and isinstance(value, str) and not value.startswith("["):
        return None if value == "all" else split_list([value])
    if is_definition(entry.keys) and isinstance(value, str) and value[:1] != "[":
        value = _words_of_command(entry, value)
    elif is_list(kind) and entry.is_text and isinstance(value, str):
        value = _listed(entry, value)
    if entry.is_text and (kind is bool or bool in get_args(kind)):
        value = _YES_NO.get(entry.written.lower(), value)
    try:
        return msgspec.convert(value, kind, strict=not entry.is_text)
    except msgspec.ValidationError:
        raise ConfigError(f"{entry.place}: {entry.where}: must be {allowed(kind)}") from None


def _words_of_command(entry: SourcedValue, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise ConfigError(f"{entry.place}: {entry.where}: must be a command line: {exc}") from None


def _listed(entry: SourcedValue, text: str) -> Sequence[str]:
    """Parse a list on one line: `a,b`, or `[a, "b, c"]`, whose items are texts even if they look like numbers."""
    if not text.startswith("["):
        return split_list([text])
    import yaml  # most variables are no such lists

    with suppress(yaml.YAMLError):
        node = yaml.SafeLoader(text).get_single_node()
        if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
            return [str(item.value) for item in node.value]
    raise ConfigError(f"{entry.place}: {entry.where}: must be texts with commas, or [a, b] where an item has a comma")


def split_list(texts: Sequence[str]) -> tuple[str, ...]:
    """Split at commas, except inside parentheses: `Bash(git log,git diff),Read` are two tools."""
    names: list[str] = []
    for text in texts:
        depth, start = 0, 0
        for at, char in enumerate(f"{text},"):
            depth += (char == "(") - (char == ")")
            if char == "," and depth <= 0:
                names.append(text[start:at].strip())
                start = at + 1
        names.append(text[start:].strip())
    return tuple(name for name in names if name)


def _paths(entry: SourcedValue, value: object, environ: Mapping[str, str]) -> object:
    """Expand a leading `~` of paths; refuse relative paths, which depend on the current directory."""
    if entry.keys[-1] not in _PATHS or is_agent_variable(entry.keys):
        return value
    if isinstance(value, tuple):
        return tuple(_paths(entry, item, environ) for item in msgspec.convert(value, tuple[str, ...]))
    path = expand_home(str(value), environ)
    if path and not path.startswith("/") and entry.keys[-1] not in _RELATIVE_OK:
        raise ConfigError(f"{entry.place}: {entry.where}: must be an absolute path")
    return path


def expand_home(path: str, environ: Mapping[str, str]) -> str:
    """Expand a leading `~` like a shell; services and files have no shell."""
    return str(user_home(environ)) + path[1:] if path == "~" or path.startswith("~/") else path


def user_home(environ: Mapping[str, str]) -> Path:
    """Return the home directory of the user.

    Raises:
        ConfigError: the user has no home directory.
    """
    if named := environ.get("HOME"):
        return Path(named).absolute()
    if named is None:  # an empty one would be taken for the root
        with suppress(RuntimeError):
            return Path.home()
    raise ConfigError("there is no home directory; set HOME or CLINVK_HOME")
