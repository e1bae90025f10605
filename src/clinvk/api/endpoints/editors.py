"""`GET /acp`: the Agent Client Protocol over a WebSocket, for editors and clients on other machines.

Each message is one text frame with a message of JSON-RPC, as the protocol's transport for WebSockets proposes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from clinvk.acp.agent import EditorAgent
from clinvk.acp.connection import EditorConnection
from clinvk.acp.session import Context
from clinvk.api.access.auth import Login
from clinvk.api.access.client_process import refuse_agent_client
from clinvk.api.access.clients import TokenBuckets
from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.prompt_runs import BegunCall
from clinvk.api.endpoints.request_admission import Caller
from clinvk.api.endpoints.services import Services
from clinvk.dialects.dialect import Call
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.runtime.runs import Run
from clinvk.types.errors import ClinvkError, InvalidRequest, KeyRefused, RateLimited, SessionBusy, ShuttingDown
from clinvk.types.interaction import USER, InteractionAnswer
from clinvk.types.record import Session
from clinvk.types.request import RunRequest
from clinvk.types.text import has_too_many_values

_RATE_HZ = 100.0
_BURST = 1000
"""The limit of messages of a connection: a client that sends more is disconnected."""

_CHECK_INTERVAL_S = 1.0
_GOING_AWAY = 1001
_POLICY_VIOLATION = 1008
_MAX_REASON_BYTES = 123

logger = logging.getLogger(__name__)


class WebSocketConnection(EditorConnection):
    """A WebSocket, accepted by the caller."""

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self._unsent: deque[bytes] = deque()
        self._sending = asyncio.Lock()
        self._received = TokenBuckets(_BURST)

    async def read(self) -> bytes:
        """Return the next message; empty once the client has disconnected.

        Raises:
            ValueError: the message has too many values.
            RateLimited: the client floods the connection.
        """
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return b""
        if self._received.take("", _RATE_HZ, _BURST):
            raise RateLimited(f"too many messages: {_RATE_HZ:g} a second, {_BURST} at once")
        data = (message.get("text") or "").encode() or message.get("bytes") or b"\n"
        if await run_in_loop_thread(len(data), has_too_many_values, data):
            raise ValueError("too many JSON values")
        return data

    def write(self, message: bytes) -> None:
        """Queue a message."""
        self._unsent.append(message)

    async def drain(self) -> None:
        """Send the queued messages; drop the messages if the client is gone."""
        async with self._sending:
            while self._unsent:
                with suppress(OSError):
                    await self._send({"type": "websocket.send", "text": self._unsent.popleft().decode()})


class KeyRules(NamedTuple):
    """What a client may do: as with the REST API, the policy of the settings and the rights of the key decide."""

    services: Services
    key_name: str
    starts_programs: bool = False

    def complete(self, request: RunRequest) -> RunRequest:
        """Set the modes. Admission completes the rest of each prompt."""
        done = self.services.admission.policy.completed(request)
        return replace(request, approval_mode=done.approval_mode, sandbox_mode=done.sandbox_mode)

    async def directory(self, path: str, field: str) -> str:
        """Return a directory that the lists and the key allow."""
        admission = self.services.admission
        return await admission.lookups.run(partial(admission.check_directory, path, field, self.key_name), path)

    async def may_use(self, session: Session) -> bool:
        """Return whether the key allows the agent and the directory of a session."""
        admission = self.services.admission
        may_use = partial(admission.may_use, session.project or "/", self.key_name)
        has_backend = admission.key_policy.has_backend(self.key_name, session.backend)
        return has_backend and await admission.lookups.run(may_use, session.project)


class KeyRuns(NamedTuple):
    """The runs of a client, begun like the prompts of the REST API."""

    services: Services
    scope: Scope

    @asynccontextmanager
    async def run(self, request: RunRequest) -> "AsyncGenerator[Run]":
        """Run a prompt. Leaving the context ends the run."""
        call, caller = Call(request=request), Caller.of(self.scope["state"])
        async with self.services.prompt_runs.begin(call, caller, _ignore) as begun:
            if not isinstance(begun, BegunCall):
                raise SessionBusy("the prompt was passed on to the run in progress of the session")
            yield begun.run

    async def answer(self, reference: str, answer: InteractionAnswer) -> object:
        """Answer an interaction in the name of the key. No agent may answer."""
        services, key_name = self.services, self.scope["state"]["key_name"]
        is_open, in_cluster = not services.access.keys, services.cluster is not None
        await services.look_up_client(partial(refuse_agent_client, self.scope, is_open, in_cluster))
        return await services.runs.interactions.answer(reference, answer, key_name or USER)


def _ignore(_: BegunCall) -> None: ...


async def serve_acp(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one client until it disconnects, loses its key, floods the connection, or the server stops.

    Raises:
        InvalidRequest: the request is no WebSocket, or the server is a gateway.
        ForeignOrigin: a page of another origin opens the WebSocket.
    """
    refuse_foreign(scope)
    if services.cluster and not services.cluster.runs_agents:
        raise InvalidRequest("a gateway of a cluster does not serve /acp; run a server of its own on the machine")
    if scope["type"] != "websocket":
        raise InvalidRequest("/acp is a WebSocket of the Agent Client Protocol: use an address that begins with ws")
    login = services.access.login_of(scope)
    key_name: str = scope["state"]["key_name"]
    default = services.settings.default_backend
    found = sorted((each.name for each in services.inventory.backends() if each.available), key=lambda n: n != default)
    allowed = services.admission.policy.has_backend, partial(services.admission.key_policy.has_backend, key_name)
    agents = {name: services.registry[name] for name in found if all(may_run(name) for may_run in allowed)}
    if not login or not agents:
        raise KeyRefused("none of the installed agents may be run")
    await receive()
    await send({"type": "websocket.accept"})
    connection = WebSocketConnection(receive, send)
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(services, scope, login))
            rules, runs = KeyRules(services, key_name), KeyRuns(services, scope)
            agent = EditorAgent(
                Context(connection, services.store, runs, group, services.settings, agents, None, rules)
            )
            async for message in connection.messages():
                _check(services, scope, login)
                try:
                    if message.id is not None:
                        services.access.limits.take((scope["client"] or ("",))[0], login.key)
                except RateLimited as exc:
                    await connection.fail(message.id, exc)
                else:
                    await agent.receive(message)
            agent.close()
            watch.cancel()
    except* ClinvkError as group_of_errors:
        error = group_of_errors.exceptions[0]
        code = _GOING_AWAY if isinstance(error, ShuttingDown) else _POLICY_VIOLATION
        logger.info("closing the WebSocket of %s: %s", scope["state"]["client"], error)
        with suppress(OSError):
            reason = str(error).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            await send({"type": "websocket.close", "code": code, "reason": reason})


async def _watch(services: Services, scope: Scope, login: Login) -> None:
    """Raise once the server stops or the login ends."""
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(services.state.stopping.wait(), _CHECK_INTERVAL_S)
        _check(services, scope, login)


def _check(services: Services, scope: Scope, login: Login) -> None:
    if services.state.stopping.is_set():
        raise ShuttingDown("the server is stopping")
    current = services.access.login_of(scope)
    if current is None or current.rights != login.rights:
        raise KeyRefused("the API key or login has ended, or has other rights")
