"""Schemas are checked by their dialect, and the JSON of an answer is found."""

import json
import random
import time

import msgspec
import pytest

from bodies import SCHEMA, mutated
from clinvk.runtime.run.answer_filter import Json, json_in_answer
from clinvk.runtime.run.schema_process import SchemaTask, check_schema

DRAFT_7 = "http://json-schema.org/draft-07/schema#"

GOOD: dict[str, Json] = {
    "a reference that is a value": {"enum": [{"$ref": "#/gone"}], "default": {"$ref": "http://a"}},
    "a constant": {"const": {"$ref": "x"}},
    "a property of that name": {"properties": {"$ref": {"type": "string"}}},
    "relative to a nested id": {
        "$id": "http://a/root",
        "properties": {"x": {"$ref": "sub/one"}},
        "$defs": {"one": {"$id": "sub/one", "$ref": "#/$defs/two", "$defs": {"two": {"type": "string"}}}},
    },
    "an anchor": {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "object"}}},
    "an anchor of draft 7": {
        "$schema": DRAFT_7,
        "properties": {"a": {"$ref": "#here"}},
        "definitions": {"x": {"$id": "#here", "type": "string"}},
    },
    "a dynamic reference": {"properties": {"a": {"$dynamicRef": "#here"}}, "$defs": {"x": {"$dynamicAnchor": "here"}}},
    "a dialect that nobody knows": {"$schema": "urn:mine", "type": "object"},
    "to itself, one level down": {"properties": {"next": {"$ref": "#"}}},
}

BAD: dict[str, tuple[Json, str]] = {
    "a list as dialect": ({"$schema": []}, "at $.$schema"),
    "a number as dialect": ({"$schema": 5}, "at $.$schema"),
    "from elsewhere": ({"properties": {"a": {"$ref": "http://a/b"}}}, "'http://a/b' refers to nothing"),
    "dynamically from elsewhere": ({"properties": {"a": {"$dynamicRef": "http://a/b"}}}, "refers to nothing"),
    "no address at all": ({"properties": {"a": {"$ref": "http://["}}}, "refers to nothing"),
    "to a list": ({"$ref": "#/allOf", "allOf": [{}]}, "refers to no schema"),
    "no place in a list": ({"$ref": "#/allOf/x", "allOf": [{}]}, "refers to nothing"),
    "lost where a reference leads": ({"$ref": "#/x", "x": {"$ref": "#/gone"}}, "'#/gone' refers to nothing"),
    "to what is no schema": ({"$ref": "#/x", "x": {"type": "nonsense"}}, "'nonsense'"),
    "to a text": ({"properties": {"a": {"$ref": "#/x"}}, "x": "text"}, "refers to no schema"),
    "to itself": ({"$ref": "#"}, "refers to itself"),
    "to itself, a way round": ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}}, "refers to itself"),
    "a broken pattern": ({"pattern": "("}, "'('"),
}


def doubling(levels: int, keyword: str = "allOf") -> Json:
    """Return a schema in which each level refers to the next twice."""
    twice = [[{"$ref": f"#/$defs/{level + 1}"}] * 2 for level in range(levels)]
    inner: list[Json] = [{keyword: pair} if keyword == "allOf" else {keyword: dict(enumerate(pair))} for pair in twice]
    named = {str(level): schema for level, schema in enumerate([*inner, {}])}
    return {"$ref": "#/$defs/0", "$defs": msgspec.to_builtins(named, str_keys=True)}


def unevaluated(levels: int) -> Json:
    schema: Json = {"type": "object"}
    for _ in range(levels):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


@pytest.mark.timeout(10)
@pytest.mark.parametrize("schema", [doubling(40), doubling(14), unevaluated(40), {"not": unevaluated(8)}])
def test_schema_that_expands_too_far_is_refused(schema: Json) -> None:
    """The check of a value takes a time that doubles with each level."""
    assert "it expands to more than 10000 schemas" in check_schema(SchemaTask(schema)).schema


@pytest.mark.timeout(10)
def test_schema_with_many_references_to_a_large_schema_is_checked_in_linear_time() -> None:
    large: Json = {"properties": {f"b{number}": {"type": "string"} for number in range(1000)}}
    many: Json = {f"a{number}": {"$ref": "#/$defs/large"} for number in range(1000)}
    assert check_schema(SchemaTask({"properties": many, "$defs": {"large": large}})).schema == ""


@pytest.mark.timeout(10)
@pytest.mark.parametrize("schema", [doubling(40, "properties"), doubling(10), unevaluated(4)])
def test_schema_that_is_short_for_each_value_is_accepted(schema: Json) -> None:
    assert check_schema(SchemaTask(schema)).schema == ""


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD)
def test_valid_schema_is_accepted(schema: Json) -> None:
    assert check_schema(SchemaTask(schema)).schema == ""


@pytest.mark.parametrize(("schema", "why"), BAD.values(), ids=BAD)
def test_invalid_schema_is_reported(schema: Json, why: str) -> None:
    assert why in check_schema(SchemaTask(schema)).schema


@pytest.mark.parametrize("seed", range(60))
def test_malformed_schema_is_reported_without_python_errors(seed: int) -> None:
    """A Python error would show a case that the check does not handle."""
    try:
        schema = msgspec.json.decode(mutated(SCHEMA, random.Random(seed)), type=Json)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    fault = check_schema(SchemaTask(schema)).schema
    assert "Error:" not in fault
    assert fault or check_schema(SchemaTask(schema, b"{}")).schema == ""


def test_answer_is_validated_by_the_dialect_of_its_schema() -> None:
    schema: Json = {"items": [{"type": "string"}]}
    assert (
        check_schema(SchemaTask({"$schema": DRAFT_7, **schema}, b"[1]")).answer == "1 is not of type 'string' (at $[0])"
    )


def test_endless_recursion_is_reported_as_a_schema_error() -> None:
    schema: Json = {"properties": {"a": {"$ref": "#/properties/a"}}}
    assert (
        check_schema(SchemaTask(schema, b'{"a":1}')).schema
        == "it is nested too deeply, or refers to itself without end"
    )


FENCED = {
    "plain": "```\n1\n```",
    "as JSON": "```json\n1\n```",
    "the last of several": "```json\n2\n```\n\nor rather\n\n```json\n1\n```\nThat is it.",
    "after other code": "```python\nx = 2\n```\ntext\n```\n1\n```",
    "before other code": "```\n1\n```\nfrom\n```python\nx = 2\n```",
    "at the end of a line": "Here: ```json\n1```",
    "with the line ends of Windows": "```json\r\n1\r\n```\r\n.",
}


@pytest.mark.parametrize("text", FENCED.values(), ids=FENCED)
def test_json_in_a_code_fence_is_parsed(text: str) -> None:
    assert json_in_answer(text) == 1


def test_code_fences_within_a_string_do_not_end_the_json() -> None:
    value = {"code": "```python\nx\n```"}
    assert json_in_answer(f"Look:\n```json\n{json.dumps(value)}\n```\n") == value


def test_unicode_line_separator_does_not_end_a_line() -> None:
    assert json_in_answer('```json\n"a\u2028b"\n```') == "a\u2028b"


def test_long_answer_with_many_code_fences_is_parsed_in_linear_time() -> None:
    """A search that starts again at each fence takes minutes."""
    began = time.process_time()
    for text in ("```\n" * 300_001, "```json" + "\n" * 1_000_000, "``` " * 300_000):
        with pytest.raises(ValueError, match="not JSON"):
            json_in_answer(text)
    assert time.process_time() - began < 10
