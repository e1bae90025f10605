"""Clients of a server of a test's own process, each a process itself."""

import asyncio
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from pathlib import Path


async def finished(
    *command: str, cwd: Path, env: Mapping[str, str], within_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a client without stdin, and return its output.

    It is started on the loop's thread, as agents are: on another one it could get the mark of an agent that is being
    started, and be ended with what that one left.
    """
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())
