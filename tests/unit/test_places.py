"""The directories that agents look into, and the files there that a kept process has read."""

from pathlib import PurePosixPath

import pytest

from clinvk.backends import BACKENDS
from clinvk.backends.base import Host
from clinvk.backends.places import upwards
from clinvk.request import RunRequest


@pytest.mark.parametrize("directory", ["/", "/home", "/home/a b/ü", "/a/b/c/d"])
def test_they_are_those_that_a_path_has_above_it(directory: str) -> None:
    path = PurePosixPath(directory)
    assert [PurePosixPath(place) for place in upwards(directory)] == [path, *path.parents]


@pytest.mark.parametrize("directory", ["/", "/home", "/home/"])
def test_a_name_can_be_put_behind_each(directory: str) -> None:
    assert list(upwards(directory))[-1] == "/"
    assert all(place.endswith("/") and "//" not in place for place in upwards(directory))


_OF_CLAUDE = ("~/.claude/CLAUDE.md", "~/.claude/settings.json")
_OF_CODEX = ("~/.codex/config.toml", "~/.codex/.env", "~/.codex/AGENTS.md")


@pytest.mark.parametrize(
    ("backend", "workdir", "files"),
    [
        (
            "claude",
            "/work/app",
            (
                *_OF_CLAUDE,
                *("/work/app/CLAUDE.md", "/work/app/CLAUDE.local.md", "/work/CLAUDE.md", "/work/CLAUDE.local.md"),
                *("/CLAUDE.md", "/CLAUDE.local.md", "/work/app/.mcp.json"),
                *("/work/app/.claude/settings.json", "/work/app/.claude/settings.local.json"),
            ),
        ),
        (
            "claude",
            "/",
            (
                *_OF_CLAUDE,
                *("/CLAUDE.md", "/CLAUDE.local.md", "/.mcp.json"),
                *("/.claude/settings.json", "/.claude/settings.local.json"),
            ),
        ),
        (
            "codex",
            "/work/app",
            (
                *_OF_CODEX,
                *("/work/app/AGENTS.override.md", "/work/app/AGENTS.md", "/work/AGENTS.override.md", "/work/AGENTS.md"),
                *("/AGENTS.override.md", "/AGENTS.md"),
            ),
        ),
        ("codex", "/", (*_OF_CODEX, "/AGENTS.override.md", "/AGENTS.md")),
    ],
)
def test_a_kept_process_has_read_these(backend: str, workdir: str, files: tuple[str, ...]) -> None:
    request = RunRequest(prompt="hello", backend=backend, workdir=workdir)
    kept = BACKENDS[backend].launch(request, None, Host(env={"HOME": "/home/u"})).warm
    assert kept
    assert tuple(kept.reads) == files
