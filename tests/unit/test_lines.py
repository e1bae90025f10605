import pytest

from clinvk.runtime.process.lines import LineSplitter, LineTooLong

TEXT = b"one\n\ntwo\r\n" + b"x" * 1000 + b"\nlast"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_chunks_of_any_size_give_the_same_lines(size: int) -> None:
    splitter = LineSplitter(2000)
    lines = [line for start in range(0, len(TEXT), size) for line in splitter.feed(TEXT[start : start + size])]
    assert [*lines, *splitter.end()] == [b"one", b"two\r", b"x" * 1000, b"last"]


def test_end_gives_nothing_when_the_last_line_was_closed() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"a\n") == [b"a"]
    assert splitter.end() == []


def test_a_line_over_the_limit_is_refused_before_its_newline_comes() -> None:
    splitter = LineSplitter(10)
    splitter.feed(b"x" * 10)
    with pytest.raises(LineTooLong):
        splitter.feed(b"x")


def test_the_limit_is_for_each_line_not_for_all() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"aaaa\nbbbb\ncc") == [b"aaaa", b"bbbb"]
    assert splitter.feed(b"cc\n") == [b"cccc"]


def test_after_a_line_that_was_too_long_the_next_is_read() -> None:
    splitter = LineSplitter(4)
    with pytest.raises(LineTooLong):
        splitter.feed(b"aaaaa")
    assert splitter.feed(b"rest\nnext\n") == [b"rest", b"next"]
