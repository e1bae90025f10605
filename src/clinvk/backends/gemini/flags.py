"""The `extra` flags for Gemini CLI. clinvk refuses flags that would override its own.

The CLI parses flags with yargs, for which `--output-format`, `--outputFormat`, `--no-output-format` and
`--output-format.x` are the same flag, and `-do json` is `-d -o json`.
"""

from clinvk.policy.rules import Flags
from clinvk.types.errors import InvalidRequest

_GOVERNED = {
    "acp": "clinvk runs one prompt a process",
    "admin-policy": "use approval_mode, sandbox_mode and allowed_tools",
    "allowed-tools": "use approval_mode and allowed_tools",
    "approval-mode": "use approval_mode",
    "delete-session": "it runs no prompt",
    "experimental-acp": "clinvk runs one prompt a process",
    "fake-responses": "it asks no model",
    "fake-responses-non-strict": "it asks no model",
    "help": "it runs no prompt",
    "include-directories": "use add_dirs",
    "is-command": "it runs no prompt",
    "list-extensions": "it runs no prompt",
    "list-sessions": "it runs no prompt",
    "model": "use model",
    "output-format": "clinvk reads stream-json",
    "policy": "use approval_mode, sandbox_mode and allowed_tools",
    "prompt": "use prompt",
    "prompt-interactive": "use prompt",
    "query": "use prompt",
    "record-responses": "it writes a file",
    "resume": "use session_id",
    "sandbox": "use sandbox_mode",
    "session-file": "use session_id",
    "session-id": "use session_id",
    "skip-trust": "use approval_mode",
    "version": "it runs no prompt",
    "worktree": "use workdir",
    "yolo": "use approval_mode",
}
_LETTERS = {
    "h": "help",
    "i": "prompt-interactive",
    "l": "list-extensions",
    "m": "model",
    "o": "output-format",
    "p": "prompt",
    "r": "resume",
    "s": "sandbox",
    "v": "version",
    "w": "worktree",
    "y": "yolo",
}
_HARMLESS = ("--debug", "--raw-output", "--screen-reader", "-d")
SAFE_FLAGS: Flags = {"--screen-reader": None}
"""Flags that are safe in requests from anybody. Debug output and raw model output are not for everybody to see."""


def check_extra(extra: tuple[str, ...], *, open_words: bool) -> None:
    """Refuse flags that clinvk governs and, if the agent is restricted, all except a few harmless flags.

    Raises:
        InvalidRequest: A flag is refused; the message names the alternative.
    """
    for index, argument in enumerate(extra):
        field = f"extra[{index}]"
        if "\0" in argument:
            raise InvalidRequest(f"extra flag {argument!r} holds a NUL character", field)
        if not argument.startswith("-") or argument.strip("-") == "":
            raise InvalidRequest(f"extra flag {argument!r} is not accepted: write --flag or --flag=value", field)
        if reason := _governed(argument):
            raise InvalidRequest(f"extra flag {argument!r} is not accepted: {reason}", field)
        if not open_words and argument not in _HARMLESS:
            have = ", ".join(_HARMLESS)
            raise InvalidRequest(
                f"extra flag {argument!r} is only accepted with approval_mode none and no sandbox; otherwise {have}",
                field,
            )


def _governed(argument: str) -> str | None:
    name = argument.split("=", 1)[0]
    if not name.startswith("--"):
        return next((_SPELLED[_plain(_LETTERS[letter])] for letter in name[1:] if letter in _LETTERS), None)
    plain = _plain(name.split(".", 1)[0])
    return _SPELLED.get(plain) or _SPELLED.get(plain.removeprefix("no"))


def _plain(name: str) -> str:
    return name.replace("-", "").lower()


_SPELLED = {_plain(name): reason for name, reason in _GOVERNED.items()}
