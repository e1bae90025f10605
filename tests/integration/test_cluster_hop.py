"""HTTP over a real NATS server: streams, slow clients, disconnects, and interruptions of the broker."""

import asyncio
import base64
import importlib
import json
import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import cast

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker import NatsServer
from clinvk.api.endpoints.services import Services
from clinvk.cluster import carrier as carriers
from clinvk.cluster.announcements import Announcement
from clinvk.cluster.broker import Broker, connected
from clinvk.cluster.carrier import Carrier
from clinvk.cluster.gateway import Gateway
from clinvk.cluster.members import Member, Members, Target, Undelivered
from clinvk.cluster.remote_response import RemoteResponse
from clinvk.cluster.signing import Signer
from clinvk.config.model import ClusterSettings
from clinvk.dialects.rest.rest import Rest
from clinvk.remote import messages
from clinvk.remote.messages import ROOM_BYTES, Client, Holding, HttpPiece, HttpRequest, Stop
from clinvk.remote.run_owner import RunOwner
from clinvk.types.errors import ConfigError, NodeUnavailable
from polling import until

SIGNER = Signer(b"secret")


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[NatsServer]:
    """A NATS server; what may be lost is repeated soon."""
    monkeypatch.setattr(carriers, "HOLD_INTERVAL_S", 0.1)
    with NatsServer(tmp_path) as server:
        yield server


@dataclass
class App:
    """An application that sends `pieces`, and notes what it received and how far it came."""

    pieces: list[bytes] = field(default_factory=lambda: [b"one ", b"two ", b"three"])
    pause_s: float = 0
    holds: bool = False
    bodies: list[bytes] = field(default_factory=list[bytes])
    sent: int = 0
    disconnects: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["path"].encode())]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self.sent += len(piece)
            await asyncio.sleep(self.pause_s)
        if self.holds:
            assert (await receive())["type"] == "http.disconnect"
            self.disconnects += 1
        await send({"type": "http.response.body", "body": b""})


class Silent(App):
    """An application that never answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        await receive()


@dataclass
class Ends:
    """The two ends of a connection between gateway and worker."""

    gateway: Carrier
    worker: Carrier
    of_gateway: Broker
    of_worker: Broker
    members: Members
    members_of_worker: Members

    def request(self, body: bytes = b"", process: str = "worker") -> AbstractAsyncContextManager[RemoteResponse]:
        """Pass a request on to a node called one."""
        request = HttpRequest(
            run_id=os.urandom(16).hex(), method="POST", path="/somewhere", client=Client("", "", 0), body=body
        )
        return self.gateway.request(Member(Announcement(process=process, node="one"), 0), request)

    def lose_gateway(self) -> None:
        """Let the worker find the gateway silent, which returns at once."""
        self.members_of_worker.note(Announcement(process="gateway", state="left"))
        self.members_of_worker.note(Announcement(process="gateway"))

    def lose_worker(self) -> None:
        """Let the gateway find the worker silent."""
        self.members.note(Announcement(process="worker", state="left"))


@asynccontextmanager
async def ends(
    broker: NatsServer, app: ASGIApp, signer: Signer = SIGNER, url_of_worker: str = ""
) -> AsyncGenerator[Ends]:
    """Connect both ends."""
    of = Members(), Members()
    for members in of:
        for process in ("gateway", "worker", "killed"):
            members.note(Announcement(process=process))
    async with (
        connected(ClusterSettings(url=broker.url)) as of_gateway,
        connected(ClusterSettings(url=url_of_worker or broker.url)) as of_worker,
        Carrier(of_worker, SIGNER, of[1], "worker", app=app) as worker,
        Carrier(of_gateway, signer, of[0], "gateway") as gateway,
    ):
        yield Ends(gateway, worker, of_gateway, of_worker, *of)


async def whole(response: RemoteResponse) -> bytes:
    """Return the body of a response."""
    async with asyncio.timeout(30):
        await response.head()
        return await response.read()


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
async def test_request_and_response_arrive_complete(broker: NatsServer, size: int) -> None:
    sent, app = os.urandom(size), App([b"first", os.urandom(size), b"last"])
    async with ends(broker, app) as both, both.request(sent) as response:
        head = await response.head()
        assert (head.status, dict(head.headers)) == (201, {b"x-path": b"/somewhere"})
        assert await response.read() == b"".join(app.pieces)
    assert app.bodies == [sent]


async def test_pieces_arrive_one_by_one_as_they_are_sent(broker: NatsServer) -> None:
    app = App(holds=True)
    async with ends(broker, app) as both, both.request() as response:
        pieces = response.body()
        await response.head()
        assert [(await anext(pieces))[0] for _ in app.pieces] == app.pieces


async def test_slow_client_holds_the_application_back(broker: NatsServer) -> None:
    app = App([b"x" * 10_000] * 1000)
    async with ends(broker, app) as both, both.request() as response:
        await response.head()
        pieces = response.body()
        received = len((await anext(pieces))[0])
        await until(lambda: app.sent >= ROOM_BYTES)
        await asyncio.sleep(0.3)  # longer than what is repeated regularly
        assert app.sent <= ROOM_BYTES + 20_000
        async for piece, _ in pieces:
            received += len(piece)
        assert received == 10_000_000


async def test_client_that_disconnects_is_noticed_by_the_application(broker: NatsServer) -> None:
    app = App(holds=True)
    async with ends(broker, app) as both:
        async with both.request() as response:
            await response.head()
        await until(lambda: app.disconnects)


async def test_lost_gateway_counts_as_a_client_that_disconnected(broker: NatsServer) -> None:
    app = App(holds=True)
    async with ends(broker, app) as both, both.request() as response:
        await response.head()
        both.members_of_worker.note(Announcement(process="killed", state="left"))
        assert not app.disconnects
        both.lose_gateway()
        await until(lambda: app.disconnects)
        with pytest.raises(NodeUnavailable):  # a gateway that returns learns so
            await asyncio.wait_for(response.read(), 30)


@pytest.mark.parametrize("kept_s", [30, 0.1])
async def test_request_whose_gateway_was_lost_before_the_answer_is_not_run_again(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch, kept_s: float
) -> None:
    monkeypatch.setattr(carriers, "_KEPT_S", kept_s)
    app = Silent()
    async with ends(broker, app) as both:
        lose_some(both.of_worker, monkeypatch, 0)  # the answer that the request has been received
        async with both.request() as response:
            await until(lambda: app.bodies)
            both.members_of_worker.note(Announcement(process="gateway", state="left"))
            await asyncio.sleep(0.3)
            both.members_of_worker.note(Announcement(process="gateway"))
            with pytest.raises(NodeUnavailable):
                await asyncio.wait_for(response.head(), 30)
    assert len(app.bodies) == 1


async def test_lost_worker_ends_its_responses_with_an_error(broker: NatsServer) -> None:
    async with ends(broker, App(holds=True)) as both, both.request() as response:
        await response.head()
        both.lose_worker()
        with pytest.raises(NodeUnavailable, match="'one' is away"):
            await response.read()


async def test_request_that_nobody_receives_is_undelivered(broker: NatsServer) -> None:
    async with ends(broker, App()) as both:
        async with both.request(process="killed") as response:
            with pytest.raises(Undelivered):
                await response.head()
        with pytest.raises(Undelivered, match="'one' is away"):  # its loss was reported before, and is not again
            async with both.request(process="lost"):
                pass
        await asyncio.to_thread(broker.kill)
        await until(lambda: not both.of_gateway.is_connected)
        with pytest.raises(NodeUnavailable, match="NATS server"):
            async with both.request():
                pass


async def test_request_to_a_node_that_is_lost_meanwhile_goes_to_the_next(broker: NatsServer) -> None:
    async with ends(broker, App()) as both:
        start = await answer_of_gateway(both, "GET", "lost", "worker")
        assert (start["status"], dict(start["headers"])[b"x-clinvk-node"]) == (201, b"worker")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_a_request_that_changes_nothing_is_undelivered_if_its_node_is_lost_before_the_answer(
    broker: NatsServer, method: str
) -> None:
    app = Silent()
    async with ends(broker, app) as both:
        answering = asyncio.create_task(answer_of_gateway(both, method, "worker"))
        await until(lambda: app.bodies)
        both.lose_worker()
        if method == "POST":
            assert (await answering)["status"] == 503
        else:
            with pytest.raises(Undelivered):
                await answering


async def answer_of_gateway(both: Ends, method: str, *nodes: str) -> Message:
    """Return the start of the response to a request that a gateway passes on to the first of the nodes that answers."""
    members, sent = Members(), list[Message]()
    for process in nodes:
        members.note(Announcement(process=process, node=process))

    async def process_at(_: str, __: float) -> str:
        return ""

    gateway = Gateway(cast(Services, None), both.gateway, members, process_at)
    state = {"request_id": "1", "key_name": "", "client": "", "dialect": Rest()}
    scope: Scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": [], "state": state}
    scope |= {"client": None, "server": None, "scheme": "http"}

    def no_error(*_: object) -> bytes:
        return b""

    async def send(message: Message) -> None:
        sent.append(message)

    await vars(Gateway)["_pass_on"](gateway, Target(), b"", scope, asyncio.Event().wait, send, no_error)
    return sent[0]


async def test_application_that_fails_breaks_the_response_off(broker: NatsServer) -> None:
    class Failing(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("on purpose")

    async with ends(broker, Failing()) as both, both.request() as response:
        await response.head()
        with pytest.raises(NodeUnavailable, match="broke off the response"):
            await response.read()


def lose_some(broker: Broker, monkeypatch: pytest.MonkeyPatch, *lost: int) -> None:
    """Lose some of the next messages of a process, by number from 0."""
    send, numbers = broker.send, count()

    def send_some(subject: str, data: bytes, reply: str = "") -> None:
        if next(numbers) not in lost:
            send(subject, data, reply)

    monkeypatch.setattr(broker, "send", send_some)


@pytest.mark.parametrize("end", ["of_gateway", "of_worker"])
@pytest.mark.parametrize("lost", [(0,), (1,), (2, 3), (0, 1, 5), (6,)])
@pytest.mark.parametrize("pieces", [[], [b"x" * ROOM_BYTES] * 3])
async def test_message_that_is_lost_is_sent_again(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch, end: str, lost: tuple[int, ...], pieces: list[bytes]
) -> None:
    app = App(pieces)
    async with ends(broker, app) as both:
        lose_some(getattr(both, end), monkeypatch, *lost)
        async with both.request(b"body") as response:
            assert await whole(response) == b"".join(pieces)
    assert app.bodies == [b"body"]


async def test_process_without_the_secret_changes_neither_request_nor_response(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(holds=True)
    async with ends(broker, app) as both, connected(ClusterSettings(url=broker.url)) as stranger:
        heard: list[str] = []
        await stranger.subscribe("runs.>", lambda message: heard.append(message.subject))

        def forge(sender: str, to: str, *forged: messages.Message) -> None:
            carrier = Carrier(stranger, Signer(b"other"), both.members, sender)
            vars(carrier)["_numbers"] = count(1_000_000)
            for message in forged:
                vars(Carrier)["_send"](carrier, to, message)

        async with both.request() as response:
            assert (await response.head()).status == 201
            heard.clear()
            forge("gateway", "worker", Stop(response.id), Holding({}))
            forge("worker", "gateway", HttpPiece(run_id=response.id, number=2, data=b"forged", ending="complete"))
            await until(lambda: {"runs.worker.gateway", "runs.gateway.worker"} <= set(heard))
            pieces = response.body()
            assert [(await anext(pieces))[0] for _ in app.pieces] == app.pieces
            await asyncio.sleep(0.3)
            assert not app.disconnects


def records_of(worker: Carrier) -> dict[str, object]:
    """Return what a worker remembers of the requests of the gateway."""
    owner: RunOwner = vars(worker)["_peers"]["gateway"].owner
    return vars(owner)["_runs"]


async def test_copy_of_a_request_is_not_run_again(broker: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app, copies, send = App(), list[tuple[str, bytes]](), Broker.send

    def note(self: Broker, subject: str, data: bytes, reply: str = "") -> None:
        if b"http_request" in data:
            copies.append((subject, data))
        send(self, subject, data, reply)

    monkeypatch.setattr(Broker, "send", note)
    async with ends(broker, app) as both:
        for _ in range(4):
            async with both.request() as response:
                await whole(response)
            await until(lambda: not records_of(both.worker))
            for subject, data in [*copies]:
                send(both.of_gateway, subject, data)
        async with both.request() as response:
            await whole(response)
    assert len(app.bodies) == 5


async def test_keep_alive_beside_a_piece_that_waits_for_the_client_splits_nothing(broker: NatsServer) -> None:
    """The endpoint and the watcher of its client write at the same time, and both wait for the client."""
    pieces = [b"a" * ROOM_BYTES, b"b" * 2 * ROOM_BYTES, b"c"]

    class Writing(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            bodies: list[Message] = [{"type": "http.response.body", "body": each, "more_body": True} for each in pieces]
            await asyncio.gather(*map(send, bodies))
            await send({"type": "http.response.body", "body": b""})

    async with ends(broker, Writing()) as both, both.request() as response:
        assert await whole(response) == b"".join(pieces)


async def test_client_that_reads_nothing_holds_the_application_back_after_interruptions(broker: NatsServer) -> None:
    app = App([b"x" * 10_000] * 1000)
    async with ends(broker, app) as both, both.request() as response:
        await response.head()
        await until(lambda: app.sent >= ROOM_BYTES)
        for _ in range(5):
            response.read_again()
            await asyncio.sleep(0.1)
        assert app.sent <= ROOM_BYTES + 20_000


async def test_gateway_that_is_back_gets_what_its_later_requests_lack(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "_KEPT_S", 0.3)
    app = App()
    async with ends(broker, app) as both:
        async with both.request() as response:
            await whole(response)
        both.lose_gateway()
        lose_some(both.of_worker, monkeypatch, 5)  # the end of the next response
        monkeypatch.setattr(carriers, "HOLD_INTERVAL_S", 0.5)
        async with both.request() as response:
            assert await whole(response) == b"".join(app.pieces)


async def test_request_of_a_client_that_leaves_at_once_does_not_stay(broker: NatsServer) -> None:
    app = App(holds=True)
    async with ends(broker, app) as both:
        async with both.request():
            pass
        await until(lambda: app.disconnects == len(app.bodies))


@pytest.mark.first(1)
@pytest.mark.parametrize("outage_s", [1.0, 0])
async def test_broker_that_restarts_costs_no_byte_of_a_stream(broker: NatsServer, outage_s: float) -> None:
    app = App([b"%d " % number for number in range(2000)], pause_s=0.002)
    async with ends(broker, app) as both, both.request() as response:
        await response.head()
        received = b""
        pieces = response.body()
        async for piece, _ in pieces:
            received += piece
            if received.endswith((b" 300 ", b" 1200 ")):
                await asyncio.to_thread(broker.kill)
                await asyncio.sleep(outage_s)
                await asyncio.to_thread(broker.start)
        assert received == b"".join(app.pieces)
    assert app.bodies == [b""]


async def test_client_that_leaves_while_the_broker_is_away_is_noticed_afterwards(broker: NatsServer) -> None:
    app = App(holds=True)
    async with ends(broker, app) as both:
        async with both.request() as response:
            await response.head()
            await asyncio.to_thread(broker.kill)
            await until(lambda: not (both.of_gateway.is_connected or both.of_worker.is_connected))
        assert not app.disconnects
        await asyncio.to_thread(broker.start)
        await until(lambda: app.disconnects)


async def test_what_is_pending_at_the_end_is_sent(broker: NatsServer) -> None:
    received: list[int] = []
    async with connected(ClusterSettings(url=broker.url)) as listener:
        await listener.subscribe("numbers", lambda message: received.append(int(message.data)))
        async with connected(ClusterSettings(url=broker.url)) as sender:
            for number in range(2000):
                sender.send("numbers", b"%4096d" % number)
        await until(lambda: len(received) == 2000)
    assert received == [*range(2000)]


async def test_message_that_the_broker_refuses_is_logged(broker: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(ClusterSettings(url=broker.url)) as connection:
        connection.send("somewhere", bytes(1_100_000))
        await until(lambda: "1100000 bytes to the cluster was not sent" in caplog.text)


async def test_broker_with_a_small_limit_of_messages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.conf").write_text("max_payload: 65536\n")
    with (
        NatsServer(tmp_path, "-c", str(tmp_path / "small.conf")) as small,
        pytest.raises(ConfigError, match="max_payload is 65536"),
    ):
        async with connected(ClusterSettings(url=small.url)):
            pass


class Proxy:
    """A network between a client and the broker, which loses all connections when it is cut."""

    def __init__(self, broker: NatsServer) -> None:
        self._port = broker.port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection in both directions until it is cut."""
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, other_writer]
        await asyncio.gather(self._forward(reader, other_writer), self._forward(other_reader, writer))

    def cut(self) -> None:
        """Drop the connections with what is under way."""
        while self._writers:
            self._writers.pop().transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.mark.parametrize("returns", [True, False])
async def test_request_after_an_interruption_waits_for_a_worker_that_connects_later(
    broker: NatsServer, returns: bool
) -> None:
    app, proxy = App(), Proxy(broker)
    async with await asyncio.start_server(proxy.connect, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        async with ends(broker, app, url_of_worker=f"nats://127.0.0.1:{port}") as both:
            server.close()
            await asyncio.to_thread(broker.kill)
            await until(lambda: not both.of_gateway.is_connected)
            await asyncio.to_thread(broker.start)
            await until(lambda: both.of_gateway.connections == 2)
            async with both.request() as response:
                head = asyncio.create_task(response.head())
                await asyncio.sleep(0.3)
                assert not head.done()
                if returns:
                    async with await asyncio.start_server(proxy.connect, "127.0.0.1", port):
                        assert (await head).status == 201
                        assert await response.read() == b"".join(app.pieces)
                        proxy.cut()
                else:
                    [held] = vars(both.gateway)["_held"].values()
                    await until(lambda: not held.sent)  # the broker has refused what was sent
                    both.lose_worker()
                    with pytest.raises(Undelivered):
                        await head
    assert app.bodies == [b""] * returns


async def test_network_that_drops_connections_costs_no_byte_of_a_stream(broker: NatsServer) -> None:
    app, proxy = App([b"%d " % number for number in range(2000)], pause_s=0.002), Proxy(broker)
    async with await asyncio.start_server(proxy.connect, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        async with (
            ends(broker, app, url_of_worker=f"nats://127.0.0.1:{port}") as both,
            both.request() as response,
        ):
            await response.head()
            received = b""
            async for piece, _ in response.body():
                received += piece
                if received.endswith((b" 200 ", b" 500 ", b" 900 ", b" 1300 ", b" 1700 ")):
                    proxy.cut()
        proxy.cut()
    assert received == b"".join(app.pieces)
    assert app.bodies == [b""]


def test_broker_with_tls_is_trusted_by_the_file_of_certificates_only(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes")
    create = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, *subject)
    subprocess.run(create, check=True, capture_output=True)

    async def answer(url: str, ca_file: str) -> str:
        settings = ClusterSettings(url=url, ca_file=ca_file)
        async with connected(settings) as broker, connected(settings) as other:
            await broker.subscribe("question", partial(broker.answer, "worker", SIGNER))
            return await other.process_at(SIGNER, "question", 5)

    with NatsServer(tmp_path, "--tls", f"--tlscert={certificate}", f"--tlskey={key}") as broker:
        url = broker.url.replace("nats:", "tls:")
        assert asyncio.run(answer(url, str(certificate))) == "worker"
        with pytest.raises(ConfigError, match="certificate verify failed"):
            asyncio.run(answer(url, ""))
        with pytest.raises(ConfigError, match="'/nowhere' cannot be read"):
            asyncio.run(answer(url, "/nowhere"))
    with NatsServer(tmp_path) as broker, pytest.raises(ConfigError, match="secure connection not available"):
        asyncio.run(answer(broker.url.replace("nats:", "tls:"), ""))


class _Nkey:
    """A key pair of NATS, with an encoded seed."""

    def __init__(self, kind: str) -> None:
        nkeys = importlib.import_module("nkeys")  # without types
        self.seed: str = nkeys.encode_seed(os.urandom(32), getattr(nkeys, f"PREFIX_BYTE_{kind}")).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def jwt(self, subject: str, kind: str, **claims: object) -> str:
        """Return a JWT about a subject, which this key has signed."""
        fields = {"type": kind, "version": 2, **claims}
        payload = {"jti": "x", "iat": 1, "iss": self.public, "name": kind, "sub": subject, "nats": fields}
        parts = [_encoded(json.dumps(each).encode()) for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, payload)]
        return ".".join([*parts, _encoded(self._pair.sign(".".join(parts).encode()))])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_account_of_nats_is_used_with_its_credentials_file_only(tmp_path: Path) -> None:
    operator, account, user, stranger = map(_Nkey, ("OPERATOR", "ACCOUNT", "USER", "USER"))
    unlimited = dict.fromkeys(("subs", "conn", "data", "payload", "imports", "exports"), -1)
    config = tmp_path / "operator.conf"
    config.write_text(
        f"operator: {operator.jwt(operator.public, 'operator')}\nresolver: MEMORY\nresolver_preload: {{\n"
        f"  {account.public}: {operator.jwt(account.public, 'account', limits=unlimited)}\n}}\n"
    )
    jwt = account.jwt(user.public, "user", subs=-1, data=-1, payload=-1)
    block = "-----BEGIN {0}-----\n{1}\n------END {0}------\n\n"
    files = {
        name: "".join(block.format(title, text) for title, text in parts.items())
        for name, parts in {
            "right": {"NATS USER JWT": jwt, "USER NKEY SEED": user.seed},
            "stranger": {"NATS USER JWT": jwt, "USER NKEY SEED": stranger.seed},
            "damaged": {"NATS USER JWT": jwt, "USER NKEY SEED": user.seed[:-9]},
            "short": {"NATS USER JWT": jwt, "USER NKEY SEED": user.seed[:-3]},
            "incomplete": {"USER NKEY SEED": user.seed},
        }.items()
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    async def connect(name: str) -> str:
        settings = ClusterSettings(url=broker.url, credentials=str(tmp_path / name) if name else "")
        async with connected(settings) as one, connected(settings) as other:
            await one.subscribe("question", partial(one.answer, "worker", SIGNER))
            return await other.process_at(SIGNER, "question", 5)

    with NatsServer(tmp_path, "-c", str(config)) as broker:
        assert asyncio.run(connect("right")) == "worker"
        for name, message in {
            "": "Authorization",
            "stranger": "Authorization",
            "damaged": "cluster.credentials '.*damaged' has no valid credentials",
            "short": "cluster.credentials '.*short' has no valid credentials",
            "incomplete": "cluster.credentials '.*incomplete' has no valid credentials",
            "missing": "cluster.credentials '.*missing' cannot be read: No such file",
        }.items():
            with pytest.raises(ConfigError, match=message):
                asyncio.run(connect(name))
