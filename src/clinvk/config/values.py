"""The values of the settings: read as the type of their key, and checked."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

import msgspec

from clinvk.config import keys
from clinvk.config.given import Given
from clinvk.errors import ConfigError

_PATHS = frozenset({"executable", "default_workdir", "allowed_workdir_prefixes", "blocked_workdir_prefixes"})
_RELATIVE_OK = frozenset({"executable"})
_OF_BACKENDS = frozenset({("policy", "allowed_backends"), ("warm", "kept_backends"), ("warm", "prestart")})
_OF_VARIABLES = ("agents", "env_allow")
_IN_NAMES_OF_VARIABLES = frozenset("_.-%()*?[]!")
"""What a variable has in its name, or a word for several, besides letters and digits."""

_YES_NO = {"yes": True, "on": True, "no": False, "off": False}
"""What YAML reads as true and false besides these, so that a variable takes what the file takes."""


def checked(
    given: Given, backends: Collection[str], environ: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Give key and value, ready for `Settings`; of a section that came in one piece, all of them.

    Raises:
        ConfigError: an unknown key or a wrong value; names its place, the key, the value and what is allowed.
    """
    kind = keys.kind_of(given, backends)
    if given.value is None:
        return
    if keys.is_section(kind):
        for inner in _opened(given):
            yield from checked(inner, backends, environ)
        return
    value = _paths(given, converted(given, kind), environ)
    _check(given, value, backends)
    yield given.keys, value


def _check(given: Given, value: object, backends: Collection[str]) -> None:
    """Refuse what is of the type of its key, and still says nothing that could be meant."""
    if keys.is_variable(given.keys) and not _can_be_given(given.keys[-1], str(value)):
        raise ConfigError(f"{given.place}: {given.said}: must be a variable: a name without '=', and no NUL character")
    if given.keys == ("server", "host") and not str(value).strip():
        every = "must be an address or a name, such as 127.0.0.1, or 0.0.0.0 for every one"
        raise ConfigError(f"{given.place}: {given.said}: {every}")
    if given.keys == ("default_backend",) and value not in backends:
        raise keys.unknown(given, f"default_backend = {value!r}", str(value), backends)
    if given.keys in _OF_BACKENDS:
        for name in msgspec.convert(value, tuple[str, ...]):
            if name not in backends:
                raise keys.unknown(given, f"{'.'.join(given.keys)} = {name!r}", name, backends)
    if given.keys == _OF_VARIABLES:
        _check_variables(given, msgspec.convert(value, tuple[str, ...]))


def _opened(given: Given) -> Iterator[Given]:
    """Give the entries of a section that came in one piece: a JSON object in a variable."""
    try:
        content = msgspec.json.decode(given.written if given.is_text else "", type=dict[str, object])
    except msgspec.DecodeError:
        raise ConfigError(f"{given.place}: {given.said}: must be a section, keys with values") from None
    for key, value in content.items():
        yield Given((*given.keys, key), value, given.place, str(value))


def _can_be_given(name: str, value: str) -> bool:
    """Say whether a program can have such a variable."""
    return name != "" and "=" not in name and "\0" not in name + value


def _check_variables(given: Given, names: Sequence[str]) -> None:
    for name in names:
        if not name or not all(char.isalnum() or char in _IN_NAMES_OF_VARIABLES for char in name):
            raise ConfigError(
                f"{given.place}: {'.'.join(given.keys)} = {name!r}: must be names of variables, each an item of its "
                "own, in which * stands for any text"
            )


def converted(given: Given, kind: object) -> object:
    """Give the value as the type of its key.

    Raises:
        ConfigError: it is none.
    """
    value = given.value
    if value == "" and type(None) in get_args(kind):
        return None
    if given.keys[-1] == "allowed_tools" and isinstance(value, str) and not value.startswith("["):
        return None if value == "all" else split_list([value])
    if keys.is_list(kind) and given.is_text and isinstance(value, str):
        value = _listed(given, value)
    if kind is bool and given.is_text:
        value = _YES_NO.get(given.written.lower(), value)
    try:
        return msgspec.convert(value, kind, strict=not given.is_text)
    except msgspec.ValidationError:
        raise ConfigError(f"{given.place}: {given.said}: must be {keys.allowed(kind)}") from None


def _listed(given: Given, text: str) -> Sequence[str]:
    """Read a list in a variable: `a,b`, or a JSON array where an item has a comma."""
    if not text.startswith("["):
        return split_list([text])
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise ConfigError(f"{given.place}: {given.said}: must be texts with commas, or a JSON array") from None


def split_list(given: Sequence[str]) -> tuple[str, ...]:
    """Split at commas, but for those inside parentheses: `Bash(git log,git diff),Read` are two tools."""
    names: list[str] = []
    for text in given:
        depth, start = 0, 0
        for at, char in enumerate(f"{text},"):
            depth += (char == "(") - (char == ")")
            if char == "," and depth <= 0:
                names.append(text[start:at].strip())
                start = at + 1
        names.append(text[start:].strip())
    return tuple(name for name in names if name)


def _paths(given: Given, value: object, environ: Mapping[str, str]) -> object:
    """Open a leading `~` of paths, and refuse relative ones, which would depend on where clinvk is started."""
    if given.keys[-1] not in _PATHS or keys.is_variable(given.keys):
        return value
    if isinstance(value, str):
        return _path(given, value, environ)
    return tuple(_path(given, item, environ) for item in msgspec.convert(value, tuple[str, ...]))


def _path(given: Given, path: str, environ: Mapping[str, str]) -> str:
    path = opened_home(path, environ)
    if path and not path.startswith("/") and given.keys[-1] not in _RELATIVE_OK:
        raise ConfigError(f"{given.place}: {given.said}: must be an absolute path")
    return path


def opened_home(path: str, environ: Mapping[str, str]) -> str:
    """Open a leading `~`, as a shell would have; services and files have no shell."""
    return str(user_home(environ)) + path[1:] if path == "~" or path.startswith("~/") else path


def user_home(environ: Mapping[str, str]) -> Path:
    """Give the user's home.

    Raises:
        ConfigError: there is none.
    """
    if named := environ.get("HOME"):
        return Path(named).absolute()
    if named is None:  # an empty one would be taken for the root
        with suppress(RuntimeError):
            return Path.home()
    raise ConfigError("there is no home directory; set HOME or CLINVK_HOME")
