"""Changes of a settings file on the disk."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from clinvk.config.saving import change_file
from clinvk.types.errors import ConfigError

SET_ONE = """
import sys
from pathlib import Path
from clinvk.config.saving import change_file
for number in range(10):
    line = f"{sys.argv[2]}.{number}: 1\\n"
    change_file(Path(sys.argv[1]), lambda text: text + line, make_folder=False)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def appended(text: str) -> str:
    return text + "b: 2\n"


def test_new_file_and_folder_are_private(tmp_path: Path) -> None:
    file = tmp_path / "home" / ".clinvk" / "config.yaml"
    assert change_file(file, appended, make_folder=True)
    assert file.read_text() == "b: 2\n"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert os.listdir(file.parent) == ["config.yaml"]


def test_folder_of_a_named_file_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be changed: No such file or directory"):
        change_file(tmp_path / "nowhere" / "config.yaml", appended, make_folder=False)
    assert os.listdir(tmp_path) == []


def test_file_mode_is_kept(file: Path) -> None:
    file.write_text("a: 1\n")
    file.chmod(0o640)
    change_file(file, appended, make_folder=False)
    assert (file.read_text(), mode(file)) == ("a: 1\nb: 2\n", 0o640)


def test_symlink_is_kept_and_its_target_is_changed(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "dotfiles" / "clinvk.yaml"
    target.parent.mkdir()
    target.write_text("a: 1\n")
    file.symlink_to("dotfiles/clinvk.yaml")
    change_file(file, appended, make_folder=False)
    assert file.is_symlink()
    assert target.read_text() == "a: 1\nb: 2\n"


def test_byte_order_mark_and_line_endings_are_kept(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    change_file(file, lambda text: text.replace("1", "é"), make_folder=False)
    assert file.read_bytes() == "\ufeffa: é\r\n".encode()


def test_failed_edit_changes_nothing(file: Path) -> None:
    file.write_text("a: 1\n")

    def fail(text: str) -> str:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        change_file(file, fail, make_folder=False)
    assert file.read_text() == "a: 1\n"
    assert os.listdir(file.parent) == ["config.yaml"]


def test_unchanged_file_is_not_written(file: Path) -> None:
    file.write_text("a: 1\n")
    before = file.stat()
    assert not change_file(file, str, make_folder=False)
    assert file.stat().st_ino == before.st_ino
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_dry_run_writes_nothing(file: Path) -> None:
    assert change_file(file, appended, make_folder=True, dry_run=True)
    assert not change_file(file, str, make_folder=True, dry_run=True)
    assert not file.exists()


@pytest.mark.parametrize("target", ["/dev/null", "folder"])
def test_target_that_is_not_a_regular_file_is_not_replaced(file: Path, target: str) -> None:
    if target == "folder":
        (file.parent / target).mkdir()
    file.symlink_to(target)
    with pytest.raises(ConfigError, match="is not a regular file"):
        change_file(file, appended, make_folder=False)
    assert Path("/dev/null").is_char_device()


def test_file_that_is_not_utf8_is_reported(file: Path) -> None:
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text: invalid start byte at byte 3"):
        change_file(file, appended, make_folder=False)


def test_read_only_file_can_be_changed_only_by_root(file: Path) -> None:
    file.write_text("a: 1\n")
    file.chmod(0o400)
    may_write = nullcontext() if os.geteuid() == 0 else pytest.raises(ConfigError, match="Permission denied")
    with may_write:
        change_file(file, appended, make_folder=False)
    assert mode(file) == 0o400


def test_concurrent_changes_are_all_kept(file: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", SET_ONE, str(file), name]) for name in "abcdef"]
    assert [process.wait() for process in processes] == [0] * 6
    assert sorted(file.read_text().split("\n")[:-1]) == sorted(f"{n}.{k}: 1" for n in "abcdef" for k in range(10))
