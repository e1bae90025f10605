"""YAML as JSON, and where in the text each of its values stands.

Format: https://yaml.org/spec/1.1/ as PyYAML reads it.
"""

from collections.abc import Callable, Sequence

import msgspec
import yaml

from clinvk.cli.orchestrate.positions import Place

# PyYAML is built without libyaml on some machines.
_LOADER: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYaml(Exception):
    """The text is no YAML, or YAML that no JSON can stand for."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


def load(text: str) -> tuple[bytes, Callable[[Sequence[str]], Place]]:
    """Give the JSON, and what finds the place of a path in it.

    Raises:
        NotYaml: there is none.
    """
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise NotYaml("has no content", Place(1, 1))
        _refuse_twice(root, set())
        value: object = loader.construct_document(root)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # the stubs say nothing
        body = msgspec.json.encode(value)
    except yaml.MarkedYAMLError as exc:
        raise NotYaml(f"is not valid YAML: {exc.problem or exc.context}", _at(exc.problem_mark)) from exc
    except yaml.YAMLError as exc:
        raise NotYaml(f"is not valid YAML: {' '.join(str(exc).split())}", Place(1, 1)) from exc
    except RecursionError:
        raise NotYaml("is nested too deeply, or in itself", Place(1, 1)) from None
    except (TypeError, ValueError) as exc:
        raise NotYaml(f"has a value that JSON has not: {exc}", Place(1, 1)) from exc
    return body, lambda path: _find(root, path)


def _refuse_twice(node: yaml.Node, seen: set[int]) -> None:
    """Refuse a key that stands twice, as where a dash was forgotten: a task would be lost without a word."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, seen)
    elif isinstance(node, yaml.MappingNode):
        known: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and str(key.value) in known and not key.tag.endswith(":merge"):
                raise NotYaml(f"{key.value!r} stands twice", _at(key.start_mark))
            known.add(str(key.value))
            _refuse_twice(value, seen)


def _find(node: yaml.Node, path: Sequence[str]) -> Place:
    """Give the place of a key or an item, or of the innermost that holds it."""
    place = _at(node.start_mark)
    for part in path:
        inside = _inside(node, part)
        if inside is None:
            break
        at, node = inside
        place = _at(at.start_mark)
    return place


def _inside(node: yaml.Node, part: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Give where a part begins, and its value."""
    match node:
        case yaml.MappingNode():
            return next(((key, value) for key, value in reversed(node.value) if str(key.value) == part), None)
        case yaml.SequenceNode() if part.isdigit() and int(part) < len(node.value):
            item: yaml.Node = node.value[int(part)]
            return item, item
        case _:
            return None


def _at(mark: yaml.Mark | None) -> Place:
    return Place(int(mark.line) + 1, int(mark.column) + 1) if mark else Place(1, 1)
