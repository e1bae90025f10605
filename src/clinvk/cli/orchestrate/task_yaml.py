"""YAML files of tasks or steps as JSON. Format: https://yaml.org/spec/1.1/ as PyYAML reads it."""

import msgspec
import yaml

from clinvk.cli.orchestrate.task_files import InvalidFile

# PyYAML is built without libyaml on some machines.
_LOADER: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def body_of_yaml(text: str, name: str) -> bytes:
    """Return the JSON of a YAML text; `name` is the name of the file.

    Raises:
        InvalidFile: the text is no valid YAML, or has no JSON equivalent.
    """
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise InvalidFile(f"{name}: has no content")
        _refuse_duplicates(root, name, set())
        value: object = loader.construct_document(root)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # the stubs say nothing
        return msgspec.json.encode(value)
    except yaml.MarkedYAMLError as exc:
        raise InvalidFile(f"{_at(name, exc.problem_mark)}: is not valid YAML: {exc.problem or exc.context}") from exc
    except yaml.YAMLError as exc:
        raise InvalidFile(f"{name}: is not valid YAML: {' '.join(str(exc).split())}") from exc
    except RecursionError:
        raise InvalidFile(f"{name}: is nested too deeply, or in itself") from None
    except (TypeError, ValueError) as exc:
        raise InvalidFile(f"{name}: has a value that JSON has not: {exc}") from exc


def _refuse_duplicates(node: yaml.Node, name: str, seen: set[int]) -> None:
    """Refuse duplicate keys, e.g. after a forgotten dash: a task would be lost silently."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, name, seen)
    elif isinstance(node, yaml.MappingNode):
        known: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and str(key.value) in known and not key.tag.endswith(":merge"):
                raise InvalidFile(f"{_at(name, key.start_mark)}: {key.value!r} is duplicated")
            known.add(str(key.value))
            _refuse_duplicates(value, name, seen)


def _at(name: str, mark: yaml.Mark | None) -> str:
    """Return a position in a file, its line and column counted from 1."""
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
