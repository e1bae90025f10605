"""The peer of `clinvk serve`: uvicorn with a minimal app. `python -m bench.bare PORT CHILD`."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, MutableMapping

import uvicorn

_Message = MutableMapping[str, object]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


async def app(scope: _Message, receive: _Receive, send: _Send) -> None:
    """Answer `ok`; under /idle one line of an endless stream, under /relay the child's output."""
    match scope:
        case {"type": "http", "path": "/idle"}:
            await _start(send)
            await send({"type": "http.response.body", "body": b"{}\n", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        case {"type": "http", "path": "/relay"}:
            await _relay((await receive())["body"], send)
        case {"type": "http"}:
            await _start(send, (b"content-length", b"2"))
            await send({"type": "http.response.body", "body": b"ok"})
        case _:
            pass


async def _relay(prompt: object, send: _Send) -> None:
    """Send the child's output as it arrives, unread."""
    assert isinstance(prompt, bytes)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    await _start(send)
    command = [sys.argv[2]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:  # noqa: ASYNC220, as clinvk does
        assert process.stdin
        assert process.stdout
        process.stdin.write(prompt)
        process.stdin.close()
        output = process.stdout.fileno()
        loop.add_reader(output, ready.set)
        try:
            while await ready.wait():
                ready.clear()
                if not (data := os.read(output, 65536)):
                    break
                await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            loop.remove_reader(output)
    await send({"type": "http.response.body", "body": b""})


async def _start(send: _Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
