"""How to check, without a prompt, whether an installed agent CLI can be used. Pure, like backends."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from clinvk.backends.base import Backend, Host, Launch
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import Resume
from clinvk.types.request import Image, RunRequest


class ProbeOutput(NamedTuple):
    """The output of a CLI command: the exit code, and stdout and stderr combined."""

    exit_code: int
    text: str


class FlagProbe(msgspec.Struct, frozen=True):
    """A command with empty stdin that shows which flags the CLI accepts, without a request to a model.

    `missing_flags` returns the flags that the CLI rejected, or None if the output is inconclusive.
    """

    argv: tuple[str, ...]
    missing_flags: Callable[[ProbeOutput], tuple[str, ...] | None]


class LoginStatus(msgspec.Struct, frozen=True):
    """Whether a CLI has credentials for its model; None if unknown.

    `detail` names the login or what is missing; `fix` is the command that logs in, if there is one.
    """

    is_logged_in: bool | None
    detail: str
    fix: str = ""


class Remark(NamedTuple):
    """A feature that does not work on this machine, and the system packages that enable the feature."""

    text: str
    packages: tuple[str, ...] = ()


class LoginProbe(msgspec.Struct, frozen=True):
    """A command that reports the login.

    The command runs in the user's home with `env` added if `in_user_home` is set, otherwise in an empty home.
    """

    argv: tuple[str, ...]
    read: Callable[[ProbeOutput], LoginStatus]
    in_user_home: bool
    env: dict[str, str] = {}


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of one CLI.

    Attributes:
        empty_home: variables that make the folder `PRIVATE` the CLI's home, because the CLI writes there at each start.
        probes: the probes; every flag that clinvk passes is in at least one probe.
        login: the login if known without running the CLI, otherwise the command that reports the login.
        remarks: what will not work on this machine.
    """

    empty_home: dict[str, str]
    probes: tuple[FlagProbe, ...]
    login: LoginStatus | LoginProbe
    remarks: tuple[Remark, ...] = ()


HANDLE = "00000000-0000-4000-8000-000000000000"
"""A conversation id that no CLI knows."""

_HOST = Host(commands=frozenset({"bwrap", "socat"}))
_OPTIONS: tuple[dict[str, object], ...] = (
    {"model": "best"},
    {"system_prompt": "x"},
    {"add_dirs": ("/tmp",)},  # noqa: S108  # no file is created
    {"allowed_tools": ("Read",)},
    {"max_turns": 1},
    {"effort": "high"},
    {"thinking": True},
    {"output_schema": {"type": "object", "additionalProperties": False}},
    {"images": (Image("image/png", b""),)},
    {"ephemeral": True},
)


def launches(backend: Backend, handle: str = HANDLE) -> Iterator[Launch]:
    """Yield launches that together contain every flag that clinvk can pass to the CLI."""
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
    except InvalidRequest:  # a refused request has no flags
        return


def flags_in(argv: tuple[str, ...]) -> list[str]:
    """Return the names of the flags in a command line."""
    return [word.partition("=")[0] for word in argv[1:] if word.startswith("-")]
