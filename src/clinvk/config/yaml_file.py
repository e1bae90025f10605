"""The settings file: YAML, parsed to nodes with line numbers.

Format: https://yaml.org/spec/1.1/ as PyYAML reads it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from clinvk.config.setting_values import OnInvalid, SourcedValue, Value, raise_invalid
from clinvk.types.errors import ConfigError

# PyYAML is built without libyaml on some machines.
_LOADER: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 3
"""Levels of sections; the deepest key is `backends.<name>.env.<variable>`. An alias that circles ends here."""


def read(path: Path, reject: OnInvalid = raise_invalid) -> Iterator[SourcedValue]:
    """Yield the values of a settings file with their lines.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or is no section.
    """
    yield from parse(read_text(path), path, reject)


def read_text(path: Path) -> str:
    """Return the text of a settings file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text: {exc.reason} at byte {exc.start}") from exc


def parse(text: str, path: Path, reject: OnInvalid = raise_invalid) -> Iterator[SourcedValue]:
    """Yield the values in the text of a settings file. Pass duplicate and invalid keys to `reject`.

    Raises:
        ConfigError: the text is no YAML, or is no section.
    """
    root = _compose(text, path)
    if root is None or root.tag.endswith(":null"):
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:{_line(root)}: must be keys with values, such as 'default_backend: claude'")
    yield from _entries(path, root, (), reject)


def _compose(text: str, path: Path) -> yaml.Node | None:
    try:
        return _LOADER(text).get_single_node()
    except yaml.MarkedYAMLError as exc:
        number = exc.problem_mark.line if exc.problem_mark else 0
        has_tab = "\t" in "".join(text.splitlines()[number : number + 1])
        hint = "; YAML is indented with spaces, and the line has a tab" if has_tab else ""
        raise ConfigError(f"{path}:{number + 1}: is not valid YAML: {exc.problem}{hint}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(exc).split())}") from exc


def _entries(
    path: Path, mapping: yaml.MappingNode, above: tuple[str, ...], reject: OnInvalid
) -> Iterator[SourcedValue]:
    lines: dict[str, int] = {}
    for key, node in mapping.value:
        line = _line(key)
        if not isinstance(key, yaml.ScalarNode):
            reject(ConfigError(f"{path}:{line}: a key must be a word"))
            continue
        name = str(key.value)
        keys = (*above, name)
        if name in lines:
            reject(ConfigError(f"{path}:{line}: {'.'.join(keys)!r} is duplicated; first on line {lines[name]}"))
            continue
        lines[name] = line
        if isinstance(node, yaml.MappingNode) and node.value and len(keys) <= _DEEPEST:
            yield from _entries(path, node, keys, reject)
        else:
            yield from _leaf(SourcedValue(keys, None, f"{path}:{line}", _written(node)), node, reject)


def _leaf(entry: SourcedValue, node: yaml.Node, reject: OnInvalid) -> Iterator[SourcedValue]:
    try:
        yield entry._replace(value=_value(entry.place, node, entry.keys))
    except ConfigError as exc:
        reject(exc)


def _value(place: str, node: yaml.Node, keys: tuple[str, ...]) -> object:
    """Return the value of a node; return the node itself if no key allows such a value (a list in a list)."""
    match node:
        case yaml.ScalarNode() if keys[:1] == ("backends",) and keys[2:3] == ("env",) and len(keys) > 3:
            return str(node.value)
        case yaml.ScalarNode():
            return _scalar(place, node)
        case yaml.SequenceNode():
            return [_scalar(place, item) if isinstance(item, yaml.ScalarNode) else item for item in node.value]
        case yaml.MappingNode(value=[]):
            return None
        case _:
            return node


def _scalar(place: str, node: yaml.ScalarNode) -> object:
    """Parse a plain value by the rules of YAML; a date stays a text."""
    if node.tag.endswith((":timestamp", ":value", ":merge")):
        return str(node.value)
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_object(node)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # the stubs say nothing
    except (yaml.YAMLError, ValueError) as exc:
        raise ConfigError(f"{place}: {node.value!r} cannot be read as {node.tag}") from exc


def _written(node: yaml.Node) -> str:
    match node:
        case yaml.ScalarNode():
            return str(node.value)
        case yaml.SequenceNode():
            return f"[{', '.join(_written(item) if isinstance(item, yaml.ScalarNode) else '…' for item in node.value)}]"
        case _:
            return "{…}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def written(value: object, in_flow: bool = False) -> str:
    """Return a value as YAML on one line; `in_flow` is inside braces or brackets, where more texts need quotes."""
    is_flow = in_flow or not isinstance(value, str)
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    dumped = yaml.safe_dump([value], default_flow_style=is_flow, default_style=style, allow_unicode=True, width=1 << 20)
    return dumped[1:-2] if is_flow else dumped[2:-1]


def document(settings: Mapping[tuple[str, ...], Value]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the lines of a whole file, each with the keys of its value; the keys of a section's own line are empty."""
    above: tuple[str, ...] = ()
    for keys, value in settings.items():
        shared = sum(1 for depth in range(len(keys) - 1) if keys[: depth + 1] == above[: depth + 1])
        for depth in range(shared, len(keys) - 1):
            yield f"{' ' * depth * 2}{written(keys[depth])}:", ()
        yield f"{' ' * (len(keys) - 1) * 2}{written(keys[-1])}: {written(value)}", keys
        above = keys[:-1]
