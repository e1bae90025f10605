"""Run a program that can write in some folders only: `python -I -S landlock.py FOLDER… -- PROGRAM ARGUMENT…`.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) restricts writes, signals and the debugging of other
processes. It does not restrict the permissions, owners and attributes of files, the resource limits of other processes,
nor Unix sockets, which lead to programs outside; a seccomp filter refuses these, and io_uring, which would bypass the
filter. A pair of stream sockets is connected for good, and allowed.
"""

import ctypes
import os
import struct
import sys
from contextlib import suppress
from typing import NamedTuple

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
_VERSION = 6
_FILE_ACCESS = 1 << 1 | 1 << 14 | 1 << 15  # write, truncate, control a device
_ACCESS = _FILE_ACCESS | sum(1 << bit for bit in range(4, 14))  # remove, make, move
_SCOPES = 1 | 2  # abstract sockets, signals
_DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))

_SET_SECCOMP, _FILTER_MODE, _DROP_CAPABILITY, _SET_NO_NEW_PRIVILEGES = 22, 2, 24, 38
_CAPABILITIES = 64
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # EPERM
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_X32 = 0x40000000
_SET_FLAGS, _SET_ATTRIBUTES = 0x40086602, 0x401C5820
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK, _THIS_PROCESS = 1, 1, 0xF, 0
_ALL_BITS = 0xFFFFFFFF


class _Machine(NamedTuple):
    """The architecture, and the numbers of its system calls; `refused` change permissions, owners and attributes."""

    architecture: int
    socket: int
    socketpair: int
    ioctl: int
    prlimit: int
    refused: tuple[int, ...]


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 41, 53, 16, 302, (90, 91, 92, 93, 94, 188, 189, 190, 197, 198, 199, 260, 268)),
    "aarch64": _Machine(0xC00000B7, 198, 199, 29, 261, (5, 6, 7, 14, 15, 16, 52, 53, 54, 55)),
}
_REFUSED = (425, 426, 427, 452, 463, 466, 469)  # io_uring, and later calls, which have one number everywhere

_libc = ctypes.CDLL(None, use_errno=True)


def is_available() -> bool:
    """Return whether this machine can restrict a program: some kernels and containers refuse landlock."""
    system = os.uname()
    is_known = system.sysname == "Linux" and system.machine in _MACHINES
    return is_known and _system_call(_CREATE_RULESET, None, 0, _GET_VERSION) >= _VERSION


def main(arguments: list[str]) -> None:
    """Restrict this process, and become the program."""
    end = arguments.index("--")
    _checked(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    for capability in range(_CAPABILITIES):
        _libc.prctl(_DROP_CAPABILITY, capability, 0, 0, 0)  # fails for a user who has none
    _restrict_files(arguments[:end])
    _restrict_calls(_MACHINES[os.uname().machine])
    os.execv(arguments[end + 1], arguments[end + 1 :])  # noqa: S606  # the agent, without a shell


def _restrict_files(folders: list[str]) -> None:
    """Allow writes in folders that exist, and to harmless devices."""
    if not is_available():
        sys.exit("landlock is not available: it needs Linux 6.12 or later")
    attributes = struct.pack("=QQQ", _ACCESS, 0, _SCOPES)
    rules = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    for path in (*folders, *_DEVICES):
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_PATH)
            access = _ACCESS if os.path.isdir(path) else _FILE_ACCESS
            _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
    _call(_RESTRICT_SELF, rules, 0)


def _restrict_calls(machine: _Machine) -> None:
    """Refuse the calls that landlock does not restrict, and programs of another architecture."""
    refuse = _step(_RETURN, _REFUSE)
    steps = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, machine.architecture, 1, 0), refuse, _step(_LOAD, _NUMBER)]
    steps += [_step(_AT_LEAST, _X32, 0, 1), refuse]
    for number in (*machine.refused, *_REFUSED):
        steps += [_step(_EQUAL, number, 0, 1), refuse]
    for number, argument, mask, value, is_refused in (
        (machine.socket, _FIRST, _ALL_BITS, _AF_UNIX, True),
        (machine.socketpair, _SECOND, _SOCK_TYPE_MASK, _SOCK_STREAM, False),
        (machine.ioctl, _SECOND, _ALL_BITS, _SET_FLAGS, True),
        (machine.ioctl, _SECOND, _ALL_BITS, _SET_ATTRIBUTES, True),
        (machine.prlimit, _FIRST, _ALL_BITS, _THIS_PROCESS, False),
    ):
        steps += [_step(_EQUAL, number, 0, 4), _step(_LOAD, argument), _step(_AND, mask)]
        steps += [_step(_EQUAL, value, not is_refused, is_refused), refuse, _step(_LOAD, _NUMBER)]
    code = ctypes.create_string_buffer(b"".join([*steps, _step(_RETURN, _ALLOW)]))
    program = struct.pack("@HP", len(steps) + 1, ctypes.addressof(code))
    _checked(_libc.prctl(_SET_SECCOMP, _FILTER_MODE, program, 0, 0))


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return an instruction of the filter; the two last arguments are the numbers of instructions to skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _call(number: int, *arguments: int | bytes | None) -> int:
    return _checked(_system_call(number, *arguments))


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    words = (ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments)
    return _libc.syscall(ctypes.c_long(number), *words)


def _checked(result: int) -> int:
    if result < 0:
        sys.exit(f"landlock cannot restrict the agent: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
