"""The flags of Codex: the extra flags that a request may add, and how to disable skills that a prompt names.

Codex 0.169.0 shows the model the `SKILL.md` of a skill named anywhere in the prompt, either as `$name` or as
`[$anything](path)` with the absolute path of the file. No escape and no setting prevents the lookup, but Codex does not
find a disabled skill. If the prompt is data, the run disables every skill that the prompt could name.
"""

import re
from collections.abc import Sequence

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
SAFE_FLAGS: Flags = {"-c": _SAFE_SETTINGS, _CONFIG: _SAFE_SETTINGS, _STRICT: None}
"""Harmless flags that also select no model and no service: safe in requests from anybody."""


def check(extra: tuple[str, ...], is_open: bool) -> None:
    """Refuse flags that `codex app-server` does not have and, if the agent runs in a sandbox, those that may weaken it.

    Raises:
        InvalidRequest: an argument of `extra` is not accepted.
    """
    long_forms = tuple(map(_long_form, extra))
    for index, argument in enumerate(long_forms):
        if argument.partition("=")[0] == _CONFIG:
            _check_key(index, _value(long_forms, index), is_open)
    options = (_CONFIG, *_FEATURES) if is_open else (_CONFIG,)
    if (index := _first_other(long_forms, options)) is not None:
        where = "" if is_open else " in a sandbox"
        accepted = ", ".join((_STRICT, *options))
        raise InvalidRequest(
            f"extra flag {extra[index]!r} is not accepted{where} (accepted: {accepted})", f"extra[{index}]"
        )


def _first_other(long_forms: Sequence[str], options: Sequence[str]) -> int | None:
    """Return the index of the first argument that is no switch and no option with its value, or None."""
    rest = iter(enumerate(long_forms))
    for index, argument in rest:
        flag, joined, _ = argument.partition("=")
        if flag in options:
            if not joined:
                next(rest, None)
        elif argument != _STRICT:
            return index
    return None


def _long_form(argument: str) -> str:
    """Return the long form of `-c`, with `=` before an attached value."""
    if not argument.startswith("-c"):
        return argument
    value = argument[2:].removeprefix("=")
    return f"{_CONFIG}={value}" if value else _CONFIG


def _value(long_forms: tuple[str, ...], index: int) -> str:
    _, joined, value = long_forms[index].partition("=")
    return value if joined else "".join(long_forms[index + 1 : index + 2])


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
