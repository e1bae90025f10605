"""The words around the flags in the help: usage, description and what follows, for each command."""

from typing import NamedTuple


class Help(NamedTuple):
    """What stands around the flags of a command in its help. `usage` begins with `clinvk`."""

    usage: str
    description: str
    epilog: str = ""


_EXAMPLES = """\
commands:
  PROMPT                    run one prompt: an argument, stdin, or both
  resume [ID] [PROMPT]      go on with a conversation
  sessions COMMAND          list, show, delete, clean, fork, tag, rename, export
  parallel                  run several tasks at once, from a file
  chain                     run steps one after the other, from a file
  compare PROMPT            give one prompt to several agents
  runs COMMAND              list, show what was run
  worktrees COMMAND         list, show, apply, discard what agents changed
  serve                     serve the REST API
  service COMMAND           install, uninstall, status, print
  keys COMMAND              create, list, revoke the API keys of the server
  config show               show the settings, and where each comes from
  config get KEY            print one setting
  config set KEY VALUE      change one in the settings file (config unset KEY)
  doctor                    check the agents, the settings and this machine
  completion SHELL          print what completes clinvk in bash, zsh or fish
  version                   show the version
  help [COMMAND]            show help

examples:
  clinvk "explain this repository"
  clinvk -b codex -w ~/project --sandbox-mode workspace "fix the failing test"
  git diff | clinvk -o text "review this change"
  clinvk -o text - < prompt.md
  clinvk -c "and its tests?"
  clinvk --dry-run --sandbox-mode read-only "what is here?"
  clinvk -o text -- "--help of tar, explained"

conversations:
  A prompt goes on with the newest conversation of the same agent in the same
  directory, and says so; --new begins one, --ephemeral keeps none, -c goes on
  with the newest of all. session.auto_resume: false always begins one.

servers:
  While a clinvk serve of this user and home is up, a prompt goes through it and
  finds an agent that is up already, unless the environment differs (-v tells
  how). --no-server does without; so does warm.command_line: false.

stdin:
  Without PROMPT, or with -, stdin is the prompt. With PROMPT, what is piped in
  follows it as context. A pipe on which nothing comes for 3 seconds is left
  alone; --no-stdin does not look. In a shell loop that reads its own stdin, use
  --no-stdin or </dev/null.

exit codes:
  0  success                        5  the server could not serve
  1  anything else, wrong usage     6  timed out
  2  backend not available          7  cancelled (Ctrl-C)
  3  invalid settings               8 and above: the agent's own exit code;
  4  no session to go on with       128 + n: it was ended by signal n

settings:
  ~/.clinvk/config.yaml, and the environment: CLINVK_BACKEND,
  CLINVK_CLAUDE_MODEL, or any key as CLINVK_SERVER__PORT. Flags beat both.
"""

PROMPT = Help(
    "clinvk [flags] PROMPT\n       clinvk [flags] COMMAND",
    "Run a coding agent on this machine: Claude Code, Codex or Gemini CLI.",
    _EXAMPLES,
)

RESUME = Help(
    "clinvk resume [flags] [ID] [PROMPT]\n       clinvk resume [flags] --last | --here [PROMPT]",
    "Go on with a conversation, in the directory that it belongs to, wherever you\n"
    "are. ID may be the first digits, 4 or more. Without ID, on a terminal, choose\n"
    "from a list; without PROMPT it is read from stdin, or asked for.",
    """\
examples:
  clinvk resume 3f9c "now the tests"
  clinvk resume --last "go on"
  clinvk resume --here
  clinvk resume -i 3f9c
  git diff | clinvk resume --last "review this too"

--here PROMPT takes the newest of this directory. --workdir DIR means the
conversations of that directory: none is moved to another. What the agent's own
program adds to a conversation (-i) is not in clinvk's record of it.
""",
)

SESSIONS = Help(
    "clinvk sessions list | show | delete | clean | fork | tag | rename | export",
    "The conversations that clinvk keeps.",
    """\
commands:
  sessions list             list them, the newest first
  sessions show ID          show one, with its turns
  sessions delete ID...     delete some
  sessions clean            delete the old ones
  sessions fork ID          begin one that goes on from another
  sessions tag ID TAG...    tag one (--remove TAG)
  sessions rename ID TITLE  give one a title
  sessions export ID        write one out, as markdown or JSON

ID may be the first digits, 4 or more. Help for each: clinvk help sessions list
""",
)

SESSIONS_LIST = Help(
    "clinvk sessions list [flags]",
    "List conversations, the newest first.",
    """\
examples:
  clinvk sessions list
  clinvk sessions list --here --backend codex
  clinvk sessions list --search "flaky test" -n 0 --json
""",
)

SESSIONS_SHOW = Help("clinvk sessions show [flags] ID", "Show a conversation, its turns and what they used.")

SESSIONS_DELETE = Help(
    "clinvk sessions delete [flags] ID...",
    "Delete conversations with their turns. On a terminal it asks first; without one\n"
    "it needs --yes. The agent's own record of a conversation stays.",
)

SESSIONS_CLEAN = Help(
    "clinvk sessions clean [flags]",
    "Delete the conversations that were last used before session.retention_days, or\n"
    "--older-than. --dry-run says how many.",
    """\
examples:
  clinvk sessions clean --dry-run
  clinvk sessions clean --older-than 12h
""",
)

SESSIONS_FORK = Help(
    "clinvk sessions fork [flags] ID",
    "Begin a conversation that goes on from another, which stays as it is; print its\n"
    "id. It branches off with its first prompt: clinvk resume ID PROMPT.",
)

SESSIONS_TAG = Help(
    "clinvk sessions tag [flags] ID TAG...",
    "Tag a conversation; what it is tagged with already stays.",
    """\
examples:
  clinvk sessions tag 3f9c work urgent
  clinvk sessions tag 3f9c --remove urgent
""",
)

SESSIONS_RENAME = Help(
    "clinvk sessions rename [flags] ID TITLE",
    "Give a conversation a title, which lists show in place of its first prompt; an\nempty one takes it away.",
)

SESSIONS_EXPORT = Help(
    "clinvk sessions export [flags] ID",
    "Write a conversation out: all prompts and answers.",
    """\
examples:
  clinvk sessions export 3f9c > conversation.md
  clinvk sessions export 3f9c --format json -O conversation.json
""",
)

RUNS = Help(
    "clinvk runs list | show ID",
    "What was run: each prompt, and several agents together.",
    """\
commands:
  runs list                 list runs, the newest first
  runs show ID              show one: what was asked and answered, or its parts

ID may be the first digits, 4 or more. Help for each: clinvk help runs list
""",
)

RUNS_LIST = Help(
    "clinvk runs list [flags]",
    "List runs, the newest first: those of the command line and of servers, also\n"
    "those under way. Of several agents together there is one line; --parts has\n"
    "those of each, too.",
    """\
examples:
  clinvk runs list
  clinvk runs list --state running
  clinvk runs list --here --parts --backend codex --json
""",
)

RUNS_SHOW = Help(
    "clinvk runs show [flags] ID",
    "Show a run: how it went, the prompt and the answer; of parallel, chain and\ncompare their parts.",
)

WORKTREES = Help(
    "clinvk worktrees list | show | apply | discard",
    "The git worktrees in which agents changed something.",
    """\
commands:
  worktrees list            list them, with the number of changed files
  worktrees show ID         show one: who worked in it, and the diff
  worktrees apply ID        bring the changes of one into your tree
  worktrees discard ID...   remove some, with what was done in them

An agent that is isolated works in a worktree of its own, on the branch
clinvk/ID, in worktrees/ID/ of the clinvk home. One without changes is removed
when the agent has ended. ID may be its beginning, or the branch. Help for
each: clinvk help worktrees apply
""",
)

WORKTREES_LIST = Help(
    "clinvk worktrees list [flags]",
    "List worktrees, the oldest first: in use, changed, unchanged, or broken (where\nclinvk cannot look).",
    """\
examples:
  clinvk worktrees list
  clinvk worktrees list --here --json
""",
)

WORKTREES_SHOW = Help(
    "clinvk worktrees show [flags] ID",
    "Show what an agent was asked and has changed in a worktree, with the diff, which\n"
    "apply would bring into your tree.",
    """\
examples:
  clinvk worktrees show claude-3f9c2a1b
  clinvk worktrees show --diff claude-3f9c2a1b > change.patch
""",
)

WORKTREES_APPLY = Help(
    "clinvk worktrees apply [flags] ID",
    "Bring the changes of a worktree into the tree that it was made from, not\n"
    "committed, and remove it. Where they do not fit, nothing is changed. --dry-run\n"
    "only tries.",
    """\
examples:
  clinvk worktrees apply --dry-run claude-3f9c2a1b
  clinvk worktrees apply claude-3f9c2a1b
""",
)

WORKTREES_DISCARD = Help(
    "clinvk worktrees discard [flags] ID...",
    "Remove worktrees with their branches and all that was done in them. On a\n"
    "terminal it asks first; without one it needs --yes.",
)

PARALLEL = Help(
    "clinvk parallel [flags]",
    "Run tasks of a file, or of stdin, several at once; print the answers and a table\nin the order of the tasks.",
    """\
examples:
  clinvk parallel -f tasks.yaml
  clinvk parallel -f tasks.json --max-parallel 8 --fail-fast --json
  producer-of-json-lines | clinvk parallel --isolation worktree

tasks.yaml:
  max_parallel: 2
  tasks:
    - {backend: claude, prompt: "review src/a.py", name: review}
    - {backend: codex, prompt: "find dead code", sandbox_mode: read-only}

The file may be a list of tasks, too, or one JSON object a line. A task takes
what a prompt does over HTTP (docs/rest.md), and id, name, meta, isolation.
--backend, --model and --workdir are for tasks that name none. output_dir:
PATH beside the tasks gets summary.json and a JSON file a task.

exit codes: 0 all succeeded, 1 a task failed, 2 no such file or agent, or the
file is not as it must be, 7 Ctrl-C: what was done until then is told.
""",
)

CHAIN = Help(
    "clinvk chain [flags]",
    "Run steps of a file, or of stdin, one after the other; the first that fails ends\nthe chain.",
    """\
examples:
  clinvk chain -f steps.yaml
  clinvk chain --resume-from 5bb1b8f1

steps.yaml:
  pass_working_dir: true
  steps:
    - {name: plan, backend: claude, prompt: "plan the fix of issue 12"}
    - {backend: codex, prompt: "do this: {{previous}}", approval_mode: auto}

{{previous}} in a prompt is the answer of the step before, {{steps.NAME}} that
of an earlier step, {{input}} the text beside the steps; all other braces stay.
A step takes what a task of clinvk parallel does. stop_on_failure: false goes
on after a failure. --resume-from takes the id that a chain tells on stderr as
it begins, and that clinvk runs list has, too. Exit codes are those of clinvk
parallel.
""",
)

COMPARE = Help(
    "clinvk compare [flags] --backends A,B PROMPT\n       clinvk compare [flags] --all-backends PROMPT",
    "Give one prompt to several agents, and show what each answers.",
    """\
examples:
  clinvk compare --backends claude,codex "explain this repository"
  clinvk compare --all-backends --judge claude "name three risks" --json
  clinvk compare --all-backends --isolation worktree --check "make test" \\
      --approval-mode auto --diff "fix the failing test"

The prompt is an argument, stdin, or both, as for clinvk PROMPT. The judge does
not know who gave which answer. What agents changed in worktrees stays there:
see clinvk worktrees. Exit codes: 0 all succeeded, whatever --check said; 1 an
agent or the judge failed, 2 one is not available (--all-backends leaves it out,
and says so), 7 Ctrl-C.
""",
)

SERVE = Help(
    "clinvk serve [flags]",
    "Serve the agents on this machine over HTTP. Ctrl-C lets running requests\n"
    "finish for server.shutdown_grace_secs; a second one stops at once.",
    """\
examples:
  clinvk serve
  clinvk serve --port 3000 --backend codex

--backend, --model and --workdir are what a request gets that names none.
Whoever can reach the address can run agents as you. Where that is more than
this machine, as with --host 0.0.0.0, an API key is asked for: one of yours
(clinvk keys create NAME, CLINVK_API_KEYS), or one that is made for this start
and printed on stderr. --insecure asks for none.
""",
)

SERVICE = Help(
    "clinvk service install | uninstall | status | print [systemd | launchd]",
    "The server as a service, which starts by itself and is restarted when it ends.",
    """\
commands:
  service install           write the service's files, enable and start it
  service uninstall         stop it, and remove its files
  service status            tell whether it is installed and runs
  service print             print the files that install writes

systemd is meant on Linux, launchd on macOS; print shows either anywhere.
Help for each: clinvk help service install
""",
)

SERVICE_INSTALL = Help(
    "clinvk service install [flags] [systemd | launchd]",
    "Write, enable and start a service that runs clinvk serve. Done again, it only\n"
    "changes what differs. --dry-run shows files and commands, and does nothing.",
    """\
examples:
  clinvk service install
  sudo clinvk service install --system --run-as ana --port 8080
  sudo clinvk service install --socket

The settings are read first: with wrong ones nothing is installed. --config is
passed on, and --workdir is the directory that it starts in (default: workspace
in ~/.clinvk). Variables for the agents, such as API keys, stand in the file
~/.clinvk/service.env, which is for systemd alone.
""",
)

SERVICE_UNINSTALL = Help(
    "clinvk service uninstall [flags] [systemd | launchd]",
    "Stop the service and remove its files; sessions and settings stay.",
)

SERVICE_STATUS = Help(
    "clinvk service status [flags] [systemd | launchd]",
    "Tell whether the service is installed, starts by itself, and runs: then the exit\ncode is 0, else 1.",
)

SERVICE_PRINT = Help(
    "clinvk service print [flags] [systemd | launchd]",
    "Print the files that install writes, and do nothing.",
    """\
example:
  clinvk service print systemd --system --run-as clinvk
""",
)

KEYS = Help(
    "clinvk keys create NAME | list | revoke NAME",
    "The API keys that clinvk serve asks for. Servers that run follow within seconds.",
    """\
commands:
  keys create NAME          make a key, and show it this once
  keys list                 list them: what each may do, and when it expires
  keys revoke NAME          take one away

Once there is a key, each request must carry one. Only digests are kept, in
keys.json of the clinvk home. Help for each: clinvk help keys create
""",
)

KEYS_CREATE = Help(
    "clinvk keys create [flags] NAME",
    "Make an API key and print it, as the last line of stdout. It cannot be shown\nagain. NAME is for people and logs.",
    """\
examples:
  clinvk keys create ana
  clinvk keys create ci --backends codex --allow-dir /srv/ci --rate 2
  clinvk keys create guest --tokens-per-day 1000000 --expires 30d --max-runs 2

What a key has used of its day is counted when a run ends; one that is under
way when it is used up goes on.
""",
)

KEYS_LIST = Help("clinvk keys list [flags]", "List the keys, without the keys themselves.")

KEYS_REVOKE = Help(
    "clinvk keys revoke [flags] NAME",
    "Take a key away: requests with it are refused from then on, and so are its runs\n"
    "that wait. After the last one the server lets nobody in.",
)

CONFIG = Help(
    "clinvk config show | get KEY | set KEY VALUE | unset KEY",
    "Show the settings, and change the settings file.",
    """\
commands:
  config show               show all settings, and where each comes from
  config get KEY            print the setting, or the section, of this name
  config set KEY VALUE      write one into the settings file
  config unset KEY          take one out of the settings file

examples:
  clinvk config show
  clinvk config get server.port
  clinvk config set backends.claude.model opus

Help for each: clinvk help config set
""",
)

CONFIG_SHOW = Help(
    "clinvk config show [flags]",
    "Show the settings as they hold here, and where each comes from: the default,\n"
    "FILE:LINE, a variable or the command line. What is printed is YAML.",
    """\
Keys, tokens and passwords in the agents' variables and flags are hidden;
config get shows one that it names.
""",
)

CONFIG_GET = Help(
    "clinvk config get [flags] KEY",
    "Print one setting as it holds here; a list or a section is printed as YAML.",
    """\
examples:
  clinvk config get server.port
  clinvk config get backends.claude
  clinvk config get --json session
""",
)

CONFIG_SET = Help(
    "clinvk config set [flags] KEY VALUE",
    "Write one setting into the settings file (~/.clinvk/config.yaml, CLINVK_CONFIG\n"
    "or --config). Comments and order stay; a value that cannot be is not written.",
    """\
examples:
  clinvk config set server.port 3000
  clinvk config set output.color no
  clinvk config set session.default_tags work,urgent
  clinvk config set backends.claude.allowed_tools Read,Grep
  clinvk config set backends.claude.env.ANTHROPIC_BASE_URL http://127.0.0.1:8090
  clinvk config set backends.codex.extra_flags -- --strict-config

A list is texts with commas, or [a, b] where an item has a comma. null is the
default. A value that begins with - stands after --. --dry-run checks only.
""",
)

CONFIG_UNSET = Help(
    "clinvk config unset [flags] KEY",
    "Take a setting, or a whole section, out of the settings file, so that the\ndefault holds. --dry-run checks only.",
    """\
example:
  clinvk config unset backends.claude.model
""",
)

DOCTOR = Help(
    "clinvk doctor [flags]",
    "Check what clinvk needs: the agent CLIs, their versions, flags and logins, the\n"
    "settings, its own files, the port and this machine. Asks no model, changes\n"
    "nothing, works offline. --backend looks at one agent only.",
    """\
exit codes:
  0  an agent can be used, the settings are valid, and sessions can be kept
  1  no agent can be used, or no session can be kept
  3  the settings are invalid
""",
)

COMPLETION = Help(
    "clinvk completion bash | zsh | fish",
    "Print the script that completes commands, flags and values in a shell.",
    """\
bash  source <(clinvk completion bash)    in ~/.bashrc
zsh   source <(clinvk completion zsh)     in ~/.zshrc, after compinit
fish  clinvk completion fish | source     in ~/.config/fish/config.fish
""",
)

VERSION = Help("clinvk version", "Show the version.")

HELP = Help("clinvk help [COMMAND]", "Show help for clinvk or for one of its commands.")
