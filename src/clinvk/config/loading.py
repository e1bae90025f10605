"""Reading the settings: each source gives values with the place they stand at; each value is checked there."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple, get_args, get_origin

import msgspec
from msgspec import inspect

from clinvk.config import BackendSettings, Settings
from clinvk.errors import ConfigError

_PATHS = frozenset({"executable", "default_workdir", "allowed_workdir_prefixes", "blocked_workdir_prefixes"})
_RELATIVE_OK = frozenset({"executable"})


class Given(NamedTuple):
    """A value as a source gave it.

    Attributes:
        keys: from the top down, e.g. `("server", "port")`.
        value: None is a key without a value, which says nothing.
        place: where it stands: `FILE:LINE`, the variable or the flag.
        written: the value as its author wrote it.
        is_text: the source knows no types (the environment): `value` is to be read as the key's type.
    """

    keys: tuple[str, ...]
    value: object
    place: str
    written: str
    is_text: bool = False


def home(environ: Mapping[str, str]) -> Path:
    """Give the directory of clinvk's own files: `CLINVK_HOME`, else `~/.clinvk`.

    Raises:
        ConfigError: there is no home directory.
    """
    if moved := environ.get("CLINVK_HOME"):
        return Path(_opened_home(moved, environ)).absolute()
    return _user_home(environ) / ".clinvk"


def load(
    path: str | None, environ: Mapping[str, str], flags: Mapping[str, object], backends: Collection[str]
) -> Settings:
    """Read all sources into settings.

    Args:
        path: the file that `--config` names; None is `CLINVK_CONFIG`, else `config.yaml` in the home if it is there.
        environ: the environment.
        flags: values by dotted key, e.g. `{"server.port": 3000}`; they beat all others.
        backends: the names that exist.

    Raises:
        ConfigError: an unknown key or a wrong value; names its place, the key, the value and what is allowed.
    """
    found: dict[tuple[str, ...], object] = {}
    for given in chain(_file(path, environ), _environment(environ, backends), _flags(flags)):
        found.update(_checked(given, backends, environ))
    return msgspec.convert(_nested(found), Settings)


def _file(path: str | None, environ: Mapping[str, str]) -> Iterator[Given]:
    named = path or environ.get("CLINVK_CONFIG")
    file = Path(_opened_home(named, environ)) if named else home(environ) / "config.yaml"
    if not named and not _may_be_there(file):
        return
    # The reader of YAML is a third of the start-up of a prompt: without a file nobody pays for it.
    from clinvk.config.file import read

    yield from read(file)


def _may_be_there(file: Path) -> bool:
    """Say whether to read a file; one that cannot be looked at is read, so that the reader says why not."""
    try:
        return file.exists()
    except OSError:
        return True


def _environment(environ: Mapping[str, str], backends: Collection[str]) -> Iterator[Given]:
    """Give the short names first, so that `CLINVK_<SECTION>__<KEY>` beats them. An empty variable says nothing."""
    short = {
        "CLINVK_BACKEND": ("default_backend",),
        "CLINVK_API_KEYS_GOPASS_PATH": ("server", "api_keys_gopass_path"),
        **{f"CLINVK_{name.upper()}_MODEL": ("backends", name, "model") for name in backends},
    }
    long = {name: _keys(name) for name in sorted(environ) if name.startswith("CLINVK_") and "__" in name}
    for name, keys in {**short, **long}.items():
        if value := environ.get(name):
            yield Given(keys, value, name, value, is_text=True)


def _keys(variable: str) -> tuple[str, ...]:
    """Read `CLINVK_BACKENDS__CLAUDE__ENV__NAME` as keys: lower case, but for the name of an agent's variable."""
    parts = variable.removeprefix("CLINVK_").split("__", 3)
    lower = tuple(part.lower() for part in parts)
    return (*lower[:3], parts[3]) if lower[:1] == ("backends",) and lower[2:3] == ("env",) and len(parts) > 3 else lower


def _flags(flags: Mapping[str, object]) -> Iterator[Given]:
    for key, value in flags.items():
        yield Given(tuple(key.split(".")), value, "command line", str(value))


def _checked(
    given: Given, backends: Collection[str], environ: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Give key and value, ready for `Settings`; of a section that came in one piece, all of them."""
    kind = _kind(given, backends)
    if given.value is None:
        return
    if _is_section(kind):
        for inner in _opened(given):
            yield from _checked(inner, backends, environ)
        return
    value = _paths(given, _converted(given, kind), environ)
    if given.keys == ("default_backend",) and value not in backends:
        raise _unknown(given, f"default_backend = {value!r}", str(value), backends)
    yield given.keys, value


def _nested(found: dict[tuple[str, ...], object]) -> dict[str, object]:
    result: dict[str, object] = {}
    for head in {keys[0] for keys in found}:
        inner = {keys[1:]: value for keys, value in found.items() if keys[0] == head}
        result[head] = inner[()] if () in inner else _nested(inner)
    return result


def _kind(given: Given, backends: Collection[str]) -> object:
    """Give the type that the key has in `Settings`."""
    kind: object = Settings
    for depth, key in enumerate(given.keys):
        dotted = ".".join(given.keys[: depth + 1])
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields = _fields(kind)
            if key not in fields:
                raise _unknown(given, f"unknown key {dotted!r}", key, fields)
            kind = fields[key]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
            if kind is BackendSettings and key not in backends:
                raise _unknown(given, f"unknown backend {dotted!r}", key, backends)
        else:
            above = ".".join(given.keys[:depth])
            raise ConfigError(
                f"{given.place}: {above} has no key {key!r}; it must be {_allowed(inspect.type_info(kind))}"
            )
    return kind


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def _is_section(kind: object) -> bool:
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))


def _opened(given: Given) -> Iterator[Given]:
    """Give the entries of a section that came in one piece: a JSON object in a variable."""
    try:
        content = msgspec.json.decode(given.written if given.is_text else "", type=dict[str, object])
    except msgspec.DecodeError:
        raise ConfigError(f"{given.place}: {_said(given)}: must be a section, keys with values") from None
    for key, value in content.items():
        yield Given((*given.keys, key), value, given.place, str(value))


def _converted(given: Given, kind: object) -> object:
    value = given.value
    is_list = _is_list(kind)
    if value == "" and type(None) in get_args(kind):
        return None
    if given.keys[-1] == "allowed_tools" and isinstance(value, str) and not value.startswith("["):
        return None if value == "all" else _split(value)
    if is_list and given.is_text and isinstance(value, str):
        value = _listed(given, value)
    try:
        return msgspec.convert(value, kind, strict=not given.is_text)
    except msgspec.ValidationError:
        raise ConfigError(f"{given.place}: {_said(given)}: must be {_allowed(inspect.type_info(kind))}") from None


def _is_list(kind: object) -> bool:
    return get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))


def _listed(given: Given, text: str) -> list[str]:
    """Read a list in a variable: `a,b`, or a JSON array where an item has a comma."""
    if not text.startswith("["):
        return _split(text)
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise ConfigError(f"{given.place}: {_said(given)}: must be texts with commas, or a JSON array") from None


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _paths(given: Given, value: object, environ: Mapping[str, str]) -> object:
    """Open a leading `~` of paths, and refuse relative ones, which would depend on where clinvk is started."""
    if given.keys[-1] not in _PATHS:
        return value
    if isinstance(value, str):
        return _path(given, value, environ)
    return tuple(_path(given, item, environ) for item in msgspec.convert(value, tuple[str, ...]))


def _path(given: Given, path: str, environ: Mapping[str, str]) -> str:
    path = _opened_home(path, environ)
    if path and not path.startswith("/") and given.keys[-1] not in _RELATIVE_OK:
        raise ConfigError(f"{given.place}: {_said(given)}: must be an absolute path")
    return path


def _opened_home(path: str, environ: Mapping[str, str]) -> str:
    """Open a leading `~`, as a shell would have; services and files have no shell."""
    return str(_user_home(environ)) + path[1:] if path == "~" or path.startswith("~/") else path


def _user_home(environ: Mapping[str, str]) -> Path:
    if named := environ.get("HOME"):
        return Path(named).absolute()
    try:
        return Path.home()
    except RuntimeError as exc:
        raise ConfigError("there is no home directory; set HOME or CLINVK_HOME") from exc


def _said(given: Given) -> str:
    return f"{'.'.join(given.keys)} = {given.written!r}"


def _unknown(given: Given, what: str, name: str, allowed: Collection[str]) -> ConfigError:
    near = get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    value = "" if given.value is None or "=" in what else f" (= {given.written!r})"
    return ConfigError(f"{given.place}: {what}{value}; {hint}allowed: {', '.join(allowed)}")


def _allowed(info: inspect.Type) -> str:
    """Say in words what a key takes."""
    match info:
        case inspect.IntType(ge=low, le=high):
            return f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.VarTupleType():
            return "a list of texts"
        case inspect.UnionType(types=types):
            return " or ".join("empty" if isinstance(part, inspect.NoneType) else _allowed(part) for part in types)
        case _:
            return "a text (a number or a yes/no word needs quotes)"
