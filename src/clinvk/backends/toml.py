"""Values as TOML 1.0 has them, each on one line: `-c key=value` of Codex, commands of Gemini CLI."""

import re

_UNQUOTABLE = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def string(text: str) -> str:
    """Write a basic string: quotes, backslashes and control characters escaped, all else as it is."""
    return '"' + _UNQUOTABLE.sub(lambda found: _SHORT.get(found[0], f"\\u{ord(found[0]):04X}"), text) + '"'


def table(entries: dict[str, str]) -> str:
    """Write an inline table; the values are TOML already."""
    return "{" + ", ".join(f"{string(key)} = {value}" for key, value in entries.items()) + "}"
