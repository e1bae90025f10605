"""The candidates that `clinvk __complete` offers for the last word of a command line."""

from pathlib import Path

import pytest

from clinvk.backends.registry import BACKENDS
from clinvk.cli.admin.completion import candidates
from clinvk.cli.parse.commands import COMMANDS
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal.output import Notes


def context(home: Path) -> CommandContext:
    return CommandContext(Flags(), {"HOME": str(home)}, Notes({}), BACKENDS)


OFFERED: list[tuple[str, list[str], list[str]]] = [
    ("", ["config", "doctor", "serve"], ["fork", "--model", "__complete"]),
    ("--add-dir ", [":dirs"], []),
    ("--add-dir=s", [":dirs"], []),
    ("parallel -f ", [":files"], []),
    ("-- ", [], ["config", "--model"]),
    ("-- --m", [], ["--model"]),
    ("config set server.port 1 ", [], ["server.port"]),
    ("keys revoke ", [], ["config"]),
    ("--unknown=", [], ["config"]),
    ("sessions frok ", [], ["config"]),
    ("--backend = co", ["codex"], ["claude"]),
    ("config ", ["show", "get", "set", "unset"], ["config", "serve"]),
    ("compare --backends ", ["claude", "codex", "gemini"], ["compare"]),
    ("keys create --backends g", ["gemini"], ["codex"]),
    ("--output-format ", ["text", "json", "stream-json"], []),
    ("--sandbox-mode ", ["default", "read-only", "workspace", "full"], []),
    ("--model ", ["fast", "best", "opus"], []),
    ("-b claude --model ", ["fast", "best", "opus"], ["gpt-5.5", "pro"]),
    ("--fallback codex,", ["codex,claude", "codex,gemini"], ["codex"]),
    ("config set backends.claude.fallback ", ["codex", "gemini"], []),
    ("config get server.h", ["server.host"], ["server.port"]),
    ("config set output.format ", ["text", "json", "stream-json"], ["output.color"]),
    ("config set default_backend ", ["claude", "codex", "gemini"], []),
    ("config set server.host ", [], ["server.port", "claude"]),
    ("worktrees ", ["list", "show", "apply", "discard"], ["fork"]),
    ("worktrees show --d", ["--diff"], ["--keep"]),
    ("runs list --state ", ["running", "done", "interrupted"], ["active", "finished"]),
    ("help con", ["config"], []),
    ("help ", ["config", "prompt", "stdin", "exit-codes"], ["fork"]),
    ("sessions list --", ["--backend", "--json"], ["--model", "--ephemeral"]),
    ("--ephemeral serve --b", ["--backend"], []),
    ("completion ", ["bash", "zsh", "fish"], []),
]


@pytest.mark.parametrize(("line", "some", "none"), OFFERED, ids=[line for line, _, _ in OFFERED])
def test_last_word_is_completed(tmp_path: Path, line: str, some: list[str], none: list[str]) -> None:
    found = candidates(line.split(" "), context(tmp_path))
    assert set(some) <= set(found)
    assert not set(none) & set(found)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_and_flags_have_descriptions(tmp_path: Path, name: str) -> None:
    *before, last = name.split()
    assert candidates([*before, last[:-1]], context(tmp_path))[last]
    assert all(candidates([*name.split(), "--"], context(tmp_path)).values())
