"""Prompt bodies: what is taken, and how each mistake is told."""

import msgspec
import pytest

from clinvk.dialects.dialect import Call
from clinvk.dialects.rest.bodies import PromptBody
from clinvk.dialects.rest.rest import Rest
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import RunRequest


def parse(body: bytes | dict[str, object], **headers: str) -> Call:
    return Rest().parse(body if isinstance(body, bytes) else msgspec.json.encode(body), headers)


def asked(**fields: object) -> dict[str, object]:
    return {"backend": "claude", "prompt": "hi", **fields}


def mistake(body: bytes | dict[str, object]) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as told:
        parse(body)
    return told.value.message, told.value.field


def test_only_backend_and_prompt_are_required() -> None:
    assert parse(asked()) == Call(request=RunRequest(prompt="hi", backend="claude"))


def test_backend_is_optional_with_a_session_id() -> None:
    call = parse({"prompt": "hi", "session_id": "abcd", "backend": ""})
    assert call.request == RunRequest(prompt="hi", session_id="abcd")


@pytest.mark.parametrize(
    ("prefer", "detach", "respond_async"),
    [
        ("respond-async", True, True),
        ("wait=5, Respond-Async", True, True),
        ("respond-async; x=1,handling=lenient", True, True),
        ("respond-async", False, False),
        ("respond-asynchronously", True, False),
        ("return=minimal", True, False),
        ("", True, False),
    ],
)
def test_prefer_respond_async_applies_to_detached_runs_only(prefer: str, detach: bool, respond_async: bool) -> None:
    call = parse(asked(detach=detach), prefer=prefer)
    assert (call.detach, call.respond_async) == (detach, respond_async)


@pytest.mark.parametrize("nothing", [None, ""])
def test_null_or_empty_string_equals_an_omitted_field(nothing: object) -> None:
    texts = (
        "model",
        "workdir",
        "approval_mode",
        "sandbox_mode",
        "output_format",
        "effort",
        "system_prompt",
        "session_id",
    )
    assert parse(asked(**dict.fromkeys(texts, nothing))) == parse(asked())


def test_null_is_accepted_for_every_optional_field() -> None:
    optional = [name for name in PromptBody.__struct_fields__ if name not in ("backend", "prompt")]
    assert parse(asked(**dict.fromkeys(optional))) == parse(asked())


def test_empty_allowed_tools_differs_from_none() -> None:
    assert parse(asked(allowed_tools=[])).request.allowed_tools == ()
    assert parse(asked()).request.allowed_tools is None


@pytest.mark.parametrize(
    ("output_format", "accept", "stream"),
    [
        (None, "*/*", False),
        (None, "application/x-ndjson", True),
        ("default", "text/html, Application/X-NDJSON;q=0.9", True),
        ("stream-json", "*/*", True),
        ("json", "application/x-ndjson", False),
        ("text", "*/*", False),
    ],
)
def test_output_format_overrides_the_accept_header(output_format: str | None, accept: str, stream: bool) -> None:
    assert parse(asked(output_format=output_format), accept=accept).stream is stream


def test_last_duplicate_key_wins() -> None:
    assert parse(b'{"backend": "claude", "prompt": "a", "prompt": "b"}').request.prompt == "b"


def test_prompt_may_contain_any_text() -> None:
    text = "-p /clear \0 \U0001f600\n\u2028"
    assert parse(asked(prompt=text)).request.prompt == text


NOT_JSON = [
    (b"", "the body is empty; it must be a JSON object"),
    (b" \n", "the body is empty; it must be a JSON object"),
    (b"{", "the body is not valid JSON: it ends too early, or has a lone surrogate escape"),
    (b'{"prompt":\n NaN}', "the body is not valid JSON: invalid character at byte 12 (line 2, column 2)"),
    (
        b'{"prompt": "x", "backend": "x"} x',
        "the body is not valid JSON: trailing characters at byte 33 (line 1, column 34)",
    ),
    (b'{"prompt": "\xff"}', "the body is not valid UTF-8: byte 0xff at position 12"),
    (b"[]", "the body must be a JSON object, got []"),
    (b'"claude"', 'the body must be a JSON object, got "claude"'),
    (b"null", "the body must be a JSON object, got null"),
]


@pytest.mark.parametrize(("body", "message"), NOT_JSON)
def test_body_that_is_not_a_json_object_is_rejected(body: bytes, message: str) -> None:
    assert mistake(body) == (message, None)


@pytest.mark.parametrize("key", ["metadata", "unknown", "prompt"])
def test_deep_nesting_is_rejected_in_any_field(key: str) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(InvalidRequest):
        parse(b'{"backend": "claude", "prompt": "x", "%s": {"a": %s}}' % (key.encode(), deep))


MISTAKES = [
    (asked(max_turns="x"), 'max_turns must be a whole number from 0 to 2147483647, got "x"', "max_turns"),
    (asked(timeout_secs=0), "timeout_secs must be a number above 0 and up to 604800, got 0", "timeout_secs"),
    (asked(prompt=None), "prompt must be a text, got null", "prompt"),
    (asked(extra="-x"), 'extra must be a list of at most 1000 items, each item a text, got "-x"', "extra"),
    (asked(extra=["a", {"b": 1}]), 'extra[1] must be a text, got {"b":1}', "extra[1]"),
    (
        asked(sandbox_mode="readonly"),
        'sandbox_mode must be one of default, full, read-only, workspace, got "readonly"',
        "sandbox_mode",
    ),
    ({"prompt": "hi"}, "backend is missing", "backend"),
    ({"backend": "claude"}, "prompt is missing", "prompt"),
    (asked(prompt=""), "prompt is empty", "prompt"),
    (asked(prompt=" \n\t"), "prompt is empty", "prompt"),
    (asked(backend=" "), "backend is empty", "backend"),
    (asked(tags=["a", ""]), 'tags[1] must be a text of 1 to 100 characters, got ""', "tags[1]"),
    (
        asked(tags=["a"] * 101),
        "tags must be a list of at most 100 items, each item a text of 1 to 100 characters",
        "tags",
    ),
]


@pytest.mark.parametrize(("body", "message", "field"), MISTAKES)
def test_error_names_the_field_the_value_and_the_allowed_values(
    body: dict[str, object], message: str, field: str
) -> None:
    told, place = mistake(body)
    assert (told[: len(message)], place) == (message, field)


@pytest.mark.parametrize("number", [b"629.0", b"6.29e2", b"629"])
def test_integer_may_have_a_fraction_of_zero(number: bytes) -> None:
    body = (
        b'{"backend": "claude", "prompt": "x", "max_turns": %s, "timeout_secs": 1.5, "metadata": {"a": 0.5}}' % number
    )
    request = parse(body).request
    assert (request.max_turns, request.timeout_s, request.metadata) == (629, 1.5, {"a": 0.5})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (b'"max_turns": 1.5', "max_turns must be a whole number from 0 to 2147483647, got 1.5"),
        (b'"max_turns": 5.0, "max_tokens": 1.5', "max_tokens must be a whole number"),
        (b'"max_turns": 1e17', "max_turns must be a whole number from 0 to 2147483647, got 1"),
        (b'"max_turns": 5.0, "metadata": {"a": 1e400}', "max_turns must be a whole number"),
    ],
)
def test_error_about_an_integer_names_the_invalid_field(fields: bytes, message: str) -> None:
    assert mistake(b'{"backend": "claude", "prompt": "x", %s}' % fields)[0].startswith(message)


@pytest.mark.parametrize("number", [b"1e400", b"-1e999", b"1" * 400])
def test_out_of_range_number_is_rejected(number: bytes) -> None:
    body = b'{"backend": "claude", "prompt": "x", "timeout_secs": %s}' % number
    assert mistake(body)[1] == "timeout_secs"


def test_out_of_range_number_in_metadata_is_reported_for_metadata() -> None:
    body = b'{"backend": "claude", "prompt": "x", "metadata": {"k": 1e400}}'
    assert mistake(body) == ("metadata has a number that is out of range", "metadata")


def test_long_value_is_truncated_in_the_error() -> None:
    message, _ = mistake(asked(sandbox_mode="x" * 10_000))
    assert message.endswith("x…")
    assert len(message) < 200


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("sandbox_mod", "sandbox_mode"),
        ("sandboxMode", "sandbox_mode"),
        ("workDir", "workdir"),
        ("timeout", "timeout_secs"),
    ],
)
def test_unknown_field_is_rejected_with_a_suggestion(wrong: str, near: str) -> None:
    assert mistake(asked(**{wrong: "read-only"})) == (f"unknown field {wrong!r}; did you mean {near!r}?", wrong)


def test_unsupported_field_is_rejected_not_ignored() -> None:
    message, field = mistake(asked(temperature=0))
    assert field == "temperature"
    assert "known are " in message


@pytest.mark.parametrize(
    ("field", "value", "place", "message"),
    [
        ("effort", "ultra", "effort", "one of high, low, max"),
        ("stop", "END", "stop", "a list of at most 16 items"),
        ("stop", ["x" * 101], "stop[0]", "a text of 1 to 100 characters"),
        ("images", "iVBORw0KGgo=", "images", "a list of at most 100 items"),
        ("images", ["iVBORw0KGgo=", "http://x/y.png"], "images[1]", "no address is fetched"),
        ("images", ["data:image/png;base64,!"], "images[0]", "no valid base64"),
        ("images", ["AAAA"], "images[0]", "no PNG, JPEG, GIF or WebP"),
        ("images", ["A" * (5 * 1024 * 1024 + 4)], "images[0]", "at most 5242880 are allowed"),
    ],
)
def test_invalid_output_option_is_reported_with_its_field(field: str, value: object, place: str, message: str) -> None:
    said, where = mistake(asked(**{field: value}))
    assert where == place
    assert message in said
