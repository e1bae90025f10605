"""A setting as one of its sources gave it, and what becomes of one that is wrong."""

from collections.abc import Callable
from typing import NamedTuple

from clinvk.errors import ConfigError


class Given(NamedTuple):
    """A value as a source gave it.

    Attributes:
        keys: from the top down, e.g. `("server", "port")`.
        value: None is a key without a value, which says nothing.
        place: where it stands: `FILE:LINE`, the variable or the flag.
        written: the value as its author wrote it.
        is_text: the source knows no types (the environment): `value` is to be read as the key's type.
    """

    keys: tuple[str, ...]
    value: object
    place: str
    written: str
    is_text: bool = False

    @property
    def said(self) -> str:
        """What it says, for a message."""
        return f"{'.'.join(self.keys)} = {self.written!r}"


Reject = Callable[[ConfigError], None]
"""Gets each thing that is wrong. One that returns lets the reading go on with the rest."""


def refuse(error: ConfigError) -> None:
    """Stop at the first thing that is wrong."""
    raise error
