"""The private folder of a launch, with its files and links."""

import asyncio
import logging
import stat
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from clinvk.backends.base import PRIVATE, Launch
from clinvk.runtime.process import private_folder
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import ClinvkError
from polling import until


def test_private_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    folder = PrivateFolder(Launch(argv=("x",), files={"a.toml": b"a", "home/.cli/b.json": b"b"}), {}, 1)
    folder.write()
    try:
        assert (Path(folder.filled(f"{PRIVATE}/a.toml"))).read_bytes() == b"a"
        nested = Path(folder.filled(f"{PRIVATE}/home/.cli/b.json"))
        assert nested.read_bytes() == b"b"
        assert stat.S_IMODE(nested.stat().st_mode) == 0o600
        assert stat.S_IMODE(nested.parent.stat().st_mode) & 0o077 == 0
    finally:
        folder.remove()


def test_links_point_to_the_home_and_their_targets_survive_removal(tmp_path: Path) -> None:
    (tmp_path / ".cli").mkdir()
    (tmp_path / ".cli" / "login").write_text("secret")
    launch = Launch(argv=("x",), links={"home/login": "~/.cli/login", "home/chats/": "~/.cli/chats"})
    folder = PrivateFolder(launch, {"HOME": str(tmp_path)}, 1)
    folder.write()
    path = Path(folder.filled(PRIVATE))
    assert (path / "home" / "login").read_text() == "secret"
    (path / "home" / "chats" / "one").write_text("kept")
    folder.remove()
    assert not path.exists()
    assert (tmp_path / ".cli" / "login").read_text() == "secret"
    assert (tmp_path / ".cli" / "chats" / "one").read_text() == "kept"


def test_launch_without_files_or_links_needs_no_folder() -> None:
    assert not PrivateFolder(Launch(argv=("x",)), {}, 1).is_needed


def test_folder_is_removed_when_writing_its_files_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(ClinvkError, match="private files"):
        PrivateFolder(Launch(argv=("x",), files={"a": b"", "a/b": b""}), {}, 1).write()
    assert list(tmp_path.iterdir()) == []


async def test_clearing_a_folder_does_not_wait_for_a_hanging_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = PrivateFolder(Launch(argv=("x",), files={"a": b""}), {}, 1)
    goes_on, remove = threading.Event(), folder.remove

    def late(_: PrivateFolder) -> None:
        goes_on.wait(30)
        remove()

    await folder.prepare()
    path = folder.filled(PRIVATE)
    monkeypatch.setattr(private_folder, "finish_shielded", partial(finish_shielded, timeout_s=0.1))
    monkeypatch.setattr(PrivateFolder, "remove", late)
    with caplog.at_level(logging.WARNING):
        await folder.clear()
    goes_on.set()
    assert path in caplog.text


async def test_folder_created_after_the_timeout_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, ended, make, write = threading.Event(), threading.Event(), tempfile.mkdtemp, PrivateFolder.write

    def late(prefix: str) -> str:
        goes_on.wait(30)
        return make(prefix=prefix, dir=tmp_path)

    def written(self: PrivateFolder) -> None:
        write(self)
        ended.set()

    monkeypatch.setattr(tempfile, "mkdtemp", late)
    monkeypatch.setattr(private_folder, "finish_shielded", partial(finish_shielded, timeout_s=0.1))
    monkeypatch.setattr(PrivateFolder, "write", written)
    folder = PrivateFolder(Launch(argv=("x",), files={"a": b""}), {}, 1)
    with pytest.raises(TimeoutError):
        await folder.prepare()
    await folder.clear()
    goes_on.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert list(tmp_path.iterdir()) == []


class Disk:
    """A disk that hangs: a write blocks after `begun` until `goes_on` is set."""

    def __init__(self) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, fill = Disk(), PrivateFolder._fill  # pyright: ignore[reportPrivateUsage]

    def late(self: PrivateFolder, path: str) -> None:
        disk.begun.set()
        disk.goes_on.wait(30)
        fill(self, path)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(PrivateFolder, "_fill", late)
    return disk


@pytest.mark.parametrize("files", [{"a": b""}, {"a": b"", "a/b": b""}], ids=["whole", "in part"])
async def test_files_written_after_folder_removal_are_removed(
    tmp_path: Path, disk: Disk, files: dict[str, bytes]
) -> None:
    folder = PrivateFolder(Launch(argv=("x",), files=files), {}, 1)
    writing = asyncio.create_task(asyncio.to_thread(folder.write))
    await until(disk.begun.is_set)
    await folder.clear()
    assert list(tmp_path.iterdir()) == []
    disk.goes_on.set()
    with suppress(ClinvkError):
        await writing
    assert list(tmp_path.iterdir()) == []


async def test_files_added_after_folder_removal_are_removed(tmp_path: Path, disk: Disk) -> None:
    folder = PrivateFolder(Launch(argv=("x",)), {}, 1)
    folder.path = tempfile.mkdtemp()
    adding = asyncio.create_task(folder.prepare(Launch(argv=("x",), files={"b": b""})))
    await until(disk.begun.is_set)
    await folder.clear()
    disk.goes_on.set()
    await adding
    assert list(tmp_path.iterdir()) == []
