"""The number of values in a JSON document is exact, whatever its strings contain."""

import json
import random

import pytest

from clinvk.types import text
from clinvk.types.text import has_too_many_values
from standin.document import JSON


def _document(chance: random.Random, depth: int = 0) -> JSON:
    kind = chance.random()
    if depth > 4 or kind < 0.5:
        return "".join(chance.choice('a"\\[{,é\n]}') for _ in range(chance.randint(0, 6)))
    if kind < 0.75:
        return [_document(chance, depth + 1) for _ in range(chance.randint(0, 5))]
    return {str(_document(chance, 9)): _document(chance, depth + 1) for _ in range(chance.randint(0, 5))}


def _signs(value: JSON) -> int:
    """The brackets, braces and commas of a value."""
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(_signs, value))
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(_signs, value.values()))
    return 0


@pytest.mark.parametrize("seed", range(60))
def test_punctuation_in_strings_is_not_counted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_SLICE_BYTES", 7)
    chance = random.Random(seed)
    value = _document(chance)
    document = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode()
    if signs := _signs(value):
        monkeypatch.setattr(text, "MAX_JSON_VALUES", signs)
        assert not has_too_many_values(document)
        monkeypatch.setattr(text, "MAX_JSON_VALUES", signs - 1)
        assert has_too_many_values(document)


def test_long_string_counts_as_one_value() -> None:
    assert not has_too_many_values(json.dumps(["[1, {2}]," * 200_000]).encode())
