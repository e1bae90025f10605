"""The words around the flags in the help: usage, description and what follows, for each command."""

_EXAMPLES = """\
commands:
  PROMPT                    run one prompt: an argument, stdin, or both
  serve                     serve the REST API
  version                   show the version
  help [COMMAND]            show help

examples:
  clinvk "explain this repository"
  clinvk -b codex -w ~/project --sandbox-mode workspace "fix the failing test"
  git diff | clinvk -o text "review this change"
  clinvk -o text - < prompt.md
  clinvk --dry-run --sandbox-mode read-only "what is here?"
  clinvk -o text -- "--help of tar, explained"

stdin:
  Without PROMPT, or with -, stdin is the prompt. With PROMPT, what is piped in
  follows it as context. A pipe on which nothing comes for 3 seconds is left
  alone; --no-stdin does not look. In a shell loop that reads its own stdin, use
  --no-stdin or </dev/null.

exit codes:
  0  success                        5  the server failed while serving
  1  anything else, wrong usage     6  timed out
  2  backend not available          7  cancelled (Ctrl-C)
  3  invalid settings               8 and above: the agent's own exit code;
  4  no such session                128 + n: it was ended by signal n

settings:
  ~/.clinvk/config.yaml, and the environment: CLINVK_BACKEND,
  CLINVK_CLAUDE_MODEL, or any key as CLINVK_SERVER__PORT. Flags beat both.
"""

COMMANDS: dict[str, tuple[str, str, str]] = {
    "": (
        "clinvk [flags] PROMPT\n       clinvk [flags] COMMAND",
        "Run a coding agent on this machine: Claude Code, Codex or Gemini CLI.",
        _EXAMPLES,
    ),
    "serve": (
        "clinvk serve [flags]",
        "Serve the agents on this machine over HTTP. Ctrl-C lets running requests\n"
        "finish for server.shutdown_grace_secs; a second one stops at once.",
        "examples:\n"
        "  clinvk serve\n"
        "  clinvk serve --port 3000 --backend codex\n\n"
        "--backend, --model and --workdir are what a request gets that names none.\n"
        "Whoever can reach the address can run agents as you: think before you give\n"
        "--host 0.0.0.0.\n",
    ),
    "version": ("clinvk version", "Show the version.", ""),
    "help": ("clinvk help [COMMAND]", "Show help for clinvk or for one of its commands.", ""),
}
