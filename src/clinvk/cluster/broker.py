"""The connection to NATS. Messages may be lost, above all when the connection is interrupted."""

import asyncio
import logging
import os
import re
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypedDict
from urllib.parse import urlsplit

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from clinvk.cluster.signing import MESSAGE_BYTES, InvalidMessage, Signer
from clinvk.config.model import ClusterSettings
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import ConfigError

logger = logging.getLogger(__name__)

PREFIX = "clinvk"
"""The first part of all subjects."""

USER = "clinvk"
"""The user at a NATS server of `clinvk cluster up`."""

_CREDENTIALS = re.compile(rb"BEGIN NATS USER JWT-+\n.+BEGIN USER NKEY SEED-+\n(\w+)\n", re.DOTALL)
_OWN_HOSTS = ("127.0.0.1", "localhost")
_CONNECT_TIMEOUT_S = 5
_CLOSE_TIMEOUT_S = 2
_RECONNECT_S = 0.5
_PING_INTERVAL_S = 2
_NO_RESPONDERS = "503"


class Received(NamedTuple):
    """A message. `is_refused` marks the broker's answer that nobody receives the subject."""

    subject: str
    data: bytes
    reply: str
    is_refused: bool


class _Login(TypedDict, total=False):
    """The login of a connection, as `Client.connect` needs it."""

    user_credentials: str
    user: str
    password: str


Receiver = Callable[[Received], None]


class _Client(Client):
    """A client that sends its login over TLS only, if the settings demand TLS. NATS leaves that to the server."""

    def _connect_command(self) -> bytes:
        if self.options.get("tls") and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()


class Broker:
    """A connection to NATS, which is restored after an interruption.

    Attributes:
        connections: how often the connection was made.
        on_reconnect: called after each interruption.
    """

    def __init__(self) -> None:

        self.connections = 1
        self.on_reconnect: list[Callable[[], None]] = []
        self._client = _Client()
        self._outbox: deque[tuple[str, bytes, str]] = deque()
        self._wake = WakeUp()
        self._is_closing = False
        self._tasks = asyncio.TaskGroup()

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up, as far as known."""
        return self._client.is_connected

    @property
    def is_sending(self) -> bool:
        """Whether messages wait to be sent."""
        return bool(self._outbox)

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message soon, in the order of the calls; drop the message while the connection is interrupted."""
        self._outbox.append((f"{PREFIX}.{subject}", data, reply and f"{PREFIX}.{reply}"))
        self._wake.set()

    async def _pump(self) -> None:
        """Send the messages, until `close`."""
        while not self._is_closing or self._outbox:
            while self._outbox:
                subject, data, reply = self._outbox.popleft()
                if self._client.is_connected:
                    try:
                        await self._client.publish(subject, data, reply)
                    except (errors.Error, OSError) as exc:
                        logger.warning("a message of %d bytes to the cluster was not sent: %s", len(data), exc)
            if not self._is_closing:
                await self._wake.wait()

    async def process_at(self, signer: Signer, subject: str, timeout_s: float) -> str:
        """Return the id of the process that answers at a subject; empty if none of this cluster answers in time."""
        nonce = os.urandom(16)
        with suppress(errors.Error, OSError, TimeoutError, InvalidMessage):
            answer = await self._client.request(f"{PREFIX}.{subject}", nonce, timeout=timeout_s)
            return signer.answer(answer.data, subject, nonce)
        return ""

    def answer(self, process: str, signer: Signer, received: Received) -> None:
        """Answer a message of `process_at`."""
        self.send(received.reply, signer.sign_answer(process, received.subject, received.data))

    async def subscribe(self, subject: str, receive: Receiver) -> Callable[[], None]:
        """Call `receive` for each message from now on, in order. Return a function that ends the subscription."""

        async def call(message: Msg) -> None:
            status = (message.headers or {}).get("Status")
            own = message.subject.removeprefix(f"{PREFIX}.")
            reply = message.reply.removeprefix(f"{PREFIX}.")
            try:
                receive(Received(own, message.data, reply, status == _NO_RESPONDERS))
            except Exception:
                logger.exception("a message of the cluster was not processed")

        subscription = await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType]  # `Future` without type
            f"{PREFIX}.{subject}", cb=call
        )
        with suppress(errors.Error, OSError, TimeoutError):  # without it, after a reconnection
            for _ in range(2):  # the first ping may overtake the subscription
                await self._client.flush()

        async def unsubscribe() -> None:
            with suppress(errors.Error, OSError):
                await subscription.unsubscribe()

        return lambda: self._start(unsubscribe())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        if self._is_closing:
            work.close()
        else:
            self._tasks.create_task(work)

    async def open(self, settings: ClusterSettings, password: str) -> None:
        """Connect. `password` is that of a NATS server of `clinvk cluster up`.

        Raises:
            ConfigError: the broker cannot be reached, or refuses the connection.
        """
        tls = await asyncio.to_thread(_tls, settings)
        login = await asyncio.to_thread(_login, settings, password)
        await _probe(settings, tls, login)
        await self._client.connect(
            settings.url,
            **login,
            name=f"clinvk {settings.node}".strip(),
            error_cb=_log_error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            tls=tls,
            connect_timeout=_CONNECT_TIMEOUT_S,
            reconnect_time_wait=_RECONNECT_S,  # pyright: ignore[reportArgumentType]  # passed to `asyncio.sleep`
            max_reconnect_attempts=-1,
            ping_interval=_PING_INTERVAL_S,
            inbox_prefix=f"{PREFIX}.inbox",
        )

    @asynccontextmanager
    async def sending(self) -> AsyncGenerator[None]:
        """Send messages inside the context, and what is pending at its end; then disconnect."""
        try:
            async with self._tasks:
                pumping = self._tasks.create_task(self._pump())
                try:
                    yield
                finally:
                    self._is_closing = True
                    self._wake.set()
                    asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, pumping.cancel)
        finally:
            await _close(self._client)

    async def _disconnected(self) -> None:
        if not self._client.is_closed:
            logger.warning("the broker of the cluster is away; reconnecting")

    async def _reconnected(self) -> None:
        self.connections += 1
        logger.info("the broker of the cluster is back")
        for callback in self.on_reconnect:
            callback()


@asynccontextmanager
async def connected(settings: ClusterSettings, password: str = "") -> AsyncGenerator[Broker]:
    """Connect to the broker of the settings inside the context. `password` is that of `cluster up`.

    Raises:
        ConfigError: the broker cannot be reached or refuses the connection.
    """
    broker = Broker()
    await broker.open(settings, password)
    async with broker.sending():
        yield broker


async def _probe(settings: ClusterSettings, tls: ssl.SSLContext | None, login: _Login) -> None:
    """Connect once without retrying, which would hide the reason of a failure."""
    client, reasons = _Client(), [f"no answer within {_CONNECT_TIMEOUT_S} s"]

    async def note(error: Exception) -> None:
        reasons.append(str(error))

    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await client.connect(
                settings.url,
                **login,
                error_cb=note,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                connect_timeout=_CONNECT_TIMEOUT_S,
                tls=tls,
            )
            if client.max_payload < MESSAGE_BYTES:
                reasons.append(f"its max_payload is {client.max_payload}; clinvk needs {MESSAGE_BYTES}")
                raise errors.NoServersError
    except (errors.Error, OSError, TimeoutError, ValueError) as exc:
        reason = reasons[-1] if isinstance(exc, errors.NoServersError | TimeoutError) else str(exc)
        if "authorization violation" in reason.lower():
            reason += "; check user and password, and for a server of `clinvk cluster up` the secret of the cluster"
        raise ConfigError(f"cluster.url {without_password(settings.url)!r} cannot be used: {reason}") from exc
    finally:
        await _close(client)


def _login(settings: ClusterSettings, password: str) -> _Login:
    if file := settings.credentials:
        _check_credentials(file)
        return {"user_credentials": file}
    url = urlsplit(settings.url)
    is_own = url.hostname in _OWN_HOSTS and url.username is None
    return {"user": USER, "password": password} if is_own else {}


def _check_credentials(file: str) -> None:
    """Check a credentials file. With a damaged one, nats-py raises errors of other libraries, or never returns."""
    import nkeys  # pyright: ignore[reportMissingTypeStubs]  # an import that few processes need

    try:
        found = _CREDENTIALS.search(Path(file).read_bytes())
    except OSError as exc:
        raise ConfigError(f"cluster.credentials {file!r} cannot be read: {exc.strerror}") from exc
    try:
        is_valid = found and nkeys.from_seed(bytearray(found[1]))  # pyright: ignore[reportUnknownMemberType]  # untyped
    except (nkeys.NkeysError, ValueError):
        is_valid = False
    if not is_valid:
        raise ConfigError(f"cluster.credentials {file!r} has no valid credentials of a NATS user (.creds)")


async def _close(client: Client) -> None:
    """Close a connection, and ignore failures. A connection that was never made may hang."""
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await client.close()


def without_password(url: str) -> str:
    """Return the URL of a broker without user and password."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _tls(settings: ClusterSettings) -> ssl.SSLContext | None:
    if not (settings.url.startswith("tls://") or settings.ca_file):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except OSError as exc:
        raise ConfigError(f"cluster.ca_file {settings.ca_file!r} cannot be read: {exc.strerror or exc}") from exc


async def _log_error(error: Exception) -> None:
    is_login = "authori" in str(error).lower() or "authentication" in str(error).lower()
    logger.log(logging.WARNING if is_login else logging.DEBUG, "the broker of the cluster reports: %s", error)
