"""A flag of the command line, as a field of a class declares it."""

import argparse
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, Union, dataclass_transform, get_args, get_origin

from clinvk.types.choices import state_word


class Flag(NamedTuple):
    """A flag: what a field declares, then what `flags_of` adds from its name and type.

    Attributes:
        help: the text of the help, and of the completion; empty for a flag that both leave out.
        metavar: the value in the help; empty for a switch. DIR and FILE complete paths, NAME and MODEL backends and
            models.
        short: the one-letter form, such as `-b`.
        read: parses the value; the default is text.
        heading: the heading in the help; the default is that of the class.
        field: the name of the field.
        names: the flag itself and its one-letter form, if any.
        choices: the allowed values; empty for any.
        is_repeatable: whether the flag may be given several times.
    """

    help: str
    metavar: str = ""
    short: str = ""
    read: Callable[[str], object] | None = None
    heading: str = ""
    field: str = ""
    names: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_repeatable: bool = False

    def add_to(self, group: Any) -> None:
        """Add the flag to a group of an argparse parser."""
        about = self.help or argparse.SUPPRESS
        if not self.metavar:
            switch = "count" if self.is_repeatable else "store_true"
            group.add_argument(*self.names, dest=self.field, action=switch, help=about)
            return
        read = self._choice if self.choices else self.read
        action = "append" if self.is_repeatable else "store"
        group.add_argument(*self.names, dest=self.field, action=action, type=read, metavar=self.metavar, help=about)

    @property
    def words(self) -> dict[str, str]:
        """The choices, each by the word that people read."""
        return {state_word(choice): choice for choice in self.choices}

    def _choice(self, text: str) -> str:
        choice = self.words.get(text, text)
        if choice not in self.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(self.words)}")
        return choice


def whole(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """Return the parser of a whole number."""
    allowed = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"

    def read_number(text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= 18
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
        return int(text)

    return read_number


def number(what: str, is_allowed: Callable[[float], bool]) -> Callable[[str], float]:
    """Return the parser of a finite number; `what` describes the allowed numbers in the error."""

    def read_number(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (is_allowed(number) and number < math.inf):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {what}")
        return number

    return read_number


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Fields(SimpleNamespace):
    """Keyword arguments as attributes; the attributes of the class are the defaults."""


def completed(flag: Flag, field: str, type_: Any, heading: str) -> Flag:
    """Return a flag with what its field's name and type say."""
    name = field.strip("_").replace("_", "-")
    inner: Any = get_args(type_)[0] if get_origin(type_) in (Union, UnionType) else type_
    is_count = inner is int and not flag.read
    is_sequence = get_origin(inner) is Sequence
    item: Any = get_args(inner)[0] if is_sequence else inner
    return flag._replace(
        field=field,
        names=(f"--{name}", *filter(None, (flag.short,))),
        heading=flag.heading or heading,
        metavar="" if inner is bool or is_count else flag.metavar or name.upper(),
        choices=get_args(item) if get_origin(item) is Literal else (),
        is_repeatable=is_count or is_sequence,
    )
