"""Change one value in the text of a settings file. Comments and layout stay. Pure: text in, text out.

ruamel.yaml reads and writes the values. ruamel.yaml also unifies the layout, and moves the comments that have lines of
their own. So ruamel.yaml gets the text without such lines, and only the lines that the change concerns are taken from
its output.

Import this module only for a change: reading settings does not need ruamel.yaml.
"""
# ruamel.yaml leaves most of its parameters and return values without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from io import StringIO

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString, SingleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from clinvk.config.yaml_file import Value, written
from clinvk.types.errors import ConfigError

Order = Callable[[tuple[str, ...]], Sequence[str]]
"""Return the names that a section may have, in their order."""

_FAILURES = (YAMLError, yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What ruamel.yaml raises: not only errors of its own for `0b_`, merge keys, or an alias inside its own section."""

_COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
_BLOCK = re.compile(r": \|[+-]?(?: +#.*)?$")
_FIRST_INDENT = re.compile(r"^( +)[^\s#-]", re.MULTILINE)
_FIRST_LIST = re.compile(r"^( *)[^\s#].*:(?: +#.*)?\n( *)- ", re.MULTILINE)


def put(text: str, keys: tuple[str, ...], value: Value, order: Order) -> str:
    """Return the text with another value for a key; add the key and its sections where they are missing.

    Raises:
        ConfigError: the layout of the file does not allow the change.
    """
    return _edited(text, lambda root: _put(root, keys, value, order))


def remove(text: str, keys: tuple[str, ...]) -> str:
    """Return the text without a key or section; return the same text if the key is not set.

    Raises:
        ConfigError: the layout of the file does not allow the change.
    """
    return _edited(text, lambda root: _remove(root, keys))


def _edited(text: str, edit: Callable[[CommentedMap], None]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    try:
        numbers = _value_lines(lines)
        values = [lines[number] for number in numbers]
        writer, root = _loaded(values)
        if root is None:
            edit(root := CommentedMap())
            return newline.join([*(lines if lines[-1] else lines[:-1]), *_dumped(writer, root), ""]) if root else text
        before = _dumped(writer, root)
        writer, root = _loaded(values)  # writing uses comments up
        edit(root := root if root is not None else CommentedMap())
        after = _dumped(writer, root) if root else []
        merged = _merged(lines, numbers, before, after, is_unified=False)
        if not _has_values(merged, root):  # the lines that stay have another indentation than those of ruamel.yaml
            merged = _merged(lines, numbers, before, after, is_unified=True)
    except _FAILURES as exc:
        raise ConfigError(f"its layout does not allow it ({' '.join(str(exc).split())})") from exc
    if merged[-1] and any(map(_BLOCK.search, set(after) - set(before))):
        merged.append("")  # the last line of a text may need its end
    if _comments(values) - _comments(before) - _comments(merged):
        raise ConfigError("a comment in brackets would be lost")
    return newline.join(merged)


def _value_lines(lines: list[str]) -> list[int]:
    """Return the indices of the lines that are neither blank nor only a comment; `#` may begin a line of a text."""
    inside: set[int] = set()
    for token in yaml.scan("\n".join(lines)):
        if isinstance(token, yaml.ScalarToken):
            last = token.end_mark.line - (token.end_mark.column == 0)
            while last > token.start_mark.line and not lines[last].strip():
                last -= 1
            inside.update(range(token.start_mark.line, last + 1))
    return [number for number, line in enumerate(lines) if number in inside or line.strip()[:1] not in ("", "#")]


def _loaded(lines: Sequence[str]) -> tuple[YAML, CommentedMap | None]:
    """Parse lines; return also the writer for their indentation."""
    text = "\n".join([*lines, ""])
    writer = YAML()
    writer.preserve_quotes = True
    writer.allow_duplicate_keys = True
    writer.width = 1 << 20
    step = _FIRST_INDENT.search(text)
    dash = _FIRST_LIST.search(text)
    offset = len(dash[2]) - len(dash[1]) if dash else 0
    writer.indent(mapping=len(step[1]) if step else 2, sequence=offset + 2, offset=offset)
    root: object = writer.load(text)
    if root is not None and not isinstance(root, CommentedMap):
        raise ConfigError("the file is not a section")
    return writer, root


def _dumped(writer: YAML, root: CommentedMap) -> list[str]:
    stream = StringIO()
    writer.dump(root, stream)
    return stream.getvalue().removesuffix("\n").split("\n")


def _has_values(lines: Sequence[str], root: CommentedMap) -> bool:
    try:
        return (_loaded(lines)[1] or CommentedMap()) == root
    except YAMLError:
        return False


def _comments(lines: Sequence[str]) -> Counter[str]:
    return Counter(comment for line in lines for comment in _COMMENT.findall(line))


def _merged(
    lines: Sequence[str], numbers: Sequence[int], before: Sequence[str], after: Sequence[str], is_unified: bool
) -> list[str]:
    """Return the lines with the difference of two outputs of ruamel.yaml, the first one of the unchanged values.

    Values change between two lines that are alike in all three. Comment lines stay between the same lines. If
    `is_unified`, all lines with values are those of ruamel.yaml.
    """
    values = [lines[number] for number in numbers]
    in_lines = _matches(*([" ".join(line.split()) for line in text] for text in (before, values)))
    in_after = _matches(before, after)
    ends = [*numbers, len(lines)]
    result: list[str] = []
    line = old = value = new = 0  # where the next part begins: in lines, before, numbers, after
    for same in sorted(in_lines.keys() & in_after.keys()):
        end, there = ends[in_lines[same]], in_after[same]
        if before[old:same] == after[new:there] and not is_unified:
            result += lines[line:end]
        else:
            first = ends[value] if value < in_lines[same] else line
            changed = after[new:there]
            others = [lines[number] for number in range(first, end) if number not in numbers]
            if any(map(_BLOCK.search, changed)):  # an indented line would be part of the text
                others = [other.lstrip() for other in others]
            result += [*lines[line:first], *changed, *others]
        result += after[there : there + 1] if is_unified else lines[end : end + 1]
        line, old, value, new = end + 1, same + 1, in_lines[same] + 1, there + 1
    return result


def _matches(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Return the indices of equal lines, and of the ends."""
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return {start + n: at + n for start, at, size in blocks for n in range(max(size, 1))}


def _put(section: CommentedMap, keys: tuple[str, ...], value: Value, order: Order) -> None:
    depth = 0
    while depth < len(keys) - 1 and section.get(keys[depth]) is not None:
        inner: object = section[keys[depth]]
        depth += 1
        if not isinstance(inner, CommentedMap):
            raise ConfigError(f"{'.'.join(keys[:depth])} is not a section")
        section = inner
    key, *missing = keys[depth:]
    old: object = section.get(key)
    if isinstance(old, CommentedMap) and not old.fa.flow_style():
        raise ConfigError("it is a section there")
    if isinstance(old, CommentedSeq) and old and not old.fa.flow_style() and isinstance(value, tuple) and value:
        _replace_items(old, value)
        return
    node = _node(value, old)
    if key in section and not missing and type(old) is type(node) and old == node:
        return
    for name in reversed(missing):
        node = CommentedMap({name: node})
    names = order(keys[:depth])
    earlier = names[: names.index(key)] if key in names else ()
    if key in section:
        comments = section.ca.items.get(key)
        if comments and not isinstance(node, LiteralScalarString):
            if comments[3]:  # what stands behind `key: |`
                comments[2] = CommentToken(f"{comments[3][0]}\n", CommentMark(0))
            comments[3] = None
        section[key] = node
    else:
        places = [place for place, name in enumerate(section, 1) if name in earlier]
        section.insert(places[-1] if places else len(section), key, node)


def _replace_items(old: CommentedSeq, items: Sequence[str]) -> None:
    """Change a list item by item; remaining items keep their comments."""
    had = [item if isinstance(item, str) else None for item in old]
    for kind, start, end, first, last in reversed(SequenceMatcher(None, had, items).get_opcodes()):
        if kind != "equal":
            for number in reversed(range(start, end)):
                del old[number]
            for number, item in enumerate(items[first:last], start):
                old.insert(number, _node(item, None))


def _remove(section: CommentedMap, keys: tuple[str, ...]) -> None:
    key, *below = keys
    inner: object = section.get(key)
    if not below:
        section.pop(key, None)
    elif isinstance(inner, CommentedMap):
        _remove(inner, tuple(below))
        if not inner and not inner.fa.flow_style():
            section[key] = None


def _node(value: Value, old: object) -> object:
    """Return a value with the quotes of the value that it replaces; several lines become a block."""
    if isinstance(value, str):
        is_block = "\n" in value or isinstance(old, LiteralScalarString)
        if is_block and value.replace("\n", "").isprintable() and value == value.lstrip() and value[-2:] != "\n\n":
            block = LiteralScalarString(value)
            block.comment = getattr(old, "comment", None)
            return block
        if isinstance(old, SingleQuotedScalarString | DoubleQuotedScalarString):
            return type(old)(value)
    loader = YAML()
    loader.preserve_quotes = True
    return loader.load(f"- {written(value)}")[0]
