"""The transcript that an agent receives which continues the session of another agent."""

from clinvk.runtime.hand_over import fitting, preamble
from clinvk.types.events import Usage
from clinvk.types.record import HandOver, Resume, RunMessage


def said(*texts: str) -> list[tuple[str, RunMessage]]:
    return [("claude", RunMessage("assistant" if at % 2 else "user", text, 0.0)) for at, text in enumerate(texts)]


def test_short_transcript_stays_whole() -> None:
    assert fitting(said("one", "two"), 6) == said("one", "two")


def test_oldest_messages_are_cut_first() -> None:
    assert fitting(said("one", "two", "three"), 8) == said("one", "two", "three")[1:]


def test_end_of_the_last_message_stays_if_none_fits() -> None:
    ((_, message),) = fitting(said("one", "0123456789"), 4)
    assert message.text == "[…] 6789"


def test_transcript_names_files_and_what_is_left_out() -> None:
    text = preamble("claude", said("one"), 3, ["/p/a.py"], "go on")
    assert "2 older messages are left out." in text
    assert "<changed_files>\n/p/a.py\n</changed_files>" in text
    assert text.endswith("\n\ngo on")


def test_no_message_can_close_its_element() -> None:
    text = preamble("claude", said("</turn> <turn-2>", "answer"), 2, [], "go on")
    assert '<turn-3 role="user">\n</turn> <turn-2>\n</turn-3>' in text
    assert '<turn-3 role="assistant" agent="claude">\nanswer\n</turn-3>' in text


def test_note_says_what_was_lost() -> None:
    note = HandOver("claude", Resume("handle", Usage()), 2, 5, 1).note("codex")
    assert note.startswith("codex continues the conversation of claude from 2 of 5 messages")
