"""Nodes of a cluster whose runs wait for ever: `python -m bench.nodes COUNT --cluster URL`."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack

import uvloop
from starlette.types import Receive, Scope, Send

from clinvk.cluster.broker import Broker, connected
from clinvk.cluster.messages import Announcement, Signer
from clinvk.cluster.worker_end import WorkerEnd
from clinvk.config.model import ClusterSettings, Settings
from clinvk.store.opening import store_name

_SIGNER = Signer(os.environ["CLINVK_CLUSTER_SECRET"].encode())
_STORE_TIMEOUT_S = 5


async def _wait(_: Scope, receive: Receive, send: Send) -> None:
    """Answer with a first piece, and wait until the client is gone."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"waiting\n", "more_body": True})
    await receive()


async def _announce(broker: Broker, number: int) -> None:
    store = await store_name(Settings(), os.environ, _STORE_TIMEOUT_S)
    announcement = Announcement(process=f"node{number}", node=f"node{number}", store=store, max_runs=100)
    while True:
        broker.send("members", _SIGNER.sign(announcement))
        await asyncio.sleep(1)


async def _main(count: int, url: str) -> None:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for number in range(count):
            broker = await stack.enter_async_context(connected(ClusterSettings(url=url)))
            await stack.enter_async_context(WorkerEnd(broker, _SIGNER, f"node{number}", _wait))
            group.create_task(_announce(broker, number))


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), sys.argv[3]))
