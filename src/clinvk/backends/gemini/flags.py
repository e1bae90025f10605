"""The `extra` flags for Gemini CLI. clinvk refuses flags that would override its own.

The CLI parses flags with yargs, for which `--output-format`, `--outputFormat`, `--no-output-format` and
`--output-format.x` are the same flag, and `-do json` is `-d -o json`.
"""

from clinvk.policy.rules import Flags
from clinvk.types.errors import InvalidRequest

_RESERVED = {
    "clinvk runs one prompt a process": ("acp", "experimental-acp"),
    "use approval_mode, sandbox_mode and allowed_tools": ("admin-policy", "policy"),
    "use approval_mode and allowed_tools": ("allowed-tools",),
    "use approval_mode": ("approval-mode", "skip-trust", "yolo", "y"),
    "use sandbox_mode": ("sandbox", "s"),
    "use add_dirs": ("include-directories",),
    "use model": ("model", "m"),
    "use workdir": ("worktree", "w"),
    "use prompt": ("prompt", "p", "prompt-interactive", "i", "query"),
    "use session_id": ("resume", "r", "session-file", "session-id"),
    "clinvk reads stream-json": ("output-format", "o"),
    "it asks no model": ("fake-responses", "fake-responses-non-strict"),
    "it writes a file": ("record-responses",),
    "it runs no prompt": (
        *("delete-session", "help", "h", "is-command", "list-extensions", "l", "list-sessions", "version", "v"),
    ),
}
"""The flags that clinvk refuses, by reason; one letter is the short form of the flag before."""

PING = b'{"jsonrpc":"2.0","id":"clinvk-ping","method":"ping"}\n'
"""A request for an unknown method, which the CLI refuses at once, even during a turn."""

_ALWAYS_ACCEPTED = ("--debug", "--raw-output", "--screen-reader", "-d")
SAFE_FLAGS: Flags = {"--screen-reader": None}
"""Flags that are safe in requests from anybody. Debug output and raw model output are not for everybody to see."""


def check_extra(extra: tuple[str, ...], *, is_open: bool) -> None:
    """Refuse flags that clinvk governs and, if the agent is restricted, all except a few harmless flags.

    Raises:
        InvalidRequest: A flag is refused; the message names the alternative.
    """
    for index, argument in enumerate(extra):
        field = f"extra[{index}]"
        if not argument.startswith("-") or argument.strip("-") == "":
            raise InvalidRequest(f"extra flag {argument!r} is not accepted: write --flag or --flag=value", field)
        if reason := _reserved(argument):
            raise InvalidRequest(f"extra flag {argument!r} is not accepted: {reason}", field)
        if not is_open and argument not in _ALWAYS_ACCEPTED:
            have = ", ".join(_ALWAYS_ACCEPTED)
            raise InvalidRequest(
                f"extra flag {argument!r} is only accepted with approval_mode none and no sandbox; otherwise {have}",
                field,
            )


def _reserved(argument: str) -> str | None:
    name = argument.split("=", 1)[0]
    if not name.startswith("--"):
        return next((_REASONS[letter] for letter in name[1:] if letter in _REASONS), None)
    plain = _normalized(name.split(".", 1)[0])
    return _REASONS.get(plain) or _REASONS.get(plain.removeprefix("no"))


def _normalized(name: str) -> str:
    return name.replace("-", "").lower()


_REASONS = {_normalized(name): reason for reason, names in _RESERVED.items() for name in names}
