"""The calls of client tools that wait on this node: a gateway finds the node by the id of the call."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nats import errors
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.endpoints.parked_runs import ParkedRun
from clinvk.cluster.broker import Broker, Receiver
from clinvk.cluster.signing import call_subject

_SUBSCRIBE_TIMEOUT_S = 1.0
"""How long an answer waits for the broker, which may be away."""


class ParkedCalls:
    """Answers for the calls of client tools that wait on this worker: each has a subject while it waits.

    The broker reports a request without a subscriber at once, so a gateway learns that a call does not wait.
    """

    def __init__(self, broker: Broker, answer: Receiver, tasks: asyncio.TaskGroup) -> None:
        self._broker = broker
        self._answer = answer
        self._tasks = tasks
        self._subscriptions: dict[str, asyncio.Task[Callable[[], None]]] = {}
        self._pending: set[asyncio.Task[Callable[[], None]]] = set()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return an application that ends no answer with a call before requests with its output find this worker."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_later(message: Message) -> None:
                if self._pending:
                    await asyncio.wait({*self._pending}, timeout=_SUBSCRIBE_TIMEOUT_S)
                await send(message)

            await app(scope, receive, send_later)

        return wrapped

    def change(self, parked: ParkedRun, call: str, is_parked: bool) -> None:
        """Note that a call waits, or no longer waits."""
        subject = f"call.{call_subject(parked.key_name, call)}"
        if is_parked and subject not in self._subscriptions:
            subscribing = self._subscriptions[subject] = self._tasks.create_task(self._subscribe(subject))
            self._pending.add(subscribing)
            subscribing.add_done_callback(self._pending.discard)
        elif not is_parked and (subscribing := self._subscriptions.pop(subject, None)):
            subscribing.add_done_callback(lambda task: task.cancelled() or task.result()())

    async def _subscribe(self, subject: str) -> Callable[[], None]:
        with suppress(errors.Error, OSError):  # the connection is closed: the worker stops
            return await self._broker.subscribe(subject, self._answer)
        return lambda: None
