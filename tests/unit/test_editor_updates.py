"""Events as updates for an editor, approvals as permission requests, and prompts of an editor."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from clinvk.acp.updates import TurnUpdates, answer_of, prompt_of, prompt_result
from clinvk.backends import acp_wire as wire
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import (
    Event,
    InteractionResolved,
    PlanStep,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
    UserMessage,
    plan,
)
from clinvk.types.interaction import QUESTION_CHOICES, FieldOption, Interaction, InteractionAnswer, QuestionField

PNG = b"\x89PNG\r\n\x1a\n"
DIFF = (
    "--- a.txt\n+++ a.txt\n@@ -1,2 +1,2 @@\n same\n-old\n+new\n--- b.txt\n+++ b.txt\n@@ -0,0 +1 @@\n+b\n\\ No newline\n"
)
DIFFS: list[dict[str, Any]] = [
    {"type": "diff", "path": "/w/a.txt", "oldText": "same\nold\n", "newText": "same\nnew\n"},
    {"type": "diff", "path": "/w/b.txt", "newText": "b\n"},
]


def encoded(*values: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(values))


def updates(*events: Event) -> Any:
    feed = TurnUpdates("/w").feed
    return encoded(*(update for event in events for update in feed(event)))


def text(content: str) -> list[dict[str, Any]]:
    return [{"type": "content", "content": {"type": "text", "text": content}}]


def test_text_thinking_and_progress_are_chunks() -> None:
    found = updates(
        RunStarted("m"),
        ThinkingDelta("hm"),
        Progress("retry", "once more"),
        Progress("stderr", "noise"),
        TextDelta(""),
        UserMessage("and more"),
        TextDelta("Hi"),
        RunFinished(),
    )
    assert [(each["sessionUpdate"], each["content"]["text"].strip()) for each in found] == [
        ("agent_thought_chunk", "hm"),
        ("agent_thought_chunk", "retry: once more"),
        ("user_message_chunk", "and more"),
        ("agent_message_chunk", "Hi"),
    ]


def test_plan_is_an_update_with_all_entries() -> None:
    assert updates(plan([PlanStep("one", "completed", "high"), PlanStep("two")])) == [
        {
            "sessionUpdate": "plan",
            "entries": [
                {"content": "one", "status": "completed", "priority": "high"},
                {"content": "two", "status": "pending", "priority": "medium"},
            ],
        }
    ]


def test_commands_of_the_agent_are_those_of_the_session() -> None:
    assert updates(RunStarted("m", commands=("review",))) == [
        {
            "sessionUpdate": "available_commands_update",
            "availableCommands": [{"name": "review", "description": "Run /review of the agent"}],
        }
    ]


def test_tool_call_has_kind_place_and_edit_and_ends_once() -> None:
    edit: dict[str, object] = {"file_path": "a.txt", "old_string": "old", "new_string": "new"}
    assert updates(ToolCall("t", "Edit", edit), ToolResult("t", "done"), ToolResult("t", "again"), RunFinished()) == [
        {
            "sessionUpdate": "tool_call",
            "toolCallId": "t",
            "title": "Edit a.txt",
            "kind": "edit",
            "status": "in_progress",
            "content": [{"type": "diff", "path": "/w/a.txt", "oldText": "old", "newText": "new"}],
            "locations": [{"path": "/w/a.txt"}],
            "rawInput": edit,
        },
        {"sessionUpdate": "tool_call_update", "toolCallId": "t", "status": "completed"},
    ]


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("Bash", {"command": "ls"}, "execute"),
        ("Read", {"file_path": "/a"}, "read"),
        ("Grep", {"pattern": "x", "path": "/a"}, "search"),
        ("WebFetch", {"url": "https://example.org"}, "fetch"),
        ("Write", {"file_path": "/a", "content": ""}, "edit"),
        ("file_change", {"changes": [{"path": "/a", "kind": "add"}]}, "edit"),
        ("think", {"title": "x"}, "think"),
        ("mcp__x__y", {}, "other"),
    ],
)
def test_kind_of_a_tool_comes_from_its_input(name: str, given: dict[str, object], kind: str) -> None:
    (call,) = updates(ToolCall("t", name, given))
    assert call["kind"] == kind


def test_output_of_a_tool_cannot_end_its_fence() -> None:
    *_, ended = updates(ToolCall("t", "Bash", {"command": "x"}), ToolResult("t", "\x1b[31m```\nred", is_error=True))
    assert (ended["status"], ended["content"]) == ("failed", text("````\n```\nred\n````"))


def test_unfinished_calls_fail_at_the_end() -> None:
    for ending in (RunFinished(), RunFailed("cancelled", "x")):
        *_, ended = updates(ToolCall("t", "Bash", {"command": "x"}), ending)
        assert (ended["toolCallId"], ended["status"]) == ("t", "failed")


def test_unified_diff_becomes_the_changed_parts_of_each_file() -> None:
    (call,) = updates(ToolCall("t", "edit", {"diff": DIFF}))
    assert call["content"] == DIFFS


def test_permission_belongs_to_the_call_with_the_same_input() -> None:
    turn = TurnUpdates("/w")
    for id_, command in (("t1", "one"), ("t2", "two"), ("t3", "three")):
        list(turn.feed(ToolCall(id_, "Bash", {"command": command})))
    permission = turn.permission(
        Interaction(id="i", tool="Bash", note="Run it", input={"command": "two"}, command="two")
    )
    assert permission
    tool, options = encoded(*permission)
    assert (tool["toolCallId"], tool["title"], tool["status"]) == ("t2", "Bash two", "pending")
    assert tool["content"] == text("```\nRun it\n\ntwo\n```")
    assert "sessionUpdate" not in tool
    assert [(each["optionId"], each["kind"]) for each in options] == [
        ("allow", "allow_once"),
        ("allow_session", "allow_always"),
        ("deny", "reject_once"),
    ]


def test_permission_without_a_call_is_a_call_of_its_own() -> None:
    turn = TurnUpdates("/w")
    interaction = Interaction(id="i", title="Go on?", diff=DIFF, choices=("allow", "deny"))
    permission = turn.permission(interaction)
    assert permission
    tool, options = encoded(*permission)
    assert (tool["toolCallId"], tool["title"], tool["content"], len(options)) == ("i", "Go on?", DIFFS, 2)
    answered = msgspec.structs.replace(interaction, status="answered", answer=InteractionAnswer(choice="allow"))
    (ended,) = encoded(*turn.feed(InteractionResolved(answered)))
    assert (ended["toolCallId"], ended["status"]) == ("i", "completed")


def test_permission_for_an_edit_shows_the_other_input_too() -> None:
    given: dict[str, object] = {"command": "pytest", "content": "b"}
    permission = TurnUpdates("/w").permission(Interaction(id="i", tool="edit", title="Edit", input=given, diff=DIFF))
    assert permission
    tool, *_ = encoded(*permission)
    assert tool["content"] == [*DIFFS, *text('```\n{\n  "command": "pytest"\n}\n```')]


def question(**more: Any) -> Interaction:
    options = (FieldOption("deny", "Red"), FieldOption("b"))
    fields = (QuestionField(id="color", label="Which?", options=options, **more),)
    return Interaction(id="q", kind="question", title="Which?", fields=fields, choices=QUESTION_CHOICES)


def test_question_with_one_choice_offers_its_values() -> None:
    permission = TurnUpdates("/w").permission(question())
    assert permission
    assert [(each.option_id, each.name) for each in permission[1]] == [("0", "Red"), ("1", "b"), ("deny", "Deny")]
    assert TurnUpdates("/w").permission(question(multiple=True)) is None


@pytest.mark.parametrize(
    ("interaction", "option", "choice", "answers"),
    [
        (Interaction(id="i"), "allow_session", "allow_session", {}),
        (Interaction(id="i", choices=("allow", "deny")), "allow_session", "deny", {}),
        (Interaction(id="i"), "0", "deny", {}),
        (Interaction(id="i"), "answer", "deny", {}),
        (question(), "0", "answer", {"color": "deny"}),
        (question(), "2", "deny", {}),
        (question(), "answer", "deny", {}),
    ],
)
def test_option_is_an_answer_or_else_denies(
    interaction: Interaction, option: str, choice: str, answers: dict[str, object]
) -> None:
    answer = answer_of(interaction, {"outcome": {"outcome": "selected", "optionId": option}})
    assert (answer.choice, answer.answers) == (choice, answers)


@pytest.mark.parametrize("result", [{}, {"outcome": {"outcome": "cancelled"}}, {"outcome": "allow"}, {"outcome": {}}])
def test_any_other_result_of_a_permission_request_denies(result: dict[str, object]) -> None:
    assert answer_of(Interaction(id="i"), result).choice == "deny"


def test_result_has_stop_reason_and_usage() -> None:
    usage = Usage(7, 2, 3)
    assert encoded(prompt_result(RunFinished("max_turns", usage))) == [
        {
            "stopReason": "max_turn_requests",
            "usage": {"inputTokens": 7, "outputTokens": 2, "totalTokens": 9, "cachedReadTokens": 3},
        }
    ]
    assert encoded(prompt_result(RunFinished("stop_sequence"))) == [{"stopReason": "end_turn"}]


def test_prompt_keeps_links_in_place_and_adds_resources_after_the_text() -> None:
    image = b64encode(PNG).decode()
    text, images = prompt_of(
        [
            wire.Block("text", "Look at "),
            wire.Block("resource_link", uri="file:///w/a.py", name="a.py"),
            wire.Block("text", " and "),
            wire.Block("resource", resource=wire.Resource("file:///w/b.py", "x = '</context>'")),
            wire.Block("image", data=image, mime_type="image/gif"),
            wire.Block("text", "Then"),
            wire.Block("text", "stop."),
        ]
    )
    assert text == (
        "Look at [@a.py](file:///w/a.py) and [@b.py](file:///w/b.py)Then\nstop.\n\n"
        "<context-2 ref=\"file:///w/b.py\">\nx = '</context>'\n</context-2>"
    )
    assert [(each.media_type, each.data) for each in images] == [("image/png", PNG)]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (wire.Block("audio", data="x"), "of type 'audio'"),
        (wire.Block("image", data="https://example.org/a.png"), "no address is fetched"),
        (wire.Block("resource", resource=wire.Resource("file:///w/b.pdf", blob="AAAA")), "a binary file"),
        (wire.Block("text", "  \n"), "the prompt is empty"),
    ],
)
def test_prompt_that_cannot_be_sent_is_refused(block: wire.Block, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        prompt_of([block])
