"""Skills that a prompt names: Codex 0.169.0 puts their `SKILL.md` before the model, wherever the name stands.

`$name` does so, and `[$anything](path)` with the absolute path of the file. Nothing escapes them, and no setting turns
it off; but a skill that is disabled is not found. Where a prompt is data, what it could name is disabled for its run.
"""

import re

from clinvk.backends import toml

SETTING = "skills.config"
"""A list that is added to the user's own."""

_NAME = re.compile(r"\$([A-Za-z0-9_:-]+)")
_LINK = re.compile(r"\[\$[A-Za-z0-9_:-]+\]\s*\(([^)]*)\)")


def unmentioned(text: str) -> dict[str, str]:
    """Give the settings with which a text names no skill; none where it could name none."""
    if "$" not in text:
        return {}
    paths = (path.strip().removeprefix("skill://") for path in _LINK.findall(text))
    named = [("name", name) for name in dict.fromkeys(_NAME.findall(text))]
    named += [("path", path) for path in dict.fromkeys(paths) if path.startswith("/")]
    disabled = (f"{{{key} = {toml.string(value)}, enabled = false}}" for key, value in named)
    return {SETTING: f"[{', '.join(disabled)}]"} if named else {}
