"""What the vendors' dialects share: clinvk's own headers, sessions, and what shows as thinking."""

import pytest
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.dialects.conversation import Conversation, Turn
from clinvk.dialects.dialect import Call
from clinvk.dialects.vendor import Asked
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Event, RunStarted, TextDelta, ThinkingDelta, ToolCall, ToolResult
from clinvk.types.request import MAX_STOP_CHARS, Image, RunRequest

BARE = RunRequest(prompt="", model="m")
IMAGE = Image("image/png", b"x")
TALK = Conversation(
    ("s",),
    (Turn("user", ("one", IMAGE)), Turn("assistant", ("tw", "o")), Turn("user", ("three",))),
)


def test_without_headers_nothing_is_asked_and_no_session_is_kept() -> None:
    assert vendor.asked({"user-agent": "x"}) == Asked()
    request = vendor.call(BARE, TALK, Asked()).request
    assert (request.ephemeral, request.session_id, request.literal) == (True, None, True)
    assert request.images == (IMAGE,)


def test_each_header_is_read() -> None:
    headers = {
        "x-clinvk-session-id": " abc ",
        "x-clinvk-workdir": "/größe".encode().decode("latin-1"),
        "x-clinvk-approval-mode": "none",
        "x-clinvk-sandbox-mode": "workspace",
        "x-clinvk-events": "True",
        "x-openwebui-chat-id": "c1",
    }
    assert vendor.asked(headers) == Asked(
        session_id="abc",
        chat="c1",
        workdir="/größe",
        approval_mode="none",
        sandbox_mode="workspace",
        shows_work=True,
    )


def test_an_empty_header_is_as_if_it_were_not_there() -> None:
    assert vendor.asked(dict.fromkeys((*vendor.HEADERS, *vendor.CHATS), "")) == Asked()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x-clinvk-approval-mode", "yolo", "one of default, auto, none, always, got 'yolo'"),
        ("x-clinvk-sandbox-mode", "none", "one of default, read-only, workspace, full, got 'none'"),
        ("x-clinvk-events", "maybe", "true or false, got 'maybe'"),
        ("x-clinvk-workdir", "\xff", "not valid UTF-8"),
    ],
)
def test_a_wrong_header_is_named(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        vendor.asked({name: value})
    assert told.value.field == name
    assert said in told.value.message


def test_a_session_gets_only_what_it_does_not_have() -> None:
    call = vendor.call(BARE, TALK, Asked(session_id="abc"))
    request = call.request
    assert (request.prompt, request.images, request.session_id) == ("three", (), "abc")
    assert (request.system_prompt, request.ephemeral) == ("s", False)
    assert call.chat is None


def test_a_session_begins_where_the_client_says_so() -> None:
    request = vendor.call(BARE, TALK, vendor.asked({"x-clinvk-session-id": "new"})).request
    assert (request.session_id, request.ephemeral) == (None, False)
    assert "one" in request.prompt


def test_a_chat_that_the_client_names_has_both_all_of_it_and_what_is_new() -> None:
    call = vendor.call(BARE, TALK, Asked(chat="c1"))
    assert call.chat
    assert (call.chat.name, call.request.ephemeral) == ("c1", False)
    assert "one" in call.request.prompt
    assert call.chat.answered
    assert call.chat.answered.answer == "two"
    assert (call.chat.answered.latest.prompt, call.chat.answered.latest.images) == ("three", ())


def test_what_a_chat_was_told_before_its_last_answer_is_what_the_request_for_that_answer_told() -> None:
    def digests(*turns: Turn) -> tuple[str, str]:
        chat = vendor.call(BARE, Conversation((), turns), Asked(chat="c1")).chat
        assert chat
        return chat.digest, chat.answered.digest if chat.answered else ""

    first, (_, answer, last) = TALK.turns[0], TALK.turns
    begun, _ = digests(first)
    whole, before = digests(first, answer, last)
    assert begun == before != whole
    for other in (replace(first, content=("one",)), replace(first, content=(IMAGE, "one")), replace(first, name="n")):
        assert digests(other, answer, last)[1] != before


def test_an_answer_of_which_nothing_is_there_yet_makes_no_other_chat() -> None:
    asked = vendor.call(BARE, TALK, Asked(chat="c1"))
    assert vendor.call(BARE, replace(TALK, turns=(*TALK.turns, Turn("assistant", ("",)))), Asked(chat="c1")) == asked


@pytest.mark.parametrize("turns", [TALK.turns[:1], TALK.turns[:2]], ids=["begins", "ends with the answer"])
def test_a_chat_with_nothing_after_an_answer_goes_on_in_no_session(turns: tuple[Turn, ...]) -> None:
    call = vendor.call(BARE, Conversation((), turns), Asked(chat="c1"))
    assert call.chat
    assert (call.chat.name, call.chat.answered) == ("c1", None)


def thought(event: Event, *, thinking: bool = False, shows_work: bool = False) -> str:
    request = RunRequest(prompt="x", thinking=thinking)
    return vendor.thought(event, Call(request=request, shows_work=shows_work))


def test_thinking_and_work_show_only_where_each_is_asked_for() -> None:
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


def test_who_asks_for_the_work_gets_the_thinking_too() -> None:
    assert vendor.call(BARE, TALK, vendor.asked({"x-clinvk-events": "yes"})).request.thinking


def test_a_long_output_shows_in_part() -> None:
    assert len(thought(ToolResult("1", "x" * 100_000), shows_work=True)) < 2100


def test_a_stop_text_has_a_length_at_most() -> None:
    longest = "x" * MAX_STOP_CHARS
    assert vendor.stops(["a", longest]) == ("a", longest)
    with pytest.raises(InvalidRequest) as told:
        vendor.stops(["a", longest + "x"], "stop_sequences")
    assert told.value.field == "stop_sequences[1]"
    assert told.value.message == f"stop_sequences[1] has {MAX_STOP_CHARS + 1} characters; at most 100 are allowed"
