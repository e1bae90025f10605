"""The completion scripts, in the shells themselves: zsh and fish where they are installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from acceptance.sessions import begun, run_here
from repositories import Repository
from scripted.steps import claude_says, touch

BASH = """
source <("$0" completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_clinvk
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "%s completion fish | source; complete -C (string join ' ' -- (string escape -n -- $argv[1..-2]) $argv[-1])"
ZSH = """
compdef() { : }
compadd() { shift ${@[(i)--]}; print -rl -- $before$^@ }
_describe() { print -rl -- ${${(P)2}%%:*} }
_files() { [[ $1 == -/ ]] && print -rl -- *(/N) || print -rl -- *(N) }
_message() { : }
compset() {
    local rest=${words[CURRENT]##$~2}
    before=${${words[CURRENT]%$rest}##--*=} words[CURRENT]=$rest
}
source <("$0" completion zsh)
words=("$@") CURRENT=$#
_clinvk | while read -r word; do [[ $word == ${words[CURRENT]##--*=}* ]] && print -r -- $word; done
"""
SHELLS = [name for name in ("bash", "zsh", "fish") if shutil.which(name)]


def offered(clinvk: Clinvk, shell: str, *words: str) -> set[str]:
    """Return the shell's completions of the last word."""
    if shell == "bash":  # splits words at =
        words = tuple(part for word in words for part in word.replace("=", "\n=\n").split("\n") if part or not word)
    script = {"bash": BASH, "zsh": ZSH, "fish": FISH % clinvk.command}[shell]
    command = [
        shutil.which(shell) or shell,
        "-c",
        script,
        *([clinvk.command] if shell != "fish" else []),
        "clinvk",
        *words,
    ]
    path = os.pathsep.join([str(Path(clinvk.command).parent), clinvk.agent.env["PATH"]])
    done = subprocess.run(
        command, env={**clinvk.agent.env, "PATH": path}, cwd=clinvk.folder, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return {line.partition("\t")[0].rpartition("=")[2] for line in done.stdout.splitlines() if line}


OFFERED: list[tuple[str, list[str], list[str]]] = [
    ("", ["config", "doctor", "serve"], ["fork", "--model"]),
    ("-b codex config s", ["show", "set"], ["get"]),
    ("--backend=codex config s", ["show", "set"], ["get"]),
    ("-b ", ["claude", "codex", "gemini"], ["config"]),
    ("--backend=c", ["claude", "codex"], ["gemini"]),
    ("compare --backends claude,co", ["claude,codex"], ["claude,claude", "codex"]),
    ("compare --backends=codex,claude,", ["codex,claude,gemini"], ["gemini"]),
    ("compare --allowed-tools ", [], ["claude"]),
    ("config get backends.claude.e", ["backends.claude.enabled", "backends.claude.env."], []),
    ("config show --js", ["--json"], ["--port"]),
]
"""Lines that shells split or quote in different ways; the unit tests have the rest of the command line."""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "some", "none"), OFFERED, ids=[line for line, _, _ in OFFERED])
def test_shell_completes_command_lines(clinvk: Clinvk, shell: str, line: str, some: list[str], none: list[str]) -> None:
    found = offered(clinvk, shell, *line.split(" "))
    assert set(some) <= found
    assert not set(none) & found


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_directories_for_workdir(clinvk: Clinvk, shell: str) -> None:
    (clinvk.folder / "work").mkdir()
    (clinvk.folder / "word.txt").touch()
    found = {name.rstrip("/") for name in offered(clinvk, shell, "--workdir", "wor")}
    assert found == {"work"}


def test_unknown_shell_exits_with_1(clinvk: Clinvk) -> None:
    done = clinvk.run("completion", "tcsh")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "clinvk: unknown shell 'tcsh' (available: bash, zsh, fish)\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_session_ids(clinvk: Clinvk, shell: str) -> None:
    assert offered(clinvk, shell, "resume", "") == set()
    ids = {begun(clinvk)[:8], begun(clinvk)[:8]}
    first = min(ids)
    assert offered(clinvk, shell, "resume", "") == ids
    assert offered(clinvk, shell, "sessions", "show", first[:7]) == {first}
    assert offered(clinvk, shell, "sessions", "delete", first, "") == ids
    assert offered(clinvk, shell, "sessions", "show", first, "") == set()
    assert offered(clinvk, shell, "resume", first, "") == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_run_ids(clinvk: Clinvk, shell: str) -> None:
    clinvk.agent.play(claude_says("the answer"))
    run = run_here(clinvk, "one").run_id[:8]
    assert offered(clinvk, shell, "runs", "show", "") == {run}
    assert offered(clinvk, shell, "show", "") == {run}


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes_worktree_ids(clinvk: Clinvk, shell: str) -> None:
    repository = Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"]))
    repository.commit(**{"a.txt": "one\n"})
    clinvk.agent.play([touch(Path("b.txt")), *claude_says("done")])
    clinvk.run("compare", "--backends=claude", "--isolation=worktree", "-w", str(repository.path), "--", "x")
    ids = {tree["id"] for tree in json.loads(clinvk.run("worktrees", "list", "--json").stdout)["worktrees"]}
    assert len(ids) == 1
    for command in ("show", "apply", "discard"):
        assert offered(clinvk, shell, "worktrees", command, "") == ids
