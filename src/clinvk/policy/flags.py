"""Which of an agent CLI's own flags a request may send: those that a backend lists, with values that fit."""

import re
from collections.abc import Mapping

Flags = Mapping[str, str | None]
"""The flags of a backend, and the pattern that the whole of a flag's value must match; None takes no value.

A flag may be listed if, with any of its values, it loosens no approval or sandbox, leads to no directory, chooses no
model, loads no settings, and neither writes nor reads a file.
"""


class NotListed(Exception):
    """A flag is not listed, or its value does not fit; `index` is its place, the text says what is wrong."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def listed(extra: tuple[str, ...], flags: Flags) -> tuple[str, ...]:
    """Give the flags of a request in one spelling: a value of a long flag is joined to it by `=`.

    Raises:
        NotListed: one may not be sent.
    """
    found: list[str] = []
    rest = iter(enumerate(extra))
    for index, argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in flags:
            have = ", ".join(flags) or "none for this backend"
            raise NotListed(index, f"extra flag {argument!r} is not one that a request may send; allowed: {have}")
        pattern = flags[flag]
        if pattern is None:
            if equals:
                raise NotListed(index, f"extra flag {flag!r} takes no value, got {argument!r}")
            found.append(flag)
            continue
        if not equals:
            index, value = next(rest, (index, ""))
        if not re.fullmatch(pattern, value):
            raise NotListed(index, f"extra flag {flag!r} must have a value that matches {pattern}, got {value!r}")
        found += [f"{flag}={value}"] if flag.startswith("--") else [flag, value]
    return tuple(found)
