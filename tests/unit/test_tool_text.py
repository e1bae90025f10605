"""Tool calls as people read them, in the status line and with -v."""

import pytest

from clinvk.cli.prompt.status_line import edit_lines
from clinvk.types.events import ToolCall
from clinvk.types.tool_text import tool_text


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("command_execution", {"command": "/bin/bash -lc 'sleep 3; echo hi'"}, "Shell sleep 3; echo hi"),
        ("command_execution", {"command": "/usr/bin/zsh -lc \"echo 'a b'\""}, "Shell echo 'a b'"),
        ("command_execution", {"command": "ls -l"}, "Shell ls -l"),
        ("command_execution", {"command": "bash -lc 'unbalanced"}, "Shell bash -lc 'unbalanced"),
        ("file_change", {"changes": [{"path": "calc.py", "kind": "update"}]}, "Edit calc.py"),
        ("file_change", {"changes": [{"path": "a", "kind": "add"}, {"path": "b", "kind": "delete"}]}, "Edit a, b"),
        ("file_change", {"changes": ["add /p/a.txt", "update /p/b c"]}, "Edit /p/a.txt, /p/b c"),
        ("file_change", {"changes": "a cut te"}, 'file_change {"changes":"a cut te"}'),
        ("Bash", {"command": "ls"}, "Bash ls"),
    ],
)
def test_tool_call_is_named_by_its_action(name: str, given: dict[str, object], text: str) -> None:
    assert tool_text(ToolCall("t", name, given)) == text


def test_written_file_shows_its_first_lines_as_added() -> None:
    call = ToolCall("t", "Write", {"file_path": "/x.py", "content": "a = 1\nb = \x1b2\n"})
    assert edit_lines(call, is_colored=False) == ["@@ -0,0 +1,2 @@", "+a = 1", "+b = ?2"]
    assert edit_lines(call, is_colored=True)[1] == "\x1b[32m+a = 1\x1b[m"


def test_long_written_file_is_cut() -> None:
    call = ToolCall("t", "Write", {"file_path": "/x", "content": "".join(f"{number}\n" for number in range(50))})
    lines = edit_lines(call, is_colored=False)
    assert (lines[1], lines[-2:]) == ("+0", ["+18", "… 31 more lines"])


def test_tool_without_an_edit_has_no_diff() -> None:
    assert edit_lines(ToolCall("t", "Bash", {"command": "ls"}), is_colored=False) == []
    assert edit_lines(ToolCall("t", "Write", {"content": 3}), is_colored=False) == []
