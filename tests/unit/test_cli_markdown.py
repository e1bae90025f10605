"""Markdown on a terminal: blocks as they arrive."""

import re

import pytest

from clinvk.cli.terminal.markdown import BlockRenderer

STYLES = re.compile("\x1b\\[[0-9;]*m")


def plain(text: str) -> str:
    """Return the text without styles, and without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in STYLES.sub("", text).split("\n"))


def rendered(text: str, columns: int = 80, step: int = 1000) -> str:
    renderer = BlockRenderer(lambda: columns)
    pieces = [renderer.feed(text[at : at + step]) for at in range(0, len(text), step)]
    return "".join([*pieces, renderer.flush()])


def test_each_block_is_printed_once_the_next_one_begins() -> None:
    renderer = BlockRenderer(lambda: 80)
    assert renderer.feed("One **two**") == ""
    assert renderer.feed(" three.\n\n") == ""
    assert plain(renderer.feed("Next\n")) == "One two three.\n"
    assert plain(renderer.flush()) == "\nNext\n"
    assert renderer.flush() == ""


def test_list_items_are_printed_one_by_one_with_their_numbers() -> None:
    renderer = BlockRenderer(lambda: 80)
    assert renderer.feed("1. one\n") == ""
    assert plain(renderer.feed("2. two\n")) == " 1 one\n"
    assert plain(renderer.feed("3. three\n\nend\n")) == " 2 two\n 3 three\n"
    assert plain(renderer.flush()) == "\nend\n"


TEXT = """# Title

First line
second line with `code` and snake_case_name.

- one
- two
  - nested

```python
def f(): return 1

```

| A | B |
|---|--:|
| x | 12 |

> quoted

end"""


@pytest.mark.parametrize("step", [1, 3, 7, 50, 1000])
def test_text_in_pieces_looks_like_the_whole_text(step: int) -> None:
    assert plain(rendered(TEXT, step=step)) == plain(rendered(TEXT, step=1))


def test_line_ends_lists_tables_and_code_are_kept() -> None:
    lines = plain(rendered(TEXT)).split("\n")
    for line in (
        "Title",
        "First line",
        "second line with code and snake_case_name.",
        " \u2022 one",
        "def f(): return 1",
        "end",
    ):
        assert line in lines
    assert "\x1b[" in rendered(TEXT)


@pytest.mark.parametrize("columns", [20, 80, 120])
def test_text_is_wrapped_and_code_is_not(columns: int) -> None:
    code = "x = " + "1 + " * 60 + "1"
    lines = plain(rendered(f"{'word ' * 60}\n\n```\n{code}\n```\n", columns)).split("\n")
    assert code in lines
    assert max(len(line) for line in lines if line != code) <= columns


def test_code_inside_a_list_loses_nothing() -> None:
    code = "x" * 100
    assert "".join(plain(rendered(f"- item\n\n  ```\n  {code}\n  ```\n", 40)).split()).count("x") == 100


def test_text_cannot_control_the_terminal() -> None:
    text = rendered("a \x1b[31mred \x07 [link](https://example.com)\n")
    assert "\x1b[31m" not in text
    assert "\x1b]8" not in text
    assert "\x07" not in text
    assert "https://example.com" in plain(text)


@pytest.mark.parametrize(
    "text",
    ["a Vec<T> and <div>", "<details>\ntext\n</details>", "see [1]\n\n[1]: https://example.com", "![x](a.png)", "***"],
)
def test_nothing_but_markup_is_lost(text: str) -> None:
    shown = plain(rendered(f"{text}\n"))
    assert [word for word in re.findall(r"[\w<>:/.]+", text) if word not in shown] == []
    assert shown.strip()


@pytest.mark.parametrize("columns", [12, 20, 40])
def test_narrow_table_loses_nothing(columns: int) -> None:
    text = plain(rendered(f"| Name | Value |\n|---|---|\n| {'x' * 30} | {'z' * 40} |\n", columns))
    assert (text.count("x"), text.count("z"), "\u2026" in text) == (30, 40, False)
