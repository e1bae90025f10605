"""Commands that run concurrently."""

import asyncio
import subprocess
from typing import NamedTuple

from acceptance.command import Clinvk
from scripted import Scripted


class Done(NamedTuple):
    """The output and exit code of a command."""

    code: int | None
    stdout: str
    stderr: str


async def command_line(agent: Scripted, *arguments: str) -> Done:
    """Run a command line to its end, in the folder of the agent."""
    process = await asyncio.create_subprocess_exec(
        Clinvk.command,
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=agent.folder,
        env=agent.env,
    )
    stdout, stderr = await process.communicate()
    return Done(process.returncode, stdout.decode(), stderr.decode())
