"""The flags of Codex: the extra flags that a request may add, and how to disable skills that a prompt names.

Codex 0.169.0 shows the model the `SKILL.md` of a skill named anywhere in the prompt, either as `$name` or as
`[$anything](path)` with the absolute path of the file. No escape and no setting prevents the lookup, but Codex does not
find a disabled skill. If the prompt is data, the run disables every skill that the prompt could name.
"""

import re

from clinvk.backends import shared
from clinvk.policy.rules import Flags
from clinvk.types.errors import InvalidRequest

_RESERVED_KEYS = (
    *("approval_policy", "approvals_reviewer", "cwd", "default_permissions", "developer_instructions", "model"),
    *("permissions", "projects", "sandbox_mode", "sandbox_workspace_write"),
)
_HARMLESS_KEYS = (
    *("model_auto_compact_token_limit", "model_context_window", "model_provider", "model_reasoning_effort"),
    *("model_reasoning_summary", "model_verbosity", "service_tier", "tool_output_token_limit", "web_search"),
)
_STRICT = "--strict-config"
_CONFIG = "--config"
_FEATURES = ("--enable", "--disable")
_SAFE_SETTINGS = (
    '(model_reasoning_effort|model_reasoning_summary|model_verbosity)=("[a-z]+"|[a-z]+)'
    r"|(model_auto_compact_token_limit|model_context_window|tool_output_token_limit)=\d+"
)
ROOTS = "runtimeWorkspaceRoots"
"""The writable directories. The server accepts this parameter only with `experimentalApi`."""

PING = b'{"id":"clinvk-ping","method":"ping"}\n'
"""A request for an unknown method, which the server refuses at once, even during a turn."""

SAFE_FLAGS: Flags = {"-c": _SAFE_SETTINGS, _CONFIG: _SAFE_SETTINGS, _STRICT: None}
"""Harmless flags that also select no model and no service: safe in requests from anybody."""


def check(extra: tuple[str, ...], is_open: bool) -> None:
    """Refuse flags that `codex app-server` lacks, and in a sandbox also flags that may weaken the sandbox.

    Raises:
        InvalidRequest: an argument of `extra` is not accepted.
    """
    options = (_CONFIG, *_FEATURES) if is_open else (_CONFIG,)
    arguments = iter(enumerate(extra))
    for index, argument in arguments:
        flag, joined, value = _long_form(argument).partition("=")
        if flag in options:
            value = value if joined else next(arguments, (index, ""))[1]
            if flag == _CONFIG:
                _check_key(index, value, is_open)
        elif argument != _STRICT:
            where = "" if is_open else " in a sandbox"
            accepted = ", ".join((_STRICT, *options))
            raise InvalidRequest(
                f"extra flag {argument!r} is not accepted{where} (accepted: {accepted})", f"extra[{index}]"
            )


def _long_form(argument: str) -> str:
    """Return the long form of `-c`, with `=` before an attached value."""
    if not argument.startswith("-c"):
        return argument
    value = argument[2:].removeprefix("=")
    return f"{_CONFIG}={value}" if value else _CONFIG


def _check_key(index: int, setting: str, is_open: bool) -> None:
    key = setting.partition("=")[0].strip()
    top = key.partition(".")[0].strip().strip("\"'")
    why = None
    if top in _RESERVED_KEYS:
        why = "is not accepted: clinvk sets it from the request's own fields"
    elif not is_open and key not in _HARMLESS_KEYS:
        why = f"is not accepted in a sandbox (accepted: {', '.join(_HARMLESS_KEYS)})"
    if why:
        raise InvalidRequest(f"extra setting {key!r} {why}", f"extra[{index}]")


SETTING = "skills.config"
"""The list of skill settings, which Codex appends to the user's list."""

_NAME = re.compile(r"\$([A-Za-z0-9_:-]+)")
_LINK = re.compile(r"\[\$[A-Za-z0-9_:-]+\]\s*\(([^)]*)\)")


def disabled_skills(text: str) -> dict[str, str]:
    """Return settings that disable every skill that a text could name; empty if the text names no skill."""
    if "$" not in text:
        return {}
    paths = (path.strip().removeprefix("skill://") for path in _LINK.findall(text))
    named = [("name", name) for name in dict.fromkeys(_NAME.findall(text))]
    named += [("path", path) for path in dict.fromkeys(paths) if path.startswith("/")]
    disabled = (f"{{{key} = {shared.toml_string(value)}, enabled = false}}" for key, value in named)
    return {SETTING: f"[{', '.join(disabled)}]"} if named else {}
