"""Fingerprints of single files, and of files in folders."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clinvk.runtime.pool.file_fingerprints import fingerprint

LATER = "changed, and longer"


def rewrite(path: Path) -> None:
    path.write_text(LATER)


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("~/a.md", "a.md"),
        ("~/rules/*.md", "rules/a.md"),
        ("~/rules/*.md", "rules/within/a.md"),
        ("~/skills/*/SKILL.md", "skills/one/SKILL.md"),
    ],
)
@pytest.mark.parametrize("change", [rewrite, Path.unlink])
def test_fingerprint_changes_when_a_file_is_added_changed_or_removed(
    tmp_path: Path, name: str, file: str, change: Callable[[Path], None]
) -> None:
    def look() -> object:
        return fingerprint((name,), {"HOME": str(tmp_path)})

    write(tmp_path / file.replace("one", "other").replace("a.md", "b.md"))
    before = look()
    write(tmp_path / file)
    there = look()
    change(tmp_path / file)
    assert before != there != look()


@pytest.mark.parametrize("file", ["rules/a.txt", "rules/1/2/a.md", "skills/SKILL.md", "skills/one/more.md"])
def test_fingerprint_ignores_unmatched_files(tmp_path: Path, file: str) -> None:
    names = (f"{tmp_path}/rules/*.md", f"{tmp_path}/skills/*/SKILL.md")
    write(tmp_path / "rules" / "a.md")
    before = fingerprint(names, {})
    write(tmp_path / file)
    assert fingerprint(names, {}) == before


def test_fingerprint_ignores_symlink_loops(tmp_path: Path) -> None:
    """A project may contain a loop."""
    write(tmp_path / "rules" / "a.md")
    before = fingerprint((f"{tmp_path}/rules/*.md",), {})
    link = tmp_path / "rules" / "link"
    link.symlink_to(link)
    assert fingerprint((f"{tmp_path}/rules/*.md",), {}) == before


def test_fingerprint_covers_only_named_files_in_a_directory(tmp_path: Path) -> None:
    names = (f"{tmp_path}/folder/", f"{tmp_path}/folder/a", f"{tmp_path}/b")
    write(tmp_path / "b")
    without = fingerprint(names, {})
    write(tmp_path / "folder" / "other")
    assert fingerprint(names, {}) == without
    write(tmp_path / "folder" / "a")
    assert len(without) == 1
    assert len(fingerprint(names, {})) == 2


def test_fingerprint_supports_directories_with_glob_characters(tmp_path: Path) -> None:
    for name in ("*", "*.md", "a*b"):
        write(tmp_path / name / "CLAUDE.md")
        write(tmp_path / name / "rules" / "a.md")
        names = (f"{tmp_path}/{name}/CLAUDE.md", f"{tmp_path}/{name}/rules/*.md")
        before = fingerprint(names, {})
        write(tmp_path / name / "CLAUDE.md", LATER)
        between = fingerprint(names, {})
        write(tmp_path / name / "rules" / "a.md", LATER)
        assert before != between != fingerprint(names, {})


def test_fingerprint_limits_the_files_per_directory(tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path / "rules" / f"{number}.md")
    assert len(fingerprint((f"{tmp_path}/rules/*.md",), {})) < 300
