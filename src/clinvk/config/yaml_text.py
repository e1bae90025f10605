"""Values as YAML text, in the style that stands there already where it can carry the value."""

from collections.abc import Iterator, Sequence

import yaml

Value = bool | int | str | tuple[str, ...] | dict[str, str] | None
"""The value of a setting; a dict is an empty section."""


def written(value: Value, style: str = "", in_flow: bool = False, indent: int | None = None) -> str:
    """Give the text of a value.

    Args:
        value: None is `null`.
        style: of the scalar that it replaces: empty is plain, else its quote, or `|`.
        in_flow: it stands in brackets or braces.
        indent: of the lines of a block text; None is not to write one.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _text(value, style, in_flow, indent)
        case dict():
            return "{}"
        case _:
            return f"[{', '.join(_text(item, '', True, None) for item in value)}]"


def _text(text: str, style: str, in_flow: bool, indent: int | None) -> str:
    """Give the first way to write a text that is read as that text."""
    sources: list[str] = []
    if indent is not None and not in_flow and ("\n" in text or style in ("|", ">")):
        sources.append(_block(text, indent))
    elif style == "'":
        sources.append("'" + text.replace("'", "''") + "'")
    if style != '"' and "\n" not in text:
        sources.append(text)
    return next((source for source in sources if _reads_as(text, source, in_flow, indent or 0)), _quoted(text))


def _block(text: str, indent: int) -> str:
    lines = [" " * indent + line if line else "" for line in text.removesuffix("\n").split("\n")]
    return "\n".join(["|" if text.endswith("\n") else "|-", *lines])


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).removesuffix("\n")


def _reads_as(text: str, source: str, in_flow: bool, indent: int) -> bool:
    before = " " * max(indent - 1, 0)
    whole = f"{{k: {source}, l: m}}" if in_flow else f"{before}k: {source}\n{before}l: m\n"
    try:
        node = yaml.SafeLoader(whole).get_single_node()
    except yaml.YAMLError:
        return False
    if not isinstance(node, yaml.MappingNode) or len(node.value) != 2:
        return False
    value = node.value[0][1]
    return isinstance(value, yaml.ScalarNode) and value.tag.endswith(":str") and value.value == text


def nested(keys: Sequence[str], value: Value, indent: int, step: int, blocks: bool) -> str:
    """Give the lines of a key that stands `indent` deep, with the sections above it that are missing."""
    *above, last = keys
    lines = [f"{' ' * (indent + depth * step)}{written(key)}:" for depth, key in enumerate(above)]
    column = indent + len(above) * step
    return "\n".join(
        [*lines, f"{' ' * column}{written(last)}: {written(value, indent=column + step if blocks else None)}"]
    )


def nested_flow(keys: Sequence[str], value: Value) -> str:
    """Give the same for a place in braces."""
    first, *rest = keys
    inner = f"{{{nested_flow(rest, value)}}}" if rest else written(value, in_flow=True)
    return f"{written(first, in_flow=True)}: {inner}"


def document(settings: Sequence[tuple[tuple[str, ...], Value]], step: int = 2) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give the lines of a whole file, and the keys of the value on each; empty for a section's own line."""
    above: tuple[str, ...] = ()
    for keys, value in settings:
        shared = sum(1 for depth in range(len(keys) - 1) if keys[: depth + 1] == above[: depth + 1])
        for depth in range(shared, len(keys) - 1):
            yield f"{' ' * depth * step}{written(keys[depth])}:", ()
        yield f"{' ' * (len(keys) - 1) * step}{written(keys[-1])}: {written(value)}", keys
        above = keys[:-1]
