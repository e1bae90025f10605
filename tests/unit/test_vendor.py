"""Parts that the vendors' dialects share: clinvk's headers, sessions, and visible thinking."""

import pytest
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.dialects.conversation import Conversation, Turn
from clinvk.dialects.dialect import Call
from clinvk.dialects.vendor import HeaderOptions
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Event, RunStarted, TextDelta, ThinkingDelta, ToolCall, ToolResult
from clinvk.types.request import Image, RunRequest

BARE = RunRequest(prompt="", model="m")
IMAGE = Image("image/png", b"x")
TALK = Conversation(("s",), (Turn("user", ("one", IMAGE)), Turn("assistant", ("tw", "o")), Turn("user", ("three",))))


def test_request_without_headers_is_ephemeral() -> None:
    assert vendor.header_options({"user-agent": "x"}) == HeaderOptions()
    request = vendor.call(BARE, TALK, HeaderOptions()).request
    assert (request.ephemeral, request.session_id, request.literal) == (True, None, True)
    assert request.images == (IMAGE,)


def test_each_header_is_parsed() -> None:
    headers = {
        "x-clinvk-session-id": " abc ",
        "x-clinvk-workdir": "/größe".encode().decode("latin-1"),
        "x-clinvk-approval-mode": "none",
        "x-clinvk-sandbox-mode": "workspace",
        "x-clinvk-events": "True",
        "x-clinvk-on-busy": "queue",
        "x-openwebui-chat-id": "c1",
    }
    assert vendor.header_options(headers) == HeaderOptions(
        session_id="abc",
        chat="c1",
        workdir="/größe",
        approval_mode="none",
        sandbox_mode="workspace",
        shows_work=True,
        on_busy="queue",
    )
    assert vendor.call(BARE, TALK, HeaderOptions(session_id="abc", on_busy="queue")).request.on_busy == "queue"


def test_empty_header_is_ignored() -> None:
    assert vendor.header_options(dict.fromkeys((*vendor.HEADERS, "x-openwebui-chat-id"), "")) == HeaderOptions()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x-clinvk-approval-mode", "yolo", 'one of always, ask, auto, default, none, got "yolo"'),
        ("x-clinvk-sandbox-mode", "none", 'one of default, full, read-only, workspace, got "none"'),
        ("x-clinvk-events", "maybe", 'true or false, got "maybe"'),
        ("x-clinvk-tools", "null", 'one of agent, both, client, got "null"'),
        ("x-clinvk-on-busy", "steer", 'one of queue, reject, got "steer"'),
        ("x-clinvk-workdir", "\xff", "not valid UTF-8"),
    ],
)
def test_invalid_header_is_reported_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        vendor.header_options({name: value})
    assert told.value.field == name
    assert said in told.value.message


def test_existing_session_receives_only_the_new_turns() -> None:
    call = vendor.call(BARE, TALK, HeaderOptions(session_id="abc"))
    request = call.request
    assert (request.prompt, request.images, request.session_id) == ("three", (), "abc")
    assert (request.system_prompt, request.ephemeral) == ("s", False)
    assert call.chat is None


def test_session_id_new_starts_a_session() -> None:
    request = vendor.call(BARE, TALK, vendor.header_options({"x-clinvk-session-id": "new"})).request
    assert (request.session_id, request.ephemeral) == (None, False)
    assert "one" in request.prompt


def test_named_chat_has_the_full_conversation_and_the_new_turns() -> None:
    call = vendor.call(BARE, TALK, HeaderOptions(chat="c1"))
    assert call.chat
    assert (call.chat.name, call.request.ephemeral) == ("c1", False)
    assert "one" in call.request.prompt
    assert call.chat.answered
    assert call.chat.answered.answer == "two"
    assert (call.chat.answered.latest.prompt, call.chat.answered.latest.images) == ("three", ())


def test_chat_digest_before_the_last_answer_matches_the_previous_request() -> None:
    def digests(*turns: Turn) -> tuple[str, str]:
        chat = vendor.call(BARE, Conversation((), turns), HeaderOptions(chat="c1")).chat
        assert chat
        return chat.digest, chat.answered.digest if chat.answered else ""

    first, (_, answer, last) = TALK.turns[0], TALK.turns
    begun, _ = digests(first)
    whole, before = digests(first, answer, last)
    assert begun == before != whole
    for other in (replace(first, content=("one",)), replace(first, content=(IMAGE, "one")), replace(first, name="n")):
        assert digests(other, answer, last)[1] != before


def test_empty_last_answer_does_not_change_the_chat() -> None:
    options = HeaderOptions(chat="c1")
    with_empty_answer = replace(TALK, turns=(*TALK.turns, Turn("assistant", ("",))))
    assert vendor.call(BARE, with_empty_answer, options) == vendor.call(BARE, TALK, options)


@pytest.mark.parametrize("turns", [TALK.turns[:1], TALK.turns[:2]], ids=["begins", "ends with the answer"])
def test_chat_without_a_turn_after_an_answer_resumes_no_session(turns: tuple[Turn, ...]) -> None:
    call = vendor.call(BARE, Conversation((), turns), HeaderOptions(chat="c1"))
    assert call.chat
    assert (call.chat.name, call.chat.answered) == ("c1", None)


def thought(event: Event, *, thinking: bool = False, shows_work: bool = False) -> str:
    request = RunRequest(prompt="x", thinking=thinking)
    return vendor.visible_thinking(event, Call(request=request, shows_work=shows_work))


def test_thinking_and_tool_calls_are_shown_only_on_request() -> None:
    use, result = ToolCall("1", "Bash", {"command": "ls"}), ToolResult("1", "no", is_error=True)
    events: tuple[Event, ...] = (ThinkingDelta("hm"), use, result, TextDelta("x"), RunStarted())
    assert [thought(event) for event in events] == ["", "", "", "", ""]
    assert [thought(event, thinking=True) for event in events] == ["hm", "", "", "", ""]
    assert [thought(event, shows_work=True) for event in events] == [
        "",
        '\n[Bash] {"command":"ls"}\n',
        "[error] no\n",
        "",
        "",
    ]


def test_requesting_tool_events_includes_thinking() -> None:
    assert vendor.call(BARE, TALK, vendor.header_options({"x-clinvk-events": "1"})).request.thinking


def test_long_tool_output_is_truncated() -> None:
    assert len(thought(ToolResult("1", "x" * 100_000), shows_work=True)) < 2100
