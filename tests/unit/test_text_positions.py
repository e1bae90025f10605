"""The directories that agents read, and the files there that a warm process has read."""

from pathlib import PurePosixPath

import pytest

from clinvk.backends.base import Host
from clinvk.backends.registry import BACKENDS
from clinvk.backends.shared import parent_directories
from clinvk.types.choices import ApprovalMode
from clinvk.types.request import RunRequest


@pytest.mark.parametrize("directory", ["/", "/home", "/home/a b/ü", "/a/b/c/d"])
def test_upwards_yields_the_path_and_its_parents(directory: str) -> None:
    path = PurePosixPath(directory)
    assert [PurePosixPath(place) for place in parent_directories(directory)] == [path, *path.parents]


@pytest.mark.parametrize("directory", ["/", "/home", "/home/"])
def test_upwards_paths_end_in_a_single_slash(directory: str) -> None:
    assert list(parent_directories(directory))[-1] == "/"
    assert all(place.endswith("/") and "//" not in place for place in parent_directories(directory))


@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("claude", {"/etc/claude-code/managed-settings.json", "~/.claude/CLAUDE.md", "~/.claude/skills/*/SKILL.md"}),
        ("claude", {"/srv/app/CLAUDE.md", "/srv/app/.claude/settings.json", "/srv/.mcp.json", "/AGENTS.md"}),
        ("codex", {"/etc/codex/config.toml", "~/.codex/auth.json", "/srv/app/AGENTS.override.md", "/srv/AGENTS.md"}),
    ],
)
def test_warm_process_lists_the_files_it_reads(backend: str, files: set[str]) -> None:
    request = RunRequest(prompt="hello", backend=backend, workdir="/srv/app")
    kept = BACKENDS[backend].launch(request, None, Host(env={"HOME": "/home/u"})).warm
    assert kept
    assert files <= set(kept.reads)


_UNGUARDED = (
    *("/srv/my.app/.git/logs/HEAD", "~/.claude/projects/-srv-my-app/memory/MEMORY.md"),
    *("/srv/.git/logs/HEAD", "~/.claude/projects/-srv/memory/MEMORY.md"),
    *("/.git/logs/HEAD", "~/.claude/projects/-/memory/MEMORY.md"),
)


@pytest.mark.parametrize(("approval", "files"), [("none", _UNGUARDED), ("auto", ()), ("default", ())])
def test_unguarded_claude_conversation_begins_with_git_log_and_memory(
    approval: ApprovalMode, files: tuple[str, ...]
) -> None:
    request = RunRequest(prompt="hello", backend="claude", workdir="/srv/my.app", approval_mode=approval)
    kept = BACKENDS["claude"].launch(request, None, Host()).warm
    assert kept
    assert kept.conversation_reads == files
