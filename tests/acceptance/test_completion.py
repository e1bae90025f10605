"""The completion scripts, in the shells themselves: zsh and fish where they are installed."""

import shutil
import subprocess

import pytest

from acceptance.command import Clinvk

BASH = """
source <("$0" completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_clinvk
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "%s completion fish | source; complete -C (string join ' ' -- (string escape -n -- $argv[1..-2]) $argv[-1])"
ZSH = """
compdef() { : }
compadd() { shift ${@[(i)--]}; print -rl -- $@ }
_describe() { print -rl -- ${${(P)2}%%:*} }
_files() { [[ $1 == -/ ]] && print -rl -- *(/N) || print -rl -- *(N) }
_message() { : }
compset() { words[CURRENT]=${words[CURRENT]#$~2} }
source <("$0" completion zsh)
words=("$@") CURRENT=$#
_clinvk | while read -r word; do [[ $word == ${words[CURRENT]##--*=}* ]] && print -r -- $word; done
"""
SHELLS = [name for name in ("bash", "zsh", "fish") if shutil.which(name)]


def offered(clinvk: Clinvk, shell: str, *words: str) -> set[str]:
    """Give what a shell offers in the place of the last word."""
    if shell == "bash":  # parts words at =
        words = tuple(part for word in words for part in word.replace("=", "\n=\n").split("\n") if part or not word)
    script = {"bash": BASH, "zsh": ZSH, "fish": FISH % clinvk.command}[shell]
    command = [shell, "-c", script, *([clinvk.command] if shell != "fish" else []), "clinvk", *words]
    done = subprocess.run(command, env=clinvk.agent.env, cwd=clinvk.folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return {line.partition("\t")[0].rpartition("=")[2] for line in done.stdout.splitlines() if line}


OFFERED: list[tuple[str, list[str], list[str]]] = [
    ("", ["config", "doctor", "serve"], ["show", "--model"]),
    ("con", ["config"], ["serve"]),
    ("config ", ["show", "get", "set", "unset"], ["config", "serve"]),
    ("-b codex config s", ["show", "set"], ["get"]),
    ("--backend=codex config s", ["show", "set"], ["get"]),
    ("-b ", ["claude", "codex", "gemini"], ["config"]),
    ("--backend=c", ["claude", "codex"], ["gemini"]),
    ("--output-format ", ["text", "json", "stream-json"], []),
    ("--sandbox-mode ", ["default", "read-only", "workspace", "full"], []),
    ("--model ", ["fast", "best", "opus"], []),
    ("config get server.h", ["server.host"], ["server.port"]),
    ("config get backends.claude.e", ["backends.claude.enabled", "backends.claude.env."], []),
    ("config set output.format ", ["text", "json", "stream-json"], ["output.color"]),
    ("config set output.color ", ["true", "false"], []),
    ("config set default_backend ", ["claude", "codex", "gemini"], []),
    ("config set server.host ", [], ["server.port", "claude"]),
    ("config show --js", ["--json"], ["--port"]),
    ("worktrees ", ["list", "apply", "discard"], ["show"]),
    ("worktrees apply --k", ["--keep"], ["--yes"]),
    ("serve --po", ["--port"], ["--json"]),
    ("help con", ["config"], []),
    ("help config ", ["show", "set"], []),
    ("completion ", ["bash", "zsh", "fish"], []),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "some", "none"), OFFERED, ids=[line for line, _, _ in OFFERED])
def test_a_shell_offers(clinvk: Clinvk, shell: str, line: str, some: list[str], none: list[str]) -> None:
    found = offered(clinvk, shell, *line.split(" "))
    assert set(some) <= found
    assert not set(none) & found


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_directories_for_a_directory(clinvk: Clinvk, shell: str) -> None:
    (clinvk.folder / "work").mkdir()
    (clinvk.folder / "word.txt").touch()
    found = {name.rstrip("/") for name in offered(clinvk, shell, "--workdir", "wor")}
    assert found == {"work"}


def test_a_shell_that_is_not_known_is_1(clinvk: Clinvk) -> None:
    done = clinvk.run("completion", "tcsh")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "clinvk: no completion for 'tcsh'; have bash, zsh, fish\n"
