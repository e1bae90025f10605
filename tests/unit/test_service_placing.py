"""The files and folders of the service, as root puts them where another user may have been before."""

import os
import stat
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from clinvk.cli.admin.service import unit_files
from clinvk.cli.admin.service.service_plan import Account
from clinvk.types.errors import ClinvkError

UID = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes folders for others")


@pytest.fixture
def machine() -> Generator[Path]:
    """A folder of root's that everybody may enter, with a home of the account's in it."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder, "home")
        home.mkdir(0o700)
        os.chown(home, UID, UID)
        yield Path(folder)


def account(machine: Path) -> Account:
    return Account("nobody", UID, UID, machine / "home", for_machine=True)


@pytest.mark.parametrize("place", ["home/.clinvk/workspace", "srv/projects"])
def test_what_is_missing_of_a_directory_becomes_the_accounts_own(machine: Path, place: str) -> None:
    unit_files.make_folder(machine / place, account(machine))
    for made in (machine / place, (machine / place).parent):
        found = made.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (UID, UID, 0o700)
    assert (os.geteuid(), os.getegid(), machine.stat().st_uid) == (0, 0, 0)


def test_no_link_of_the_accounts_has_root_make_or_give_away_a_folder_elsewhere(machine: Path) -> None:
    (machine / "etc").mkdir()
    link = machine / "home" / ".clinvk"
    link.symlink_to(machine / "etc")
    os.lchown(link, UID, UID)
    with pytest.raises(ClinvkError, match=r"\.clinvk on the way to it not root's"):
        unit_files.make_folder(link / "workspace", account(machine))
    assert list((machine / "etc").iterdir()) == []


def test_a_link_of_roots_may_lead_on(machine: Path) -> None:
    (machine / "disk").mkdir()
    (machine / "srv").symlink_to(machine / "disk")
    unit_files.make_folder(machine / "srv" / "projects", account(machine))
    assert (machine / "disk" / "projects").stat().st_uid == UID


def test_a_file_of_the_service_can_be_read_by_everybody(machine: Path) -> None:
    before = os.umask(0o077)
    try:
        unit_files.write(machine / "clinvk.service", "[Unit]\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((machine / "clinvk.service").stat().st_mode) == 0o644
    assert [path.name for path in machine.iterdir() if path.is_file()] == ["clinvk.service"]
