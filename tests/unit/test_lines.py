import pytest

from clinvk.runtime.process.process import LineSplitter, LineTooLong

TEXT = b"one\n\ntwo\r\n" + b"x" * 1000 + b"\nlast"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_chunk_size_does_not_change_the_lines(size: int) -> None:
    splitter = LineSplitter(2000)
    lines = [line for start in range(0, len(TEXT), size) for line in splitter.feed(TEXT[start : start + size])]
    assert [*lines, *splitter.feed(b"")] == [b"one", b"two\r", b"x" * 1000, b"last"]


def test_end_returns_nothing_after_a_final_newline() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"a\n") == [b"a"]
    assert splitter.feed(b"") == []


def test_line_over_the_limit_is_refused_before_its_newline() -> None:
    splitter = LineSplitter(10)
    splitter.feed(b"x" * 10)
    with pytest.raises(LineTooLong):
        splitter.feed(b"x")


def test_limit_applies_to_each_line() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"aaaa\nbbbb\ncc") == [b"aaaa", b"bbbb"]
    assert splitter.feed(b"cc\n") == [b"cccc"]


def test_splitting_continues_after_a_too_long_line() -> None:
    splitter = LineSplitter(4)
    with pytest.raises(LineTooLong):
        splitter.feed(b"aaaaa")
    assert splitter.feed(b"rest\nnext\n") == [b"rest", b"next"]
