"""The socket of an agent process for client tools, and the bridge that the agent starts."""

import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from clinvk.runtime.process import tool_bridge
from clinvk.runtime.process.process import MAX_LINE_BYTES
from clinvk.runtime.process.tool_socket import ToolSocket, tool_socket
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import ClinvkError


async def bridge(path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", tool_bridge.__file__, str(path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=MAX_LINE_BYTES,
    )


async def received(socket: ToolSocket, wake: WakeUp, count: int) -> list[bytes]:
    lines: list[bytes] = []
    while len(lines) < count:
        await asyncio.wait_for(wake.wait(), 10)
        lines += socket.take()
    return lines


async def test_bridge_relays_lines_both_ways(tmp_path: Path) -> None:
    path, wake, large = tmp_path / "tools", WakeUp(), b"x" * 1_000_000
    async with tool_socket(str(path), wake.set) as socket:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        process = await bridge(path)
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"one\n" + large + b"\n")
        assert await received(socket, wake, 2) == [b"one", large]
        socket.write(large + b"\ntwo\n")
        assert await asyncio.wait_for(process.stdout.readline(), 10) == large + b"\n"
        assert await asyncio.wait_for(process.stdout.readline(), 10) == b"two\n"
    assert await asyncio.wait_for(process.wait(), 10) == 0


def test_bridge_works_on_the_event_loop_of_the_server(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_bridge_relays_lines_both_ways(tmp_path))


async def test_bridge_ends_with_the_agent(tmp_path: Path) -> None:
    async with tool_socket(str(tmp_path / "tools"), WakeUp().set):
        process = await bridge(tmp_path / "tools")
        assert process.stdin
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_second_process_of_a_launch_has_a_socket_of_its_own(tmp_path: Path) -> None:
    for line in (b"first", b"second"):
        wake = WakeUp()
        async with tool_socket(str(tmp_path / "tools"), wake.set) as socket:
            process = await bridge(tmp_path / "tools")
            assert process.stdin
            process.stdin.write(line + b"\n")
            assert await received(socket, wake, 1) == [line]
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_missing_folder_is_an_error_of_clinvk(tmp_path: Path) -> None:
    with pytest.raises(ClinvkError, match="cannot listen for the agent's tool calls"):
        async with tool_socket(str(tmp_path / "missing" / "tools"), WakeUp().set):
            pass
