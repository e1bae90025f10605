"""Nodes of a cluster without agents, which do what the prompt says: `python -m bench.nodes COUNT --cluster URL`.

stream LINES INTERVAL_US   so many lines at a fixed rate, each with the time it was written
wait                       a first line, and nothing more
anything else              an answer
"""

import asyncio
import os
import random
import sys
from contextlib import AsyncExitStack
from functools import partial

import msgspec
import uvloop
from starlette.types import Receive, Scope, Send

from bench.load import now_ns
from clinvk.cluster.announcements import Announcement
from clinvk.cluster.broker import Broker, Received, connected
from clinvk.cluster.carrier import Carrier
from clinvk.cluster.members import Members
from clinvk.cluster.signing import Signer
from clinvk.config.model import ClusterSettings, Settings
from clinvk.store.opening import store_name

_SIGNER = Signer(os.environ["CLINVK_CLUSTER_SECRET"].encode())
_STORE_TIMEOUT_S = 5


class _Body(msgspec.Struct):
    prompt: str


async def _answer(_: Scope, receive: Receive, send: Send) -> None:
    body = msgspec.json.decode((await receive())["body"], type=_Body)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    match body.prompt.split():
        case ["stream", lines, interval_us]:
            await _stream(int(lines), int(interval_us) / 1e6, send)
            await send({"type": "http.response.body", "body": b'"done"\n'})
        case ["wait"]:
            await send({"type": "http.response.body", "body": b"waiting\n", "more_body": True})
            await receive()
        case _:
            await send({"type": "http.response.body", "body": b'"exit_code":0\n'})


async def _stream(lines: int, interval_s: float, send: Send) -> None:
    loop = asyncio.get_running_loop()
    at = loop.time() + interval_s * random.random()  # streams that begin together do not write together
    for _ in range(lines):
        at += interval_s
        await asyncio.sleep(at - loop.time())
        await send({"type": "http.response.body", "body": b"written=%d\n" % now_ns(), "more_body": True})


async def _announce(broker: Broker, number: int) -> None:
    store = await store_name(Settings(), os.environ, _STORE_TIMEOUT_S)
    announcement = Announcement(process=f"node{number}", node=f"node{number}", store=store, max_runs=100)
    while True:
        broker.send("members", _SIGNER.sign(announcement))
        await asyncio.sleep(1)


def _note(members: Members, received: Received) -> None:
    members.note(_SIGNER.announcement(received.data))


async def _main(count: int, url: str) -> None:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for number in range(count):
            broker = await stack.enter_async_context(connected(ClusterSettings(url=url)))
            members = Members()
            await broker.subscribe("members", partial(_note, members))
            await stack.enter_async_context(Carrier(broker, _SIGNER, members, f"node{number}", app=_answer))
            group.create_task(_announce(broker, number))


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), sys.argv[3]))
