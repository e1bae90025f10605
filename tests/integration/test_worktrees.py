"""Each agent's worktree has separate files, whatever the repository and the agent do."""

import asyncio
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import pytest

from clinvk.file_locks import FileLock
from clinvk.runtime.worktrees.folders import Worktree, WorktreeFolders
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.types.errors import ClinvkError, InvalidRequest, WorktreeNotFound
from clinvk.types.orchestration import ChangedFile
from integration.worktree_home import another, changed, home, left_over, with_git
from polling import until
from repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"a.txt": "one\n", "inner/b.bin": b"\0\1\2", ".gitignore": "*.log\n"})
    return repository


@pytest.fixture
def small_files() -> Generator[Callable[[], None]]:
    """Yield a function that limits files to 1 MiB until the end of the test."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_worktree_has_files_of_head_and_its_own_branch(repository: Repository, worktrees: KeptWorktrees) -> None:
    base = repository.git("rev-parse", "HEAD").strip()
    async with worktrees.isolated(str(repository.path / "inner"), "Claude Code #1") as worktree:
        root = Path(worktree.root)
        assert worktree.id.startswith("claude-code-1-")
        assert (worktree.branch, worktree.base, worktree.warnings) == (f"clinvk/{worktree.id}", base, ())
        assert worktree.path == str(root / "inner")
        assert worktree.repository == str(repository.path)
        assert root == home(repository) / "worktrees" / worktree.id / "project"
        assert (root / "a.txt").read_text() == "one\n"
        assert repository.git("symbolic-ref", "HEAD", cwd=root).strip() == f"refs/heads/{worktree.branch}"
        assert repository.git("status", "--porcelain", cwd=root) == ""


async def test_unchanged_worktree_is_removed_with_its_branch(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        outcome = await worktrees.outcome(worktree)
        assert (outcome.kept, outcome.files, outcome.diff) == (False, (), "")
    assert left_over(repository) == []
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        Path(worktree.path, "ignored.log").touch()
    assert left_over(repository) == []


async def test_outcome_lists_changes_and_its_diff_applies(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    odd = "-dash\nline ä"
    async with worktrees.isolated(str(repository.path / "inner"), "agent") as worktree:
        root = Path(worktree.root)
        (root / "a.txt").write_bytes(b"two\r\n\n\nlast")
        (root / "inner" / "b.bin").unlink()
        (root / "new" / "deep").mkdir(parents=True)
        (root / "new" / "deep" / odd).write_bytes(bytes(range(256)))
        (root / "run.sh").write_text("#!/bin/sh\n")
        (root / "run.sh").chmod(0o755)
        outcome = await worktrees.outcome(worktree)
    assert outcome.files == (
        ChangedFile("a.txt", "modified"),
        ChangedFile("inner/b.bin", "deleted"),
        ChangedFile(f"new/deep/{odd}", "added"),
        ChangedFile("run.sh", "added"),
    )
    assert (outcome.kept, outcome.is_cut, outcome.warnings) == (True, False, ())
    (tmp_path / "patch").write_bytes(outcome.diff.encode())
    repository.git("apply", str(tmp_path / "patch"))
    assert repository.files() == {
        "a.txt": b"two\r\n\n\nlast",
        f"new/deep/{odd}": bytes(range(256)),
        "run.sh": b"#!/bin/sh\n",
        ".gitignore": b"*.log\n",
    }
    assert os.access(repository.path / "run.sh", os.X_OK)


async def test_outcome_has_commits_and_force_added_files(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        root = Path(worktree.root)
        (root / "a.txt").write_text("two\n")
        (root / "kept.log").write_text("in spite of .gitignore\n")
        repository.git("switch", "--quiet", "--create", "elsewhere", cwd=root)
        repository.git("add", "--force", "--all", cwd=root)
        repository.git("commit", "--quiet", "-m", "mine", cwd=root)
        (root / "other.log").touch()
        outcome = await worktrees.outcome(worktree)
    assert outcome.files == (ChangedFile("a.txt", "modified"), ChangedFile("kept.log", "added"))
    assert len(await worktrees.list()) == 1


async def test_large_diff_is_cut_after_a_line(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        Path(worktree.root, "new").write_text("".join(f"{number:09}\n" for number in range(1000)))
        outcome = await worktrees.outcome(worktree, max_diff_bytes=2000)
    assert outcome.is_cut
    assert 1900 < len(outcome.diff) <= 2000
    assert outcome.diff.endswith("\n")


async def test_failed_diff_is_a_warning_beside_the_files(
    repository: Repository, worktrees: KeptWorktrees, small_files: Callable[[], None]
) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        Path(worktree.root, "a.txt").write_text("a line\n" * 300_000)
        small_files()
        outcome = await worktrees.outcome(worktree)
    assert (outcome.files, outcome.diff, outcome.kept) == ((ChangedFile("a.txt", "modified"),), "", True)
    assert outcome.warnings == ("there is no diff: git diff-index failed: exit code 153",)


async def test_uncommitted_changes_are_a_warning(repository: Repository, worktrees: KeptWorktrees) -> None:
    repository.write("a.txt", "not committed\n")
    for number in range(5):
        repository.write(f"new{number}", "")
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert Path(worktree.root, "a.txt").read_text() == "one\n"
        (warning,) = worktree.warnings
    assert "uncommitted changes" in warning
    assert warning.endswith("are not in it: a.txt, new0, new1 and 3 more")
    assert repository.git("status", "--porcelain").count("\n") == 6


async def test_worktree_of_a_detached_head_and_of_another_worktree(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    first = repository.git("rev-parse", "HEAD").strip()
    repository.commit(**{"a.txt": "two\n"})
    repository.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "mine"), first)
    async with worktrees.isolated(str(tmp_path / "mine"), "agent") as worktree:
        assert worktree.base == first
        assert worktree.repository == str(tmp_path / "mine")
        Path(worktree.root, "new").touch()
    await worktrees.apply(worktree.id)
    assert (tmp_path / "mine" / "new").exists()
    assert repository.worktrees() == [str(tmp_path / "mine")]


async def test_directory_missing_from_the_commit_is_empty(repository: Repository, worktrees: KeptWorktrees) -> None:
    repository.write("build/here.log", "")
    async with worktrees.isolated(str(repository.path / "build"), "agent") as worktree:
        assert list(Path(worktree.path).iterdir()) == []


async def test_directory_without_repository_tree_or_commit_is_refused(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    repository.git("init", "--quiet", "--bare", str(tmp_path / "bare"))
    repository.git("init", "--quiet", str(tmp_path / "empty"))
    refused = {
        tmp_path / "plain": "^worktrees need a git repository; '.*/plain' is not in one$",
        tmp_path / "bare": "is in no git repository with a tree: this operation must be run in a work tree",
        repository.path / ".git": "is in no git repository with a tree",
        tmp_path / "empty": "has no commit yet",
    }
    for directory, said in refused.items():
        with pytest.raises(InvalidRequest, match=said) as error:
            await worktrees.make(str(directory), "agent")
        assert error.value.field == "isolation"
    assert left_over(repository) == []


async def test_old_git_is_refused(repository: Repository) -> None:
    with pytest.raises(InvalidRequest, match=r"need git 2\.34 or later"):
        await with_git(repository, "unset GIT_CONFIG_COUNT").make(str(repository.path), "agent")


async def test_repository_with_its_tree_elsewhere_is_refused(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    inner = Repository(repository.path / "vendor", repository.home)
    inner.commit(x="x")
    inner.git("config", "core.worktree", str(repository.path))
    with pytest.raises(InvalidRequest, match="has its tree elsewhere"):
        await worktrees.make(str(inner.path), "agent")


async def test_git_environment_variables_are_ignored(repository: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other", repository.home)
    misled = another(repository, GIT_DIR=str(other.path / ".git"), GIT_WORK_TREE=str(other.path), GIT_INDEX_FILE="x")
    worktree = await changed(misled, repository)
    assert worktree.repository == str(repository.path)
    await misled.apply(worktree.id)
    assert repository.files()["a.txt"] == b"two\n"


def program(tmp_path: Path, name: str) -> str:
    """Return a filter program that records its run."""
    path = tmp_path / "programs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexec cat\n")
    path.chmod(0o755)
    return str(path)


def traces(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob("ran-*"))


PROGRAMS = (
    *("core.fsmonitor", "core.pager", "core.sshCommand", "core.editor", "core.askPass", "core.gitProxy"),
    *("core.alternateRefsCommand", "credential.helper", "diff.external", "diff.odd.command", "diff.odd.textconv"),
    *("filter.a=b.smudge", "filter.a=b.clean", "filter.long.process", "gpg.program", "hook.own.command"),
    *("interactive.diffFilter", "merge.odd.driver", "pager.status", "sequence.editor", "submodule.module.update"),
    *("remote.origin.uploadpack", "uploadpack.packObjectsHook"),
)
"""Settings that name a program: filters, drivers, and what moves data or asks for something."""

INCLUDES = {
    "always": "include",
    "of its branch": "includeIf.onbranch:clinvk/**",
    "of its git directory": "includeIf.gitdir:**/worktrees/**",
    "of any case of its git directory": "includeIf.gitdir/i:**/WORKTREES/**",
    "of its remote": "includeIf.hasconfig:remote.*.url:ext::**",
    "of the worktree": "",
}
"""Where the settings apply: most only in a worktree, not where the worktree is made from."""


def make_hostile(repository: Repository, tmp_path: Path, include: str) -> None:
    """Make a repository name a program wherever git would run one."""
    repository.git("config", "extensions.worktreeConfig", "true")
    included = repository.path / ".git" / ("more" if include else "config.worktree")
    values = {key: program(tmp_path, key.replace("=", "")) for key in PROGRAMS}
    values["submodule.module.update"] = f"!{values['submodule.module.update']}"
    others = {"filter.a=b.required": "true", "hook.own.event": "post-checkout", "core.hooksPath": ".git/hooks"}
    for key, value in {**values, **others}.items():
        repository.git("config", "--file", str(included), key, value)
    if include:
        repository.git("config", f"{include}.path", "more")
    repository.git("config", "remote.origin.url", f"ext::{program(tmp_path, 'remote')}")
    repository.git("config", "protocol.ext.allow", "always")
    for name in ("worktree", "add", "diff-index", "apply", "status", "read-tree"):
        repository.git("config", f"alias.{name}", f"!{program(tmp_path, f'alias-{name}')}")
    hooks = repository.path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "applypatch-msg"):
        (hooks / name).symlink_to(program(tmp_path, name))


@pytest.mark.parametrize("include", INCLUDES.values(), ids=INCLUDES)
async def test_repository_runs_no_program_of_its_own(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path, include: str
) -> None:
    attributes = "*.txt filter=a=b diff=odd merge=odd\n*.bin filter=long\n"
    inner = Repository(repository.path / "module", repository.home)
    inner.commit(x="x")
    repository.git("-c", "advice.addEmbeddedRepo=false", "add", "module")
    repository.commit(**{".gitattributes": attributes})
    make_hostile(repository, tmp_path, include)
    make_hostile(inner, tmp_path, "include")
    worktree = await changed(worktrees, repository, **{"a.txt": "two\n", "inner/b.bin": b"\0two", "c.txt": "new\n"})
    outcome = await worktrees.outcome(worktree)
    assert "+two" in outcome.diff
    assert len(await worktrees.list(str(repository.path))) == 1
    assert (await worktrees.check(worktree, "rm c.txt", 10)).passed
    applied = await worktrees.apply(worktree.id, keep=True)
    assert [file.path for file in applied.files] == ["a.txt", "c.txt", "inner/b.bin"]
    assert traces(tmp_path) == []
    Path(worktree.root, "a.txt").write_text("three\n")
    with suppress(AssertionError):  # the programs are no good filters
        repository.git("add", "a.txt", cwd=Path(worktree.root))
    assert traces(tmp_path) != []  # else the repository was not hostile
    for trace in tmp_path.glob("ran-*"):
        trace.unlink()
    await worktrees.discard(worktree.id)
    assert left_over(repository) == []
    assert traces(tmp_path) == []


async def test_filter_of_the_repository_is_a_warning(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    make_hostile(repository, tmp_path, "include")
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert worktree.warnings == tuple(
            f"the filter {name} of the repository's own settings is not run" for name in ("a=b", "long")
        )


async def test_settings_that_are_planted_meanwhile_run_no_program(repository: Repository, tmp_path: Path) -> None:
    """Another agent may change the repository between any two steps."""
    repository.commit(**{".gitattributes": "* filter=late\n"})
    plants = "; ".join(
        f"git config --file {repository.path}/.git/config {key} {program(tmp_path, key)}"
        for key in ("filter.late.smudge", "filter.late.clean", "core.fsmonitor")
    )
    worktrees = with_git(repository, f'case "$*" in *"config --list"*) git "$@"; {plants}; exit;; esac')
    worktree = await changed(worktrees, repository)
    await worktrees.apply(worktree.id)
    assert repository.files()["a.txt"] == b"two\n"
    assert traces(tmp_path) == []


async def test_link_among_the_records_of_a_worktree_is_not_followed(repository: Repository, tmp_path: Path) -> None:
    """An agent may write in the repository while clinvk makes a worktree."""
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    index = f"{repository.path}/.git/worktrees/project/index"
    worktrees = with_git(repository, f'case "$*" in *read-tree*) ln -s {victim} {index};; esac')
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert repository.git("status", "--porcelain", cwd=Path(worktree.root)) == ""
        assert victim.read_text() == "mine\n"
        records = repository.path / ".git" / "worktrees"
        records.rename(records.with_name("aside"))
        records.symlink_to("aside")
    assert worktree.id in left_over(repository)
    records.unlink()
    records.with_name("aside").rename(records)
    assert await another(repository).list() == []
    assert left_over(repository) == []


async def test_missing_objects_are_not_fetched(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    """git would fetch them by what the settings of a partial clone name."""
    blob = repository.git("rev-parse", "HEAD:a.txt").strip()
    (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    make_hostile(repository, tmp_path, "include")
    repository.git("config", "extensions.partialClone", "origin")
    repository.git("config", "remote.origin.promisor", "true")
    with pytest.raises(ClinvkError, match="git read-tree failed"):
        await worktrees.make(str(repository.path), "agent")
    assert traces(tmp_path) == []
    assert left_over(repository) == []


async def test_filter_of_the_user_runs(repository: Repository, worktrees: KeptWorktrees, tmp_path: Path) -> None:
    repository.commit(**{".gitattributes": "*.txt filter=mine\n"})
    repository.git("config", "--global", "filter.mine.smudge", program(tmp_path, "smudge"))
    repository.git("config", "filter.mine.smudge", program(tmp_path, "other"))
    async with worktrees.isolated(str(repository.path), "agent"):
        assert traces(tmp_path) == ["ran-smudge"]


async def test_filter_of_a_condition_of_the_user_runs(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    repository.commit(**{".gitattributes": "*.txt filter=mine\n"})
    repository.git("config", "--file", str(repository.home / "more"), "filter.mine.smudge", program(tmp_path, "smudge"))
    repository.git("config", "--global", f"includeIf.gitdir:{repository.path}/.path", "more")
    async with worktrees.isolated(str(repository.path), "agent"):
        assert traces(tmp_path) == ["ran-smudge"]


async def test_filter_of_the_user_reads_no_program_in_settings_of_the_repository(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    """Git LFS, for one, runs programs that `lfs.customtransfer` names."""
    repository.commit(**{".gitattributes": "*.txt filter=mine\n"})
    for key in ("lfs.customtransfer.x.path", "lfs.extension.x.smudge", "lfs.fetchexclude", "remote.origin.url"):
        repository.git("config", key, "own")
    reads = f"git config --get-regexp '^(lfs|remote)' | sort >{tmp_path}/read; cat"
    repository.git("config", "--global", "filter.mine.smudge", reads)
    async with worktrees.isolated(str(repository.path), "agent"):
        read = (tmp_path / "read").read_text().splitlines()
    assert read == ["lfs.fetchexclude own", f"lfs.storage {repository.path}/.git/lfs", "remote.origin.url own"]


async def test_replaced_git_file_and_submodules_run_no_program(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    inner = Repository(repository.path / "module", repository.home)
    inner.commit(x="x")
    repository.git("-c", "advice.addEmbeddedRepo=false", "add", "module")
    repository.commit()
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert worktree.warnings == ("submodules are empty in the worktree: module",)
        root = Path(worktree.root)
        Path(root, "a.txt").write_text("two\n")
        Path(root, ".git").unlink()
        for place in (root, root / "module", root / "fresh"):
            place.mkdir(exist_ok=True)
            repository.git("init", "--quiet", cwd=place)
            repository.git("config", "core.fsmonitor", program(tmp_path, "fsmonitor"), cwd=place)
            (place / "own").write_text("own\n")
            (place / ".gitattributes").write_text("* filter=own\n")
            repository.git("add", "own", cwd=place)
            repository.git("commit", "-qm", "own", cwd=place)
            repository.git("config", "filter.own.clean", program(tmp_path, "filter"), cwd=place)
            (place / "own").write_text("changed\n")
        for trace in tmp_path.glob("ran-*"):
            trace.unlink()
        outcome = await worktrees.outcome(worktree)
    assert traces(tmp_path) == []
    assert [file.path for file in outcome.files] == [".gitattributes", "a.txt", "fresh", "own"]
    assert outcome.warnings == ("fresh is a repository of its own: its files are not in the diff",)
    assert left_over(repository) != []


async def test_link_out_of_the_tree_is_not_followed(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious\n")
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        Path(worktree.root, "link").symlink_to(outside)
        outcome = await worktrees.outcome(worktree)
        assert (await worktrees.check(worktree, "ln -s ../../../../outside other; test -e link/precious", 10)).passed
    assert outcome.files == (ChangedFile("link", "added"),)
    assert "precious" not in outcome.diff
    await worktrees.discard(worktree.id)
    assert (outside / "precious").read_text() == "precious\n"


async def test_link_in_place_of_the_directory_is_refused(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    (repository.path / "sub").symlink_to(tmp_path)
    repository.commit()
    (repository.path / "sub").unlink()
    (repository.path / "sub").mkdir()
    for directory in ("sub", "sub/deeper"):
        (repository.path / directory).mkdir(exist_ok=True)
        with pytest.raises(InvalidRequest, match=f"'{directory}' is not a directory in the commit"):
            await worktrees.make(str(repository.path / directory), "agent")
    assert not (tmp_path / "deeper").exists()
    assert left_over(repository) == []


async def test_sixteen_worktrees_at_once(repository: Repository, worktrees: KeptWorktrees) -> None:
    async def work(number: int) -> tuple[Worktree, str]:
        async with worktrees.isolated(str(repository.path), f"agent {number}") as worktree:
            if number % 2:
                Path(worktree.path, f"new{number}").write_text(f"{number}\n")
            return worktree, (await worktrees.outcome(worktree)).diff

    done = await asyncio.gather(*(work(number) for number in range(16)))
    assert all((f"+{number}\n" in diff) == bool(number % 2) for number, (_, diff) in enumerate(done))
    kept = sorted(worktree.root for worktree, diff in done if diff)
    assert sorted(repository.worktrees()) == kept
    listed = await worktrees.list()
    assert [len(item.files) for item in listed] == [1] * 8
    await asyncio.gather(*(worktrees.discard(item.id) for item in listed))
    assert left_over(repository) == []


WORK = """
import asyncio, os, sys
from pathlib import Path
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees

async def main():
    worktrees = KeptWorktrees(Spawner(choose_tags()), sys.argv[1], os.environ)

    async def work(number):
        async with worktrees.isolated(sys.argv[2], "agent") as worktree:
            if number % 2:
                Path(worktree.path, "new").touch()
            assert (await worktrees.outcome(worktree)).kept == bool(number % 2)
        if number % 2:
            await worktrees.discard(worktree.id)

    await asyncio.gather(*map(work, range(4)))

asyncio.run(main())
"""


async def test_several_processes_make_and_remove_worktrees_at_once(repository: Repository) -> None:
    command = [sys.executable, "-c", WORK, str(home(repository)), str(repository.path)]
    processes = [subprocess.Popen(command, env=repository.env, stderr=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=50)[1].decode() for process in processes]
    assert said == ["", "", ""]
    assert left_over(repository) == []


async def test_apply_and_discard_refuse_what_an_agent_finishes_meanwhile(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    other = another(repository)
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        wanted = [asyncio.create_task(change(worktree.id)) for change in (other.apply, other.discard)]
        await asyncio.wait(wanted, timeout=0.5)
        Path(worktree.path, "new").touch()
    refused = await asyncio.gather(*wanted, return_exceptions=True)
    assert [type(exc) for exc in refused] == [InvalidRequest] * 2
    assert [item.files for item in await other.list()] == [(ChangedFile("new", "added"),)]
    assert "new" not in repository.files()


async def test_discard_refuses_what_an_agent_finishes_between_two_attempts(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = await worktrees.make(str(repository.path), "agent")
    Path(worktree.path, "new").touch()
    loop, share = asyncio.get_running_loop(), WorktreeFolders.share

    def ended(self: WorktreeFolders, own: str) -> FileLock | None:
        asyncio.run_coroutine_threadsafe(worktrees.leave(worktree), loop).result(20)
        return share(self, own)

    monkeypatch.setattr(WorktreeFolders, "share", ended)
    with pytest.raises(InvalidRequest, match="is in use: its agent is at work"):
        await another(repository).discard(worktree.id)
    assert [item.files for item in await worktrees.list()] == [(ChangedFile("new", "added"),)]
    await worktrees.discard(worktree.id)
    assert left_over(repository) == []


@pytest.mark.parametrize("is_kept", [True, False])
async def test_discard_waits_for_another_clinvk_that_examines(
    repository: Repository, worktrees: KeptWorktrees, is_kept: bool
) -> None:
    worktree = await changed(worktrees, repository)
    folders = WorktreeFolders(home(repository))
    if not is_kept:  # as the death of a clinvk leaves it
        (home(repository) / "worktrees" / worktree.id / "kept").unlink()
    lock = await asyncio.to_thread(folders.share, worktree.id)
    assert lock is not None
    discarding = asyncio.create_task(worktrees.discard(worktree.id))
    await asyncio.wait([discarding], timeout=0.2)
    assert not discarding.done()
    lock.close()
    await discarding
    assert left_over(repository) == []


async def test_list_removes_an_unchanged_worktree_that_another_clinvk_examines(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    worktree = await changed(worktrees, repository)
    Path(worktree.root, "a.txt").write_bytes((repository.path / "a.txt").read_bytes())
    (home(repository) / "worktrees" / worktree.id / "kept").unlink()  # as the death of a clinvk leaves it
    lock = await asyncio.to_thread(WorktreeFolders(home(repository)).share, worktree.id)
    assert lock is not None
    listing = asyncio.create_task(worktrees.list())
    await asyncio.wait([listing], timeout=0.5)
    lock.close()
    assert await listing == []
    assert left_over(repository) == []


async def test_discard_reports_another_clinvk_that_holds_the_worktree(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees._LOCK_TIMEOUT_S", 0.1)
    worktree = await changed(worktrees, repository)
    lock = await asyncio.to_thread(WorktreeFolders(home(repository)).hold, worktree.id)
    assert lock is not None
    with pytest.raises(InvalidRequest, match="is in use: another clinvk lists, applies or discards it"):
        await worktrees.discard(worktree.id)
    lock.close()


CRASH = """
import asyncio, os, sys
from pathlib import Path
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees

async def main():
    worktrees = KeptWorktrees(Spawner(choose_tags()), sys.argv[1], os.environ)
    await worktrees.make(sys.argv[2], "unchanged")
    for label in ("changed", "discarded"):
        changed = await worktrees.make(sys.argv[2], label)
        Path(changed.path, "new").touch()
    Path(sys.argv[1], "ready").touch()
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_list_after_a_crash_removes_only_unchanged_worktrees(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    command = [sys.executable, "-c", CRASH, str(home(repository)), str(repository.path)]
    process = subprocess.Popen(command, env=repository.env)
    try:
        await until(lambda: (home(repository) / "ready").exists(), 20)
        assert [item.state for item in await worktrees.list()] == ["in use"] * 3
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left, discarded = await worktrees.list()
    assert (left.state, left.files) == ("changed", (ChangedFile("new", "added"),))
    await worktrees.discard(discarded.id)
    assert repository.worktrees() == [left.path]
    await worktrees.apply(left.id)
    assert left_over(repository) == []
    assert (repository.path / "new").exists()


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.08, 0.12, 0.2])
async def test_make_can_be_cancelled_at_any_moment(
    repository: Repository, worktrees: KeptWorktrees, after_s: float
) -> None:
    making = asyncio.create_task(worktrees.make(str(repository.path), "agent"))
    await asyncio.wait([making], timeout=after_s)
    making.cancel()
    with suppress(asyncio.CancelledError):
        await worktrees.leave(await making)
    assert left_over(repository) == []


async def test_foreign_files_in_the_folder_stay(repository: Repository, worktrees: KeptWorktrees) -> None:
    worktree = await changed(worktrees, repository)
    folder = home(repository) / "worktrees"
    (folder / "notes.txt").write_text("mine\n")
    (folder / "odd").mkdir()
    (folder / "odd" / "worktree.json").write_text("{")
    (folder / "odd" / "lock").touch()
    assert [item.id for item in await worktrees.list()] == [worktree.id]
    for name in ("notes.txt", "odd"):
        with pytest.raises(WorktreeNotFound, match=f"no worktree '{name}'"):
            await worktrees.discard(name)
        assert (folder / name).exists()


async def test_failed_checkout_leaves_nothing(
    repository: Repository, worktrees: KeptWorktrees, small_files: Callable[[], None]
) -> None:
    repository.commit(large=bytes(2 * 2**20))
    small_files()
    with pytest.raises(ClinvkError, match="git read-tree failed"):
        await worktrees.make(str(repository.path), "agent")
    assert left_over(repository) == []


async def test_list_of_one_repository(repository: Repository, worktrees: KeptWorktrees, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other", repository.home)
    other.commit(**{"a.txt": "other\n"})
    mine = await changed(worktrees, repository)
    theirs = await changed(worktrees, other)
    assert [item.id for item in await worktrees.list()] == [mine.id, theirs.id]
    assert [item.id for item in await worktrees.list(str(repository.path / "inner"))] == [mine.id]
    assert [item.id for item in await worktrees.list(theirs.path)] == [theirs.id]


async def test_reverted_worktree_stays_until_discarded(repository: Repository, worktrees: KeptWorktrees) -> None:
    worktree = await changed(worktrees, repository)
    Path(worktree.root, "a.txt").write_text("one\n")
    assert [item.state for item in await worktrees.list()] == ["unchanged"]
    with pytest.raises(InvalidRequest, match="has no changes to apply"):
        await worktrees.apply(worktree.id)
    await worktrees.discard(worktree.id)
    assert left_over(repository) == []


async def test_worktree_removed_with_git_is_cleaned_up(repository: Repository, worktrees: KeptWorktrees) -> None:
    worktree = await changed(worktrees, repository)
    repository.git("worktree", "remove", "--force", worktree.root)
    assert await worktrees.list() == []
    assert left_over(repository) == []


async def test_worktree_of_a_missing_repository_can_be_discarded(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    worktree = await changed(worktrees, repository)
    repository.path.rename(repository.path.with_name("moved"))
    (listed,) = await worktrees.list()
    assert (listed.state, listed.problem) == (
        "broken",
        f"{repository.path} knows no worktree '{worktree.root}' any more",
    )
    with pytest.raises(ClinvkError, match="knows no worktree"):
        await worktrees.apply(worktree.id)
    assert Path(worktree.root, "a.txt").read_text() == "two\n"
    await worktrees.discard(worktree.id)
    assert await worktrees.list() == []


async def test_apply_changes_the_tree_and_removes_the_worktree(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    repository.write("mine", "not committed\n")
    worktree = await changed(worktrees, repository, **{"a.txt": "two\n", "inner/b.bin": b"\0\xff", "-new": "n\n"})
    await worktrees.apply(worktree.id, dry_run=True)
    assert repository.files()["a.txt"] == b"one\n"
    applied = await worktrees.apply(worktree.id)
    assert (applied.repository, applied.removed, len(applied.files)) == (str(repository.path), True, 3)
    assert repository.files() == {
        "a.txt": b"two\n",
        "inner/b.bin": b"\0\xff",
        "-new": b"n\n",
        "mine": b"not committed\n",
        ".gitignore": b"*.log\n",
    }
    assert repository.git("diff", "--cached") == ""
    assert left_over(repository) == []


async def test_apply_reports_changes_applied_already(repository: Repository, worktrees: KeptWorktrees) -> None:
    worktree = await changed(worktrees, repository, **{"a.txt": "two\n", "new": "new\n"})
    await worktrees.apply(worktree.id, keep=True)
    before = repository.files()
    for dry_run in (True, False):
        with pytest.raises(InvalidRequest, match=f"changes of worktree {worktree.id} are in .*project already"):
            await worktrees.apply(worktree.id, dry_run=dry_run)
    assert repository.files() == before
    repository.git("reset", "--quiet", "--hard")
    repository.git("clean", "-d", "--force", "--quiet")
    assert (await worktrees.apply(worktree.id)).removed


@pytest.mark.parametrize(
    ("name", "said"), [("a.txt", "a.txt: patch does not apply"), ("zz", "zz: already exists in working directory")]
)
async def test_conflicting_apply_changes_nothing(
    repository: Repository, worktrees: KeptWorktrees, name: str, said: str
) -> None:
    worktree = await changed(worktrees, repository, **{"a.txt": "two\n", "b": "new\n", "zz": "new\n"})
    repository.write(name, "other\n")
    before = repository.files()
    for dry_run in (True, False):
        with pytest.raises(InvalidRequest, match=f"does not fit .*nothing was changed: .*{said}"):
            await worktrees.apply(worktree.id, dry_run=dry_run)
    assert repository.files() == before
    assert [item.id for item in await worktrees.list()] == [worktree.id]


async def test_failed_write_is_undone_by_the_command_of_the_message(
    repository: Repository, worktrees: KeptWorktrees, small_files: Callable[[], None]
) -> None:
    repository.commit(**{"gone/x": "x\n", "kind": "file\n"})
    (repository.path / "link").symlink_to("a.txt")
    repository.commit()
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        root = Path(worktree.root)
        for name in ("gone/x", "kind", "link"):
            (root / name).unlink()
        for folder in ("kind", "made"):
            (root / folder).mkdir()
            (root / folder / "y").write_text("y\n")
        (root / "link").write_text("no link any more\n")
        (root / "a.txt").write_text("two\n")
        (root / "zz").write_bytes(bytes(2 * 2**20))
    before = repository.files()
    small_files()
    with pytest.raises(ClinvkError, match=r"git apply failed: .*; some files may have been written: ") as error:
        await worktrees.apply(worktree.id)
    assert repository.files() != before
    undo = error.value.message.partition("to undo this, git ")[2].partition(" puts ")[0]
    repository.git(*shlex.split(undo))
    assert repository.files() == before
    assert repository.git("status", "--porcelain") == ""
    assert not (repository.path / "made").exists()
    assert os.readlink(repository.path / "link") == "a.txt"
    assert [item.id for item in await worktrees.list()] == [worktree.id]
    assert repository.git("show", "stash:a.txt") == "two\n"


async def test_check_sees_changes_and_files_are_restored(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path / "inner"), "agent") as worktree:
        root = Path(worktree.root)
        (root / "new").write_text("new\n")
        (root / "a.txt").unlink()
        before = await worktrees.outcome(worktree)
        command = "cat ../new; rm ../new; echo x >../a.txt; echo x >b.bin; mkdir built; touch built/x x.log; exit 3"
        done = await worktrees.check(worktree, command, 15)
        assert (done.passed, done.exit_code, done.output) == (False, 3, "new\n")
        assert await worktrees.outcome(worktree) == before
        assert not (root / "inner" / "built").exists()


async def test_check_does_not_keep_an_unchanged_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        await worktrees.outcome(worktree)
        assert (await worktrees.check(worktree, "touch built", 15)).passed
    assert left_over(repository) == []


async def test_pipe_in_place_of_a_file_does_not_block(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        Path(worktree.root, "a.txt").unlink()
        for name in ("a.txt", "other"):
            os.mkfifo(Path(worktree.root, name))
        outcome = await worktrees.outcome(worktree)
    assert outcome.files == ()
    assert outcome.warnings == ("a.txt: can only add regular files, symbolic links or git-directories",)
    assert [item.state for item in await worktrees.list()] == ["changed"]


async def test_leave_after_the_agent_removed_the_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        repository.git("worktree", "remove", "--force", worktree.root)
        with pytest.raises(ClinvkError, match="knows no worktree"):
            await worktrees.outcome(worktree)
    assert await worktrees.list() == []


async def test_unreadable_files_keep_the_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        repository.git("init", "--quiet", "fresh", cwd=Path(worktree.root))
        Path(worktree.root, "fresh", "work").write_text("work\n")
        outcome = await worktrees.outcome(worktree)
        assert (await worktrees.check(worktree, "true", 15)).passed
    assert outcome.kept
    assert outcome.warnings == ("'fresh/' does not have a commit checked out",)
    assert Path(worktree.root, "fresh", "work").exists()


async def test_read_only_folders_are_removed(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        locked = Path(worktree.root, "x.log")
        (locked / "inner").mkdir(parents=True)
        (locked / "inner" / "file").touch()
        for folder in (locked / "inner", locked):
            folder.chmod(0o500)
    assert left_over(repository) == []


async def test_discard_removes_commits_but_no_branch_checked_out_elsewhere(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    first, second = [await changed(worktrees, repository), await changed(worktrees, repository)]
    for worktree in (first, second):
        repository.git("commit", "-qam", "mine", cwd=Path(worktree.root))
    repository.git("switch", "--quiet", "--ignore-other-worktrees", second.branch)
    for worktree in (first, second):
        await worktrees.discard(worktree.id)
    assert repository.branches() == [second.branch, "main"]
    assert repository.worktrees() == []


async def test_sparse_checkout_stays_sparse_without_changes(repository: Repository, worktrees: KeptWorktrees) -> None:
    repository.commit(**{"other/c": "c\n"})
    repository.git("sparse-checkout", "set", "--cone", "inner")
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert not Path(worktree.root, "other").exists()
        assert repository.git("sparse-checkout", "list", cwd=Path(worktree.root)) == "inner\n"
        assert repository.git("status", "--porcelain", cwd=Path(worktree.root)) == ""
        assert not (await worktrees.outcome(worktree)).kept
        for name in ("fresh/new", "other/c"):
            Path(worktree.root, name).parent.mkdir()
            Path(worktree.root, name).touch()
        files = (ChangedFile("fresh/new", "added"), ChangedFile("other/c", "modified"))
        assert (await worktrees.outcome(worktree)).files == files
        assert (await worktrees.check(worktree, "rm fresh/new; echo >other/d", 15)).passed
        assert (await worktrees.outcome(worktree)).files == files


@pytest.mark.parametrize("option", ["--object-format=sha256", "--ref-format=reftable", "--shared=group"])
async def test_formats_of_repositories(repository: Repository, worktrees: KeptWorktrees, option: str) -> None:
    shutil.rmtree(repository.path / ".git")
    try:
        repository.git("init", "--quiet", "--initial-branch=main", option)
    except AssertionError:
        pytest.skip(f"this git knows no {option}")
    repository.commit()
    repository.git("worktree", "add", "--quiet", "-b", "mine", str(repository.path.with_name("mine")))
    for top in (repository.path, repository.path.with_name("mine")):
        async with worktrees.isolated(str(top), "agent") as worktree:
            root = Path(worktree.root)
            (root / "a.txt").write_text("two\n")
            repository.git("commit", "-qam", "mine", cwd=root)
        assert worktree.warnings == ()
        assert worktree.branch in repository.branches()
        assert "mine" in repository.git("log", "--oneline", worktree.branch)
        await worktrees.apply(worktree.id)
        assert repository.git("status", "--porcelain", cwd=top) == " M a.txt\n"
    assert repository.branches() == ["main", "mine"]


async def test_settings_that_name_no_program_apply(repository: Repository, worktrees: KeptWorktrees) -> None:
    (repository.path / ".git" / "info" / "exclude").write_text("*.own\n")
    (repository.path / ".git" / "info" / "attributes").write_text("b.txt eol=lf\n")
    for key, value in (("autocrlf", "true"), ("fileMode", "false"), ("splitIndex", "true")):
        repository.git("config", f"core.{key}", value)
    repository.commit(**{"b.txt": "one\n"})
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        root = Path(worktree.root)
        assert ((root / "a.txt").read_bytes(), (root / "b.txt").read_bytes()) == (b"one\r\n", b"one\n")
        (root / "a.txt").chmod(0o755)
        for name in ("x.own", "forced.log"):
            (root / name).touch()
        repository.git("add", "--force", "forced.log", cwd=root)
        assert (await worktrees.outcome(worktree)).files == (ChangedFile("forced.log", "added"),)
    assert repository.git("config", "--list").count("clinvk") == 0


async def test_branch_is_removed_with_its_upstream(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        repository.git("branch", "--set-upstream-to=main", cwd=Path(worktree.root))
    assert repository.git("config", "--list").count("clinvk") == 0
    assert left_over(repository) == []
    assert not list((repository.path / ".git" / "logs").rglob("agent-*"))


async def test_worktree_of_a_submodule(repository: Repository, worktrees: KeptWorktrees, tmp_path: Path) -> None:
    outer = Repository(tmp_path / "outer", repository.home)
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.path), "module")
    outer.commit()
    worktree = await changed(worktrees, Repository(outer.path / "module", repository.home, make=False))
    assert worktree.repository == str(outer.path / "module")
    await worktrees.apply(worktree.id)
    assert (outer.path / "module" / "a.txt").read_text() == "two\n"


async def test_paths_with_special_characters(repository: Repository, tmp_path: Path) -> None:
    moved = Repository(tmp_path / "a:b \"c' [d]*", tmp_path / "home: x")
    moved.commit(**{"a.txt": "one\n"})
    worktrees = another(moved)
    worktree = await changed(worktrees, moved)
    await worktrees.apply(worktree.id)
    assert moved.files() == {"a.txt": b"two\n"}
    assert left_over(moved) == []


async def test_own_git_directory_is_in_the_home_of_clinvk(repository: Repository, tmp_path: Path) -> None:
    """The sandbox of some agents lets them write in the folder for temporary files."""
    seen = tmp_path / "seen"
    worktrees = with_git(repository, f'echo "$GIT_DIR" >>{seen}')
    worktree = await changed(worktrees, repository)
    await worktrees.apply(worktree.id)
    used = {line for line in seen.read_text().splitlines() if not line.startswith(f"{repository.path}/.git")}
    assert {line for line in used if not line.startswith(f"{home(repository)}/worktrees/")} <= {""}
    assert not [line for line in used if line and Path(line).exists()]
    assert left_over(repository) == []
