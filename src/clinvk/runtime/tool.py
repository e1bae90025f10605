"""Helper programs, as git and `--version`: run to their end like agents, marked and swept."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clinvk.runtime.process import Spawner
from clinvk.runtime.wake import Wake


class Exited(NamedTuple):
    """What a helper program gave."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def run_tool(
    spawner: Spawner,
    argv: Sequence[str],
    env: Mapping[str, str],
    timeout_s: float,
    cwd: str | None = None,
    stdin: bytes = b"",
) -> Exited:
    """Run a helper program (git, `--version`) to its end; after `timeout_s` it is killed.

    All that it prints is kept, but of stderr only the end.

    Raises:
        BackendUnavailable: the program cannot be started.
        TimeoutError: it took too long.
    """
    changed = Wake()
    process = spawner.spawn(argv, env, cwd, changed.set, raw=True)
    pieces: list[bytes] = []
    try:
        process.write(stdin, close=True)
        async with asyncio.timeout(timeout_s):
            while process.exit_code is None or not process.at_eof:
                await changed.wait()
                pieces += process.take()
        return Exited(process.exit_code, b"".join(pieces), process.stderr)
    finally:
        await spawner.sweep(process)
