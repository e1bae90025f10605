"""The peer of `clinvk serve`: uvicorn with an app that does nothing. `python -m bench.bare PORT`."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping

import uvicorn

_Message = MutableMapping[str, object]


async def app(
    scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
) -> None:
    """Answer `ok`, or under /idle one line of a stream that goes on for ever."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/idle":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
