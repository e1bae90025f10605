"""Bodies of the Anthropic dialect, valid and invalid, as requests."""

import base64
from collections.abc import Mapping

import msgspec
import pytest

from clinvk.dialects.anthropic import Anthropic, ThreadUnsupported
from clinvk.dialects.conversation import Turn
from clinvk.dialects.dialect import Call
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import ClientTool, Image, RunRequest

PNG = b"\x89PNG\r\n\x1a\n rest"
PNG_SOURCE: dict[str, object] = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
QUESTION: dict[str, object] = {"role": "user", "content": "hello"}


def call(headers: Mapping[str, str] | None = None, /, **body: object) -> Call:
    whole: dict[str, object] = {"model": "claude", "max_tokens": 1024, "messages": [QUESTION], **body}
    return Anthropic().parse(msgspec.json.encode(whole), headers or {})


def request(**body: object) -> RunRequest:
    return call(**body).request


def user(*blocks: object) -> list[object]:
    return [{"role": "user", "content": list(blocks)}]


def refused(**body: object) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as told:
        call(**body)
    return told.value.field, told.value.message


def test_single_text_is_the_literal_prompt_of_an_ephemeral_run() -> None:
    assert call() == Call(
        request=RunRequest(prompt="hello", model="claude", max_tokens=1024, literal=True, ephemeral=True),
        model="claude",
    )


def test_claude_code_request_is_parsed() -> None:
    """Taken from Claude Code 2.1.197, texts and tools shortened."""
    made = call(
        model="claude-opus-4-8",
        stream=True,
        max_tokens=64000,
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.d7d; cc_entrypoint=sdk-cli;"},
            {"type": "text", "text": "You are a Claude agent.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be helpful."},
        ],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>\nIt is Monday.\n</system-reminder>\n"},
                    {"type": "text", "text": "hello there", "cache_control": {"type": "ephemeral"}},
                ],
            },
            {"role": "system", "content": "Available agent types: none."},
            {"role": "system", "output_config": {"effort": "low"}},
        ],
        tools=[{"name": "Bash", "description": "Runs.", "input_schema": {"type": "object"}}],
        metadata={"user_id": '{"device_id":"d"}'},
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
    )
    assert made == Call(
        request=RunRequest(
            prompt="<system-reminder>\nIt is Monday.\n</system-reminder>\n\nhello there",
            model="claude-opus-4-8",
            system_prompt="You are a Claude agent.\n\nBe helpful.\n\nAvailable agent types: none.",
            max_tokens=64000,
            effort="high",
            thinking=True,
            literal=True,
            ephemeral=True,
            metadata={"user_id": '{"device_id":"d"}'},
            client_tools=(ClientTool("Bash", "Runs.", {"type": "object"}),),
        ),
        stream=True,
        model="claude-opus-4-8",
        has_tools=True,
        tool_turn=made.tool_turn,
    )
    assert made.tool_turn
    assert made.tool_turn.turns == (
        Turn("user", ("<system-reminder>\nIt is Monday.\n</system-reminder>\n", "hello there")),
        Turn("system", ("Available agent types: none.",)),
    )


def test_max_tokens_is_optional() -> None:
    body = msgspec.json.encode({"model": "claude", "messages": [QUESTION]})
    assert Anthropic().parse(body, {}).request.max_tokens is None


def test_unknown_fields_are_ignored_at_every_level() -> None:
    more: dict[str, object] = {"of_next_month": [1, {"a": None}]}
    made = call(
        **more,
        system=[{"type": "text", "text": "s", **more}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello", **more}], **more}],
        thinking={"type": "disabled", **more},
        output_config={"format": {"type": "json_schema", "schema": {}, **more}, **more},
        tool_choice={"type": "auto", **more},
    )
    assert (made.request.prompt, made.request.system_prompt) == ("hello", "s")


def test_unknown_blocks_are_skipped() -> None:
    blocks: list[object] = [{"type": "hologram", "text": 5, "source": "x"}, {"type": "text", "text": "hello"}]
    assert request(messages=user(*blocks)).prompt == "hello"


def test_prompt_contains_tool_calls_but_not_earlier_thinking() -> None:
    messages: list[object] = [
        {"role": "user", "content": "What is in a.txt?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "SECRET", "signature": "s"},
                {"type": "redacted_thinking", "data": "SECRET"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a.txt"}},
                {"type": "tool_use", "id": "t2", "name": "list", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "A"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}, {"type": "image", "source": PNG_SOURCE}],
                },
                {"type": "text", "text": "Go on."},
            ],
        },
    ]
    made = request(messages=messages)
    _, _, elements = made.prompt.partition("\n\n")
    assert elements == (
        '<turn role="user">\nWhat is in a.txt?\n</turn>\n\n'
        '<turn role="assistant">\nI look.\n</turn>\n\n'
        '<turn role="assistant" calls="read" id="t1">\n{"path":"a.txt"}\n</turn>\n\n'
        '<turn role="assistant" calls="list" id="t2">\n{}\n</turn>\n\n'
        '<turn role="tool" result-of="t1">\nA\n</turn>\n\n'
        '<turn role="tool" result-of="t2" error="true">\nno\n[Image #1]\n</turn>\n\n'
        '<turn role="user">\nGo on.\n</turn>'
    )
    assert made.images == (Image("image/png", PNG),)


def test_image_is_referenced_at_its_position() -> None:
    made = request(
        messages=user(
            {"type": "text", "text": "a"}, {"type": "image", "source": PNG_SOURCE}, {"type": "text", "text": "b"}
        )
    )
    assert (made.prompt, made.images) == ("a\n[Image #1]\nb", (Image("image/png", PNG),))


@pytest.mark.parametrize(
    ("block", "prompt"),
    [
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "It rains."}},
            "<document>\nIt rains.\n</document>",
        ),
        (
            {
                "type": "document",
                "title": 'The "sky"',
                "context": "From 1987.",
                "source": {"type": "content", "content": [{"type": "text", "text": "It rains."}]},
            },
            '<document title="The &quot;sky&quot;">\nFrom 1987.\nIt rains.\n</document>',
        ),
        (
            {
                "type": "search_result",
                "source": "https://sky.example",
                "title": "Sky",
                "content": [{"type": "text", "text": "It rains."}],
            },
            '<document title="Sky" source="https://sky.example">\nIt rains.\n</document>',
        ),
    ],
    ids=["text", "content", "search result"],
)
def test_text_document_is_part_of_the_prompt(block: object, prompt: str) -> None:
    assert request(messages=user(block)).prompt == prompt


@pytest.mark.parametrize(
    ("thinking", "shows", "effort"),
    [
        ({"type": "disabled"}, False, None),
        ({"type": "adaptive"}, True, None),
        ({"type": "adaptive", "display": "omitted"}, False, None),
        ({"type": "adaptive", "display": "summarized"}, True, None),
        ({"type": "enabled", "budget_tokens": 1024}, True, "low"),
        ({"type": "enabled", "budget_tokens": 10000}, True, "medium"),
        ({"type": "enabled", "budget_tokens": 32000}, True, "high"),
    ],
)
def test_thinking_option_sets_visibility_and_effort(thinking: object, shows: bool, effort: str | None) -> None:
    made = request(thinking=thinking)
    assert (made.thinking, made.effort) == (shows, effort)


def test_effort_takes_precedence_over_thinking_budget() -> None:
    made = request(thinking={"type": "enabled", "budget_tokens": 1024}, output_config={"effort": "max"})
    assert made.effort == "max"


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_output_schema_is_read_from_current_and_former_fields(field: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    format_: dict[str, object] = {"type": "json_schema", "schema": schema}
    made = request(**{field: {"format": format_} if field == "output_config" else format_})
    assert made.output_schema == schema


def test_text_document_in_the_system_prompt_is_kept() -> None:
    document = {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "d"}}
    assert request(system=[{"type": "text", "text": "a"}, document]).system_prompt == (
        'a\n\n<document title="t">\nd\n</document>'
    )


def test_stop_sequences_with_a_schema_are_reported_as_ignored() -> None:
    schema = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert call(stop_sequences=["x"], output_config=schema).ignored == ("stop_sequences",)


def test_stop_sequences_are_passed_on() -> None:
    assert request(stop_sequences=["END", "\n\n"]).stop == ("END", "\n\n")


def test_claude_code_session_header_is_ignored() -> None:
    made = call({"x-claude-code-session-id": "0b6a1c1e-6a0e-4f4e-9d43-9b1a3c1b1f6f"})
    assert (made.request.session_id, made.chat, made.request.ephemeral) == (None, None, True)


TOOL = {"name": "t", "description": "Gets.", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("choice", "instruction"),
    [
        ({"type": "any"}, "Answer with a call of a tool."),
        ({"type": "tool", "name": "t"}, "Answer with a call of the tool `t`."),
        ({"type": "auto", "disable_parallel_tool_use": True}, "Make at most one call at a time."),
    ],
)
def test_tool_choice_is_an_instruction_to_the_model(choice: object, instruction: str) -> None:
    made = call(tools=[TOOL], tool_choice=choice)
    assert made.request.client_tools == (ClientTool("t", "Gets.", {"type": "object"}),)
    assert made.tool_turn
    assert made.tool_turn.choice.instruction == instruction


def test_tool_choice_none_offers_no_tools_of_anyone() -> None:
    made = call(tools=[TOOL], tool_choice={"type": "none"})
    assert (made.request.client_tools, made.has_tools, made.tool_turn, made.ignored) == ((), True, None, ())


def test_hosted_tools_are_reported_as_ignored() -> None:
    made = call(tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}])
    assert ([tool.name for tool in made.request.client_tools], made.ignored) == (["t"], ("tools",))


def test_tools_with_the_same_name_are_refused() -> None:
    assert refused(tools=[TOOL, TOOL]) == ("tools", "tools: two tools have the name 't'")


IMAGE: dict[str, object] = {"type": "image", "source": PNG_SOURCE}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages"),
        ({"messages": [QUESTION, {"role": "tool", "content": "x"}]}, "messages[1].role"),
        ({"messages": user("x")}, "messages[0].content[0]"),
        ({"messages": user({"type": "text", "text": "a"}, {"type": "text"})}, "messages[0].content[1].text"),
        ({"messages": user({"type": "image", "source": {"type": "base64"}})}, "messages[0].content[0].source.data"),
        (
            {"messages": user({"type": "image", "source": {"type": "base64", "data": "aGVsbG8="}})},
            "messages[0].content[0].source.data",
        ),
        (
            {"messages": user({"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}})},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": user({"type": "document", "source": {"type": "base64", "data": "JVBERi0="}})},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text"}]})},
            "messages[0].content[0].content[0].text",
        ),
        ({"system": [{"type": "text", "text": None}]}, "system[0].text"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
        ({"system": [{"type": "text", "text": "a"}, IMAGE]}, "system[1]"),
        (
            {"messages": [{"role": "system", "content": [IMAGE]}, {"role": "user", "content": "hi"}]},
            "messages[0].content[0]",
        ),
        ({"thinking": {"budget_tokens": 5}}, "thinking.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
    ],
)
def test_error_names_the_invalid_field_of_the_body(body: dict[str, object], field: str) -> None:
    told, message = refused(**body)
    assert told == field
    assert field in message


def test_error_names_the_field_that_is_not_utf8() -> None:
    with pytest.raises(InvalidRequest) as told:
        Anthropic().parse(
            b'{"model":"claude","messages":[{"role":"user","content":[{"type":"text","text":"\xff"}]}]}', {}
        )
    assert (told.value.field, told.value.message) == (
        "messages[0].content[0]",
        "messages[0].content[0] is not valid UTF-8",
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "claude"}', b"\xff", b"[" * 100_000])
def test_malformed_body_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Anthropic().parse(body, {})


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_thread_is_refused_by_the_code_at_which_the_sdks_send_the_whole_conversation(thread: dict[str, str]) -> None:
    with pytest.raises(ThreadUnsupported) as raised:
        call(thread=thread)
    status, body = Anthropic().error(raised.value, "req_1")
    assert status == 400
    assert msgspec.json.decode(body)["error"]["details"] == {"error_code": "thread_unsupported_request"}


@pytest.mark.parametrize(
    ("text", "tokens"), [("hello", 2), ("x" * 4000, 1000), ("\u4f60\u597d", 2), ("\u4f60\u597d, you", 4), ("a", 1)]
)
def test_count_estimates_tokens_from_text(text: str, tokens: int) -> None:
    body = msgspec.json.encode({"model": "claude", "messages": [{"role": "user", "content": text}]})
    assert msgspec.to_builtins(Anthropic().count(body, {})) == {"input_tokens": tokens}


def test_count_includes_system_prompt_and_images() -> None:
    body = msgspec.json.encode({"model": "claude", "system": "x" * 400, "messages": user(IMAGE)})
    assert msgspec.to_builtins(Anthropic().count(body, {})) == {"input_tokens": 100 + 3 + 1600}
