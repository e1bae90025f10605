"""The help of a command around its flags: usage, description, and what follows the flags."""

from collections.abc import Mapping
from typing import NamedTuple

from clinvk.cli.parse.commands import FIRST_WORDS, GROUPS, about, command_of, members, summary


class Help(NamedTuple):
    """The help of a command around its flags. `usage` begins with `clinvk`."""

    usage: str
    description: str
    epilog: str


def help_of(name: str) -> Help:
    """Return the help of a command or a group; the empty name is a prompt."""
    epilog = _EPILOGS.get(name, "")
    if name in GROUPS:
        names = [f"{name} {word}" for word in members(name)]
        epilog = f"{_table(dict(map(_line, names)))}\n{epilog}Help for each: clinvk help {names[0]}\n"
    elif not name:
        lines = {"PROMPT": "Run one prompt: an argument, stdin, or both"} | dict(map(_line, FIRST_WORDS))
        epilog = f"{_table(lines)}\n{epilog}"
    return Help(usage_of(name), about(name), epilog)


def usage_of(name: str) -> str:
    """Return how a command is called."""
    if name in GROUPS:
        return f"clinvk {name} {' | '.join(members(name))}"
    return _USAGES.get(name) or f"clinvk {name} [flags] {_arguments(name)}".rstrip()


def _arguments(name: str) -> str:
    words = dict.fromkeys(command_of(name).arguments)
    return " ".join(f"[{word.replace('?', '')}]" if "?" in word else word for word in words)


def _line(name: str) -> tuple[str, str]:
    """Return how a command is called, and its summary; of a group its commands."""
    if name in GROUPS:
        return f"{name} COMMAND", ", ".join(members(name))
    return f"{name} {_arguments(name)}".rstrip(), summary(name)


def _table(lines: Mapping[str, str]) -> str:
    width = max(24, *map(len, lines))
    return "\n".join(["commands:", *(f"  {called:{width}}  {text}" for called, text in lines.items()), ""])


_USAGES = {
    "": "clinvk [flags] PROMPT\n       clinvk [flags] COMMAND",
    "resume": "clinvk resume [flags] [ID] [PROMPT]\n       clinvk resume [flags] --last | --here [PROMPT]",
    "compare": "clinvk compare [flags] --backends A,B PROMPT\n       clinvk compare [flags] --all-backends PROMPT",
    "service print": "clinvk service print [flags] [systemd | launchd]",
    "service uninstall": "clinvk service uninstall [flags] [systemd | launchd]",
    "completion": "clinvk completion bash | zsh | fish",
    "version": "clinvk version",
    "help": "clinvk help [COMMAND]",
}

_EPILOGS = {
    "": """\
examples:
  clinvk "explain this repository"
  clinvk -b codex -w ~/project --sandbox-mode workspace "fix the failing test"
  git diff | clinvk -o text "review this change"
  clinvk -o text - < prompt.md
  clinvk -c "and its tests?"
  clinvk --dry-run --sandbox-mode read-only "what is here?"
  clinvk -o text -- "--help of tar, explained"

conversations:
  A prompt resumes the newest conversation of the same agent in the same
  directory, and says so. --new starts one, --ephemeral keeps no record, and -c
  resumes the newest of all. With session.auto_resume: false every prompt
  starts a conversation.

servers:
  While a clinvk serve of the same user and home runs, a prompt goes through it
  and uses an agent that is already up, unless the environment differs (-v says
  how). --no-server and the setting warm.command_line: false turn this off.

stdin:
  Without PROMPT, or with -, stdin is the prompt. With PROMPT, piped input
  follows the prompt as context. A pipe without data for 3 seconds is ignored;
  --no-stdin never reads stdin. In a shell loop that reads its own stdin, use
  --no-stdin or </dev/null.

exit codes:
  0  success                        5  the server could not serve
  1  anything else, wrong usage     6  timed out
  2  backend not available          7  cancelled (Ctrl-C)
  3  invalid settings               8 and above: the agent's own exit code;
  4  no session to resume           128 + n: signal n ended the agent

settings:
  ~/.clinvk/config.yaml, and the environment: CLINVK_BACKEND,
  CLINVK_CLAUDE_MODEL, or any key as CLINVK_SERVER__PORT. Flags override both.
""",
    "resume": """\
examples:
  clinvk resume 3f9c "now the tests"
  clinvk resume --last "go on"
  clinvk resume --here
  clinvk resume -i 3f9c
  git diff | clinvk resume --last "review this too"

--here PROMPT resumes the newest of this directory. --workdir DIR selects the
conversations of DIR; no conversation moves to another directory. What the
agent's own program adds to a conversation (-i) is not in clinvk's record.
""",
    "sessions": """\
ID may be the first digits, 4 or more.
""",
    "sessions list": """\
examples:
  clinvk sessions list
  clinvk sessions list --here --backend codex
  clinvk sessions list --search "flaky test" -n 0 --json
""",
    "sessions clean": """\
examples:
  clinvk sessions clean --dry-run
  clinvk sessions clean --older-than 12h
""",
    "sessions tag": """\
examples:
  clinvk sessions tag 3f9c work urgent
  clinvk sessions tag 3f9c --remove urgent
""",
    "sessions export": """\
examples:
  clinvk sessions export 3f9c > conversation.md
  clinvk sessions export 3f9c --format json -O conversation.json
""",
    "runs": """\
ID may be the first digits, 4 or more.
""",
    "runs list": """\
examples:
  clinvk runs list
  clinvk runs list --state running
  clinvk runs list --here --parts --backend codex --json
""",
    "worktrees": """\
An isolated agent works in its own worktree, on the branch clinvk/ID, in
worktrees/ID/ of the clinvk home. A worktree without changes is removed when
the agent has ended. ID may be its beginning, or the branch.
""",
    "worktrees list": """\
examples:
  clinvk worktrees list
  clinvk worktrees list --here --json
""",
    "worktrees show": """\
examples:
  clinvk worktrees show claude-3f9c2a1b
  clinvk worktrees show --diff claude-3f9c2a1b > change.patch
""",
    "worktrees apply": """\
examples:
  clinvk worktrees apply --dry-run claude-3f9c2a1b
  clinvk worktrees apply claude-3f9c2a1b
""",
    "parallel": """\
examples:
  clinvk parallel -f tasks.yaml
  clinvk parallel -f tasks.json --max-parallel 8 --fail-fast --json
  producer-of-json-lines | clinvk parallel --isolation worktree

tasks.yaml:
  max_parallel: 2
  tasks:
    - {backend: claude, prompt: "review src/a.py", name: review}
    - {backend: codex, prompt: "find dead code", sandbox_mode: read-only}

The file may also be a list of tasks, or one JSON object a line. A task has the
fields of a prompt over HTTP (docs/rest.md), and id, name, meta, isolation.
--backend, --model and --workdir are the defaults of the tasks. With output_dir:
PATH beside the tasks, PATH gets summary.json and a JSON file for each task.

exit codes: 0 all succeeded, 1 a task failed, 2 no such file or agent, or the
file is invalid, 7 Ctrl-C: finished tasks are reported.
""",
    "chain": """\
examples:
  clinvk chain -f steps.yaml
  clinvk chain --resume-from 5bb1b8f1

steps.yaml:
  pass_working_dir: true
  steps:
    - {name: plan, backend: claude, prompt: "plan the fix of issue 12"}
    - {backend: codex, prompt: "do this: {{previous}}", approval_mode: auto}

In a prompt, {{previous}} is the answer of the previous step, {{steps.NAME}}
the answer of an earlier step, and {{input}} the text beside the steps; other
braces stay. A step has the fields of a task of clinvk parallel.
stop_on_failure: false continues after a failure. --resume-from takes the id
that a chain prints on stderr when it starts, and that clinvk runs list shows.
Exit codes are those of clinvk parallel.
""",
    "compare": """\
examples:
  clinvk compare --backends claude,codex "explain this repository"
  clinvk compare --all-backends --judge claude "name three risks" --json
  clinvk compare --all-backends --isolation worktree --check "make test" \\
      --approval-mode auto --diff "fix the failing test"

The prompt is an argument, stdin, or both, as for clinvk PROMPT. The judge does
not know which agent gave which answer. clinvk worktrees has the changes that
agents made in worktrees. Exit codes: 0 all succeeded, whatever --check says; 1
an agent or the judge failed, 2 one is not available (--all-backends skips it
with a note), 7 Ctrl-C.
""",
    "serve": """\
examples:
  clinvk serve
  clinvk serve --port 3000 --backend codex

--backend, --model and --workdir are the defaults of requests. Anybody who can
reach the address can run agents as you. If other machines can reach it, as with
--host 0.0.0.0, every request needs an API key: one of yours (clinvk keys create
NAME, CLINVK_API_KEYS), or one that is created for this start and printed on
stderr. --insecure requires no key.
""",
    "service": """\
install a service of your own (systemd, then launchd):
  clinvk service print > ~/.config/systemd/user/clinvk.service
  systemctl --user enable --now clinvk

  clinvk service print > ~/Library/LaunchAgents/com.clinvk.server.plist
  launchctl bootstrap gui/$UID ~/Library/LaunchAgents/com.clinvk.server.plist

MANAGER is systemd or launchd; the default is that of this machine.
""",
    "service print": """\
examples:
  clinvk service print
  clinvk service print systemd --system --run-as ana --port 8080

--config is passed on, and --workdir is the directory in which the server starts
(default: workspace in ~/.clinvk). Variables for the agents, such as API keys,
are read from the file ~/.clinvk/service.env (systemd only). With --socket two
units are printed, each below a line with its path.
""",
    "keys": """\
Once there is a key, every request needs one. Only digests are stored, in
keys.json of the clinvk home.
""",
    "keys create": """\
examples:
  clinvk keys create ana
  clinvk keys create ci --backends codex --allow-dir /srv/ci --rate 2
  clinvk keys create guest --tokens-per-day 1000000 --expires 30d --max-runs 2

The use of a day is counted when a run ends; a run that is in progress when the
limit is reached continues.
""",
    "config": """\
examples:
  clinvk config show
  clinvk config get server.port
  clinvk config set backends.claude.model opus

""",
    "config show": """\
Keys, tokens and passwords in the agents' variables and flags are hidden; config
get shows the one that it names.
""",
    "config get": """\
examples:
  clinvk config get server.port
  clinvk config get backends.claude
  clinvk config get --json session
""",
    "config set": """\
examples:
  clinvk config set server.port 3000
  clinvk config set output.color no
  clinvk config set session.default_tags work,urgent
  clinvk config set backends.claude.allowed_tools Read,Grep
  clinvk config set backends.claude.env.ANTHROPIC_BASE_URL http://127.0.0.1:8090
  clinvk config set backends.codex.extra_flags -- --strict-config

A list is texts with commas, or [a, b] if an item has a comma. null is the
default. A value that begins with - stands after --. --dry-run only checks.
""",
    "config unset": """\
example:
  clinvk config unset backends.claude.model
""",
    "doctor": """\
exit codes:
  0  an agent can be used, the settings are valid, and sessions can be stored
  1  no agent can be used, or no session can be stored
  3  the settings are invalid
""",
    "completion": """\
bash  source <(clinvk completion bash)    in ~/.bashrc
zsh   source <(clinvk completion zsh)     in ~/.zshrc, after compinit
fish  clinvk completion fish | source     in ~/.config/fish/config.fish
""",
}
"""What follows the flags, by command."""
