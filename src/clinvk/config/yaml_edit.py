"""Change one value in the text of a settings file. Comments and layout stay. Pure: text in, text out.

ruamel.yaml reads the text, keeps the comments and writes the text. ruamel.yaml also unifies the layout (null values,
indentation, line breaks in brackets), so only the lines that the change concerns are taken from its output.

Import this module only for a change: reading settings does not need ruamel.yaml.
"""
# ruamel.yaml leaves most of its parameters and return values without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from io import StringIO

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString, SingleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from clinvk.config.yaml_file import Value, written
from clinvk.types.errors import ConfigError

Order = Callable[[tuple[str, ...]], Sequence[str]]
"""Return the names that a section may have, in their order."""

Entry = tuple[CommentedMap | CommentedSeq, str | int]
"""A collection, and the key or the index of one of its entries."""

_FAILURES = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""What ruamel.yaml raises besides `YAMLError`: for `0b_`, for merge keys, for an alias inside its own section."""

_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)
_FIRST_INDENT = re.compile(r"^( +)[^\s#-]", re.MULTILINE)
_FIRST_LIST = re.compile(r"^( *)[^\s#].*:(?: +#.*)?\n(?: *#.*\n)*( *)- ", re.MULTILINE)


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
    lines = text.replace("\r\n", "\n")
    yaml, root = _loaded(lines)
    if root is None:
        edit(added := CommentedMap())
        gap = "\n" if lines and not lines.endswith("\n") else ""
        after = lines + gap + _dumped(yaml, added) if added else lines
    else:
        before = _dumped(yaml, root)
        yaml, root = _loaded(lines)  # writing uses comments up
        try:
            edit(root)
            dumped = _dumped(yaml, root)
        except _FAILURES as exc:
            raise ConfigError("its layout does not allow it") from exc
        after = _transplanted(lines, before, dumped if root else dumped.removesuffix("{}\n"))
    return after.replace("\n", newline)


def _loaded(text: str) -> tuple[YAML, CommentedMap | None]:
    """Parse a text; return also the writer for its indentation."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.allow_duplicate_keys = True
    yaml.width = 1 << 20
    step = _FIRST_INDENT.search(text)
    dash = _FIRST_LIST.search(text)
    offset = len(dash[2]) - len(dash[1]) if dash else 0
    yaml.indent(mapping=len(step[1]) if step else 2, sequence=offset + 2, offset=offset)
    try:
        root: object = yaml.load(text)
    except (YAMLError, *_FAILURES) as exc:
        raise ConfigError(f"is not valid YAML: {' '.join(str(exc).split())}") from exc
    if root is not None and not isinstance(root, CommentedMap):
        raise ConfigError("the file is not a section")
    return yaml, root


def _dumped(yaml: YAML, root: CommentedMap) -> str:
    stream = StringIO()
    yaml.dump(root, stream)
    return stream.getvalue()


def _transplanted(text: str, before: str, after: str) -> str:
    """Apply the difference of two outputs of ruamel.yaml to the text that the first output was made from.

    Where ruamel.yaml unifies the layout of the changed lines too, the whole text gets the unified layout.

    Raises:
        ConfigError: the unified layout lacks a comment of the text, such as one inside brackets.
    """
    lines, old, new = text.split("\n"), before.split("\n"), after.split("\n")
    same = SequenceMatcher(None, old, lines, autojunk=False).get_matching_blocks()
    place = {start + n: at + n for start, at, size in same for n in range(size)}
    for kind, start, end, first, last in reversed(SequenceMatcher(None, old, new, autojunk=False).get_opcodes()):
        if kind == "equal":
            continue
        if any(number not in place for number in (range(start, end) if start < end else range(start)[-1:])):
            if Counter(_COMMENT.findall(text)) - Counter(_COMMENT.findall(before)):
                raise ConfigError("a comment in brackets would be lost")
            return after
        at = place[start] if start < end else place[start - 1] + 1 if start else 0
        lines[at : at + end - start] = new[first:last]
    return "\n".join(lines)


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
        _merge(old, value, (section, key))
        return
    node = _node(value, old)
    if key in section and not missing and type(old) is type(node) and old == node:
        return
    for name in reversed(missing):
        node = CommentedMap({name: node})
    _set(section, key, node, order(keys[:depth]))


def _set(section: CommentedMap, key: str, node: object, order: Sequence[str]) -> None:
    """Set a key; insert a missing key in order. Comment lines below the key move down."""
    if key in section:
        below = _take_comments(_last_entry(section, key))
        if key in section.ca.items and not isinstance(node, LiteralScalarString):
            below = _lines(section.ca.items[key][3]) + below
            section.ca.items[key][3] = None
        section[key] = node
    else:
        earlier = order[: order.index(key)] if key in order else ()
        names = list(section)
        before = next((name for name in reversed(names) if name in earlier), names[-1] if names else None)
        below = _take_comments(_last_entry(section, before)) if before is not None else ""
        section.insert(names.index(before) + 1 if before is not None else 0, key, node)
    _add_comments(_last_entry(section, key), below)


def _merge(old: CommentedSeq, items: Sequence[str], above: Entry) -> None:
    """Change a list item by item; remaining items keep their comments."""
    had = [item if isinstance(item, str) else None for item in old]
    for kind, start, end, first, last in reversed(SequenceMatcher(None, had, items).get_opcodes()):
        if kind == "equal":
            continue
        for number, item in enumerate(items[first:last]):
            below = _take_comments((old, end + number - 1)) if end + number else ""
            old.insert(end + number, _node(item, None))
            _add_comments((old, end + number), below)
        for number in reversed(range(start, end)):
            _delete((old, number), (old, number - 1) if number else None, above)


def _remove(root: CommentedMap, keys: tuple[str, ...]) -> None:
    above: tuple[CommentedMap, str] | None = None
    section = root
    for key in keys[:-1]:
        inner: object = section.get(key)
        if not isinstance(inner, CommentedMap):
            return
        above, section = (section, key), inner
    names = list(section)
    if keys[-1] not in names:
        return
    number = names.index(keys[-1])
    _delete((section, keys[-1]), _last_entry(section, names[number - 1]) if number else None, above)
    if not section and above and not section.fa.flow_style():
        _set(*above, None, ())


def _delete(entry: Entry, before: Entry | None, above: Entry | None) -> None:
    """Delete an entry with the comment on its line; move the comment lines around it to the entry before or above."""
    collection, key = entry
    around = _lines(collection.ca.items.get(key, [None] * 4)[1])  # kept here if the entry before is in brackets
    around += _take_comments(_last_entry(collection, key))
    del collection[key]
    if before:
        _add_comments(before, around)
    if before or not around:
        return
    token = CommentToken(around, CommentMark(0))
    top: list[CommentToken] | None = collection.ca.comment[1] if collection.ca.comment else None
    if top:
        top.append(token)
    elif above:
        _add_comments(above, around)
    else:
        collection.ca.comment = [None, [token]]


def _last_entry(collection: CommentedMap | CommentedSeq, key: str | int) -> Entry:
    """Return the last entry inside an entry: ruamel.yaml keeps the comment lines below there."""
    inner: object = collection[key]
    if isinstance(inner, CommentedMap | CommentedSeq) and inner and not inner.fa.flow_style():
        return _last_entry(inner, len(inner) - 1 if isinstance(inner, CommentedSeq) else list(inner)[-1])
    return collection, key


def _take_comments(entry: Entry) -> str:
    """Take the comment lines below an entry; a comment on its own line stays."""
    collection, key = entry
    comments = collection.ca.items.get(key)
    token: CommentToken | None = comments[_slot(entry)] if comments else None
    if token is None:
        return ""
    if isinstance(collection[key], LiteralScalarString):
        comments[_slot(entry)] = None
        return token.value
    own, _, below = token.value.partition("\n")
    token.value = f"{own}\n"
    return below


def _add_comments(entry: Entry, below: str) -> None:
    collection, key = entry
    if not below:
        return
    if isinstance(collection[key], LiteralScalarString):  # an indented line would be part of the text
        below = "".join(line.lstrip(" ") for line in below.splitlines(keepends=True))
    comments = collection.ca.items.setdefault(key, [None] * 4)
    if token := comments[_slot(entry)]:
        token.value += below
    else:
        end_of_line = "" if isinstance(collection[key], LiteralScalarString) else "\n"
        comments[_slot(entry)] = CommentToken(end_of_line + below, CommentMark(0))


def _lines(comments: Sequence[CommentToken | str] | None) -> str:
    """Return comments as lines; ruamel.yaml has the one behind `|` as a plain string."""
    return "".join(
        f"{comment}\n" if isinstance(comment, str) else " " * comment.start_mark.column + comment.value
        for comment in comments or ()
    )


def _slot(entry: Entry) -> int:
    return 2 if isinstance(entry[0], CommentedMap) else 0


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
    yaml = YAML()
    yaml.preserve_quotes = True
    return yaml.load(f"- {written(value)}")[0]
