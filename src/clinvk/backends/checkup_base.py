"""How to find out, without a prompt, whether an installed agent CLI can be used: pure, as backends are."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from clinvk.backends.base import Backend, Host, Launch
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import APPROVAL_MODES, SANDBOX_MODES, Image, RunRequest
from clinvk.types.session import Resume


class Answer(NamedTuple):
    """What a CLI said: its exit code, and its stdout and stderr as one text."""

    exit_code: int
    text: str


class Trial(msgspec.Struct, frozen=True):
    """A start with nothing on stdin that asks no model and shows which flags the CLI takes.

    `lacking` reads the answer: the flags that it does not take, or None where the answer does not tell.
    """

    argv: tuple[str, ...]
    lacking: Callable[[Answer], tuple[str, ...] | None]


class Login(msgspec.Struct, frozen=True):
    """Whether a CLI has what it needs to ask its model; None is not known. `about` says how, or what to do."""

    there: bool | None
    about: str


class Question(msgspec.Struct, frozen=True):
    """A start that tells about the login. `at_home`: in the user's own home, under `env`; else in an empty one."""

    argv: tuple[str, ...]
    read: Callable[[Answer], Login]
    at_home: bool
    env: dict[str, str] = {}


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is to find out.

    Attributes:
        empty_home: variables that give the CLI a home of its own, the folder `PRIVATE`: it writes into it at any start.
        trials: each flag that clinvk gives is in one of them.
        login: what is known without a start, or how to ask.
        remarks: what will not work on this machine, and why.
    """

    empty_home: dict[str, str]
    trials: tuple[Trial, ...]
    login: Login | Question
    remarks: tuple[str, ...] = ()


@runtime_checkable
class Checkable(Protocol):
    """A backend whose CLI can be looked at more closely than by its version."""

    def checkup(self, host: Host) -> Checkup:
        """Say how to find out whether the installed CLI can be used."""
        ...


_HOST = Host(commands=frozenset({"bwrap", "socat"}))
_OPTIONS: tuple[dict[str, object], ...] = (
    {"model": "best"},
    {"system_prompt": "x"},
    {"add_dirs": ("/tmp",)},  # noqa: S108  # no file is made
    {"allowed_tools": ("Read",)},
    {"max_turns": 1},
    {"effort": "high"},
    {"thinking": True},
    {"output_schema": {"type": "object", "additionalProperties": False}},
    {"images": (Image("image/png", b""),)},
    {"ephemeral": True},
)


def launches(backend: Backend, handle: str) -> Iterator[Launch]:
    """Give launches in which each flag that clinvk can give the CLI stands at least once."""
    plain = RunRequest(prompt="", workdir="/")
    full = msgspec.structs.replace(plain, **{name: value for option in _OPTIONS for name, value in option.items()})
    words = [{"approval_mode": approval, "sandbox_mode": box} for approval in APPROVAL_MODES for box in SANDBOX_MODES]
    most = msgspec.structs.replace(full, allowed_tools=None)
    requests = [full, most, plain, *(msgspec.structs.replace(plain, **changes) for changes in (*words, *_OPTIONS))]
    for request in requests:
        yield from _launch(backend, request, None)
    for fork in (False, True):
        yield from _launch(backend, plain, Resume(handle, fork=fork))


def _launch(backend: Backend, request: RunRequest, resume: Resume | None) -> Iterator[Launch]:
    try:
        yield backend.launch(request, resume, _HOST)
    except InvalidRequest:  # what is refused gives no flags
        return


def flags_in(argv: tuple[str, ...]) -> list[str]:
    """Give the names of the flags in a command line."""
    return [word.partition("=")[0] for word in argv[1:] if word.startswith("-")]
