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


def _within(folder: str) -> tuple[str, ...]:
    names = ("CLAUDE.md", "settings.json", "settings.local.json")
    return (
        f"{folder}/",
        *(f"{folder}/{name}" for name in names),
        *(f"{folder}/{name}/*.md" for name in ("rules", "agents", "commands", "output-styles")),
        f"{folder}/skills/*/SKILL.md",
    )


def _at(place: str) -> tuple[str, ...]:
    names = ("CLAUDE.md", "CLAUDE.local.md", "AGENTS.md", ".mcp.json")
    return (*(f"{place}{name}" for name in names), *_within(f"{place}.claude"))


def _managed(folder: str) -> tuple[str, ...]:
    names = ("managed-settings.json", "managed-settings.d/*.json", "managed-mcp.json", "CLAUDE.md")
    return (f"{folder}/", *(f"{folder}/{name}" for name in names), *_within(f"{folder}/.claude"))


_MANAGED = (*_managed("/etc/claude-code"), *_managed("/Library/Application Support/ClaudeCode"))
_OF_CODEX = (
    *("/etc/codex/config.toml", "/etc/codex/managed_config.toml", "/etc/codex/requirements.toml"),
    *(
        "~/.codex/config.toml",
        "~/.codex/environments.toml",
        "~/.codex/.env",
        "~/.codex/AGENTS.md",
        "~/.codex/auth.json",
    ),
)


@pytest.mark.parametrize(
    ("backend", "workdir", "files"),
    [
        ("claude", "/srv/app", (*_MANAGED, *_within("~/.claude"), *_at("/srv/app/"), *_at("/srv/"), *_at("/"))),
        ("claude", "/home/u", (*_MANAGED, *_within("~/.claude"), *_at("/home/u/")[:4], *_at("/home/"), *_at("/"))),
        ("claude", "/", (*_MANAGED, *_within("~/.claude"), *_at("/"))),
        (
            "codex",
            "/srv/app",
            (
                *_OF_CODEX,
                *("/srv/app/AGENTS.override.md", "/srv/app/AGENTS.md", "/srv/AGENTS.override.md", "/srv/AGENTS.md"),
                *("/AGENTS.override.md", "/AGENTS.md"),
            ),
        ),
        ("codex", "/", (*_OF_CODEX, "/AGENTS.override.md", "/AGENTS.md")),
    ],
)
def test_warm_process_lists_the_files_it_reads(backend: str, workdir: str, files: tuple[str, ...]) -> None:
    request = RunRequest(prompt="hello", backend=backend, workdir=workdir)
    kept = BACKENDS[backend].launch(request, None, Host(env={"HOME": "/home/u"})).warm
    assert kept
    assert tuple(kept.reads) == files


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
