from clinvk.runtime.run.run_io import ActivityCounter
from clinvk.types.events import Progress, TextDelta, ToolCall, ToolResult


def test_turn_ends_when_all_of_its_tools_have_returned() -> None:
    activity = ActivityCounter()
    for event in (TextDelta("I look"), ToolCall("1", "Read", {}), ToolCall("2", "Read", {}), ToolResult("1", "")):
        activity.feed(event)
    assert (activity.turns_ended, activity.turns) == (0, 1)
    activity.feed(ToolResult("2", ""))
    assert (activity.turns_ended, activity.turns) == (1, 1)
    activity.feed(TextDelta("done"))
    assert activity.turns == 2


def test_tool_calls_without_a_result_are_open() -> None:
    activity = ActivityCounter()
    activity.feed(ToolCall("1", "Bash", {}))
    assert activity.open_calls == {"1"}
    activity.feed(ToolResult("1", "ok"))
    assert not activity.open_calls


def test_progress_events_do_not_count_as_activity() -> None:
    assert not ActivityCounter().feed(Progress("retry", "429"))
    assert ActivityCounter().feed(TextDelta("x"))
