"""Whether a program speaks the protocol of a process that stays: it is started, greeted and ended, asked nothing."""

import asyncio
from collections import deque
from collections.abc import Mapping

import msgspec

from clinvk.backends.base import Channel, Launch, NotSpoken, parsed
from clinvk.errors import ClinvkError
from clinvk.runtime import private
from clinvk.runtime.process import Process, Spawner
from clinvk.runtime.wake import Wake

_MESSAGES = msgspec.json.Decoder(dict[str, object])


async def unspoken(
    spawner: Spawner, path: str, launch: Launch, channel: Channel, env: Mapping[str, str], within_s: float
) -> str | None:
    """Say why the program at `path` does not speak it, when started so; None where it does."""
    folder = private.PrivateFolder(launch, env, spawner.server)
    try:
        await folder.prepare()
        return await _greeted(spawner, folder.command(path), launch.cwd, channel, folder.environment(), within_s)
    except ClinvkError as exc:
        return exc.message
    finally:
        await folder.clear()


async def _greeted(
    spawner: Spawner, argv: list[str], cwd: str | None, channel: Channel, env: Mapping[str, str], within_s: float
) -> str | None:
    changed = Wake()
    process = spawner.spawn(argv, env, cwd, changed.set)
    try:
        process.write(channel.greet(), close=False)
        async with asyncio.timeout(within_s):
            while not _answers(process, channel):
                await changed.wait()
    except NotSpoken as exc:
        return str(exc)
    except TimeoutError:
        return f"it does not answer within {within_s:g} s"
    finally:
        await spawner.sweep(process)
    return None


def _answers(process: Process, channel: Channel) -> bool:
    """Look whether it has answered.

    Raises:
        NotSpoken: it does not speak it.
    """
    for line in process.take():
        deque(channel.receive(line), maxlen=0)
        if parsed(_MESSAGES, line) is not None:
            return True
    if process.exit_code is not None and process.at_eof:
        deque(channel.closed(process.exit_code, process.stderr), maxlen=0)
        raise NotSpoken(f"it ended with code {process.exit_code}")
    return False
