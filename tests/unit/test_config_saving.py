"""Changes of a settings file on the disk."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from clinvk.config.saving import change, preview
from clinvk.types.errors import ConfigError

SET_ONE = """
import sys
from pathlib import Path
from clinvk.config.saving import change
for number in range(10):
    line = f"{sys.argv[2]}.{number}: 1\\n"
    change(Path(sys.argv[1]), lambda text: text + line, make_folder=False)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def appended(text: str) -> str:
    return text + "b: 2\n"


def test_a_new_file_is_its_owners_alone_in_a_folder_that_is_too(tmp_path: Path) -> None:
    file = tmp_path / "home" / ".clinvk" / "config.yaml"
    assert change(file, appended, make_folder=True)
    assert file.read_text() == "b: 2\n"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert os.listdir(file.parent) == ["config.yaml"]


def test_where_somebody_named_the_file_its_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be changed: No such file or directory"):
        change(tmp_path / "nowhere" / "config.yaml", appended, make_folder=False)
    assert os.listdir(tmp_path) == []


def test_the_mode_of_a_file_stays(file: Path) -> None:
    file.write_text("a: 1\n")
    file.chmod(0o640)
    change(file, appended, make_folder=False)
    assert (file.read_text(), mode(file)) == ("a: 1\nb: 2\n", 0o640)


def test_a_link_stays_and_what_it_leads_to_is_changed(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "dotfiles" / "clinvk.yaml"
    target.parent.mkdir()
    target.write_text("a: 1\n")
    file.symlink_to("dotfiles/clinvk.yaml")
    change(file, appended, make_folder=False)
    assert file.is_symlink()
    assert target.read_text() == "a: 1\nb: 2\n"


def test_a_mark_of_byte_order_and_line_ends_stay(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    change(file, lambda text: text.replace("1", "é"), make_folder=False)
    assert file.read_bytes() == "\ufeffa: é\r\n".encode()


def test_an_edit_that_raises_leaves_everything_as_it_was(file: Path) -> None:
    file.write_text("a: 1\n")

    def fail(text: str) -> str:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        change(file, fail, make_folder=False)
    assert file.read_text() == "a: 1\n"
    assert os.listdir(file.parent) == ["config.yaml"]


def test_a_file_that_is_so_already_is_not_written(file: Path) -> None:
    file.write_text("a: 1\n")
    before = file.stat()
    assert not change(file, str, make_folder=False)
    assert file.stat().st_ino == before.st_ino
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_a_preview_writes_nothing(file: Path) -> None:
    assert preview(file, appended)
    assert not preview(file, str)
    assert not file.exists()


@pytest.mark.parametrize("target", ["/dev/null", "folder"])
def test_what_is_no_regular_file_is_not_replaced(file: Path, target: str) -> None:
    if target == "folder":
        (file.parent / target).mkdir()
    file.symlink_to(target)
    with pytest.raises(ConfigError, match="is no regular file"):
        change(file, appended, make_folder=False)
    assert Path("/dev/null").is_char_device()


def test_a_file_that_is_no_text_says_so(file: Path) -> None:
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text: invalid start byte at byte 3"):
        change(file, appended, make_folder=False)


def test_a_file_that_is_protected_stays_as_it_is_but_for_root(file: Path) -> None:
    file.write_text("a: 1\n")
    file.chmod(0o400)
    may_write = nullcontext() if os.geteuid() == 0 else pytest.raises(ConfigError, match="Permission denied")
    with may_write:
        change(file, appended, make_folder=False)
    assert mode(file) == 0o400


def test_changes_at_the_same_time_do_not_lose_each_other(file: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", SET_ONE, str(file), name]) for name in "abcdef"]
    assert [process.wait() for process in processes] == [0] * 6
    assert sorted(file.read_text().split("\n")[:-1]) == sorted(f"{n}.{k}: 1" for n in "abcdef" for k in range(10))
