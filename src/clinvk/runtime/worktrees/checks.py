"""A command that judges what an agent did: run in the agent's directory, to its end or to its deadline."""

import asyncio
from collections.abc import Mapping

from clinvk.runtime.process.executables import without_secrets
from clinvk.runtime.process.spawn import Process, Spawner
from clinvk.runtime.process.waiting import Wake
from clinvk.types.orchestration import Check

OUTPUT_BYTES = 64 * 1024
"""How much of what a check prints is kept: its end, which says why."""

_DRAIN_S = 1.0
"""How long what it left behind may hold its output open."""


async def run_check(
    spawner: Spawner, command: str, directory: str, environ: Mapping[str, str], timeout_s: float
) -> Check:
    """Run a shell command; all that it started is ended with it.

    Raises:
        InvalidRequest: the directory cannot be entered, or the command is too long.
    """
    changed = Wake()
    # stderr joins stdout before the command is read: a mistake in it is then told in its place.
    argv = ("/bin/sh", "-c", 'exec 2>&1; exec /bin/sh -c "$0"', command)
    process = spawner.spawn(argv, environment(environ), directory, changed.set, raw=True)
    output = _Tail(OUTPUT_BYTES)
    try:
        process.write(b"", close=True)
        exit_code = await _exit_code(process, changed, output, timeout_s)
    finally:
        await spawner.sweep(process)
    return Check(passed=exit_code == 0, exit_code=exit_code, output=output.text())


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Give an environment without clinvk's secrets, and without what would lead git to another repository."""
    return {name: value for name, value in without_secrets(environ).items() if not name.startswith("GIT_")}


async def _exit_code(process: Process, changed: Wake, output: "_Tail", timeout_s: float) -> int | None:
    """Read to the end; None where it does not come in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await _read(process, changed, output, to_exit=True)
    except TimeoutError:
        return None
    try:
        async with asyncio.timeout(_DRAIN_S):
            await _read(process, changed, output, to_exit=False)
    except TimeoutError:
        pass  # what it left running holds its output open, and is ended
    return process.exit_code


async def _read(process: Process, changed: Wake, output: "_Tail", to_exit: bool) -> None:
    while True:
        for piece in process.take():
            output.add(piece)
        if process.exit_code is not None if to_exit else process.at_eof:
            return
        await changed.wait()


class _Tail:
    """The last bytes of an output."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()
        self._dropped = 0

    def add(self, piece: bytes) -> None:
        self._kept += piece
        over = len(self._kept) - self._most
        if over > 0:
            del self._kept[:over]
            self._dropped += over

    def text(self) -> str:
        """Give them as text; says how much stood before."""
        kept = self._kept.decode(errors="replace")
        return f"({self._dropped} bytes before this left out)\n{kept}" if self._dropped else kept
