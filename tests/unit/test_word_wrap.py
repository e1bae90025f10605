"""Lines that are broken between words as they arrive."""

import pytest

from clinvk.cli.terminal.word_wrap import WordWrap


def wrapped(text: str, columns: int = 20, step: int = 1000) -> str:
    wrap = WordWrap(lambda: columns)
    return "".join([*(wrap.feed(text[at : at + step]) for at in range(0, len(text), step)), wrap.flush()])


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five six\n", "one two three four\nfive six\n"),
        ("a\n\nb  c \n", "a\n\nb  c \n"),
        ("漢字漢字漢 字漢字漢字漢 x", "漢字漢字漢 字漢字漢\n字漢 x"),
        ("x" * 30 + " y", "x" * 30 + "\ny"),
        ("    code that is longer than the line\n", "    code that is longer than the line\n"),
        ("| a cell | of a table | that is long |\n", "| a cell | of a table | that is long |\n"),
        ("```\n" + "c " * 20 + "\n```\n" + "d " * 11 + "\n", "```\n" + "c " * 20 + "\n```\n" + "d " * 9 + "d\nd \n"),
        ("a\u3000b\x0bc\r\nd", "a\u3000b\x0bc\r\nd"),
    ],
)
def test_lines_end_between_words_and_nothing_is_lost(text: str, expected: str, step: int) -> None:
    assert wrapped(text, step=step) == expected


def test_word_is_printed_once_its_end_has_come() -> None:
    wrap = WordWrap(lambda: 80)
    assert [wrap.feed("one tw"), wrap.feed("o th"), wrap.flush()] == ["one", " two", " th"]


def test_chinese_text_is_printed_as_it_arrives() -> None:
    wrap = WordWrap(lambda: 80)
    assert [wrap.feed("漢字"), wrap.feed("漢。"), wrap.flush()] == ["漢", "字漢", "。"]


def test_time_is_linear_in_the_length_of_a_word() -> None:
    word = "x" * 200_000
    assert wrapped(f"{word} y", step=300_000) == f"{word}\ny"
