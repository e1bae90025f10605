"""Shell commands for checking the work of an agent, e.g. `make test`."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from clinvk.runtime.process.executables import without_secrets
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import Wake
from clinvk.types.orchestration import Check

OUTPUT_BYTES = 64 * 1024
"""How much of a check's output is kept: the end, which says why a check failed."""

_DRAIN_S = 1.0
"""How long processes that a check leaves behind may keep its output open."""


async def run_check(
    spawner: Spawner, command: str, directory: str, environ: Mapping[str, str], timeout_s: float
) -> Check:
    """Run a shell command, then end all processes of the command. After a timeout, the exit code is None.

    Raises:
        InvalidRequest: the directory cannot be entered, or the command is too long.
    """
    changed = Wake()
    # stderr joins stdout before the shell parses the command, so that syntax errors stand in their place.
    argv = ("/bin/sh", "-c", 'exec 2>&1; exec /bin/sh -c "$0"', command)
    process = spawner.spawn(argv, environment(environ), directory, changed.set, raw=True)
    output, size, is_draining = bytearray(), 0, False
    try:
        process.write(b"", close=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s) as limit:
                while process.exit_code is None or not process.at_eof:
                    if process.exit_code is not None and not is_draining:
                        is_draining = True
                        limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_S)
                    await changed.wait()
                    for piece in process.take():
                        size += len(piece)
                        output = (output + piece)[-OUTPUT_BYTES:]
        exit_code = process.exit_code
    finally:
        await spawner.sweep(process)
    text, cut = output.decode(errors="replace"), size - len(output)
    if cut:
        text = f"({cut} bytes before this left out)\n{text}"
    return Check(passed=exit_code == 0, exit_code=exit_code, output=text)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without clinvk's secrets, and without the variables of git, which select a repository."""
    return {name: value for name, value in without_secrets(environ).items() if not name.startswith("GIT_")}
