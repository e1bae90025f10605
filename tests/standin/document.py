"""Foreign JSON, read without trust in its shape."""

import json
from typing import TypeAlias

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
Record: TypeAlias = dict[str, JSON]


def dumps(value: object) -> str:
    """Write JSON without spaces, as model APIs do."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def record(value: JSON, key: str) -> Record:
    """Return the object at `key`, or an empty one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def records(value: JSON, key: str) -> list[Record]:
    """Return the objects in the list at `key`."""
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def string(value: JSON, key: str) -> str:
    """Return the text at `key`, or an empty one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def texts(value: JSON, key: str) -> list[str]:
    """Return the texts of a message at `key`: it may be text, or a list of parts of which some have text."""
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, str):
        return [found]
    return [string(part, "text") for part in records(value, key) if "text" in part]
