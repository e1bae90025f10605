"""Runs of another process: over the private socket and over a real NATS server, which may lose messages."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from broker import NatsServer
from clinvk.cluster import carrier as carriers
from clinvk.cluster.announcements import Announcement
from clinvk.cluster.broker import Broker, connected
from clinvk.cluster.carrier import Carrier
from clinvk.cluster.members import Member, Members, Undelivered
from clinvk.cluster.signing import Signer
from clinvk.config.model import ClusterSettings
from clinvk.remote import remote_run
from clinvk.remote.connection import Connection
from clinvk.remote.messages import Admitted, BeginPart, Begun, Client, Events, Greeting
from clinvk.remote.remote_run import RemoteRun, attached
from clinvk.remote.socket_client import run_over
from clinvk.remote.socket_server import ClientConnection, RunControl
from clinvk.runtime.local import LocalRuns
from clinvk.types.errors import Cancelled, ClinvkError, InvalidRequest, NodeUnavailable
from clinvk.types.events import Event, Logged, RunFailed, RunFinished, TextDelta
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts
from known_run import KnownRun
from polling import until

SIGNER = Signer(b"secret")
REQUEST = RunRequest(prompt="hi", backend="claude", workdir="/")
WHOLE = [*(TextDelta(f"{number} ") for number in range(1000)), RunFinished()]


class OwnRun(KnownRun):
    """A run of the owner, whose agent exits after the ending. `stopped` notes how it was stopped."""

    def __init__(self, run_id: str, request: RunRequest, *events: Event, stopped: list[tuple[str, bool]]) -> None:
        super().__init__(request, *events, state="running")
        self.id = run_id
        self._stopped = stopped

    def stop(self, *, at_once: bool = False) -> None:
        self._stopped.append((self.id, at_once))
        self.log.extend([RunFailed(Cancelled.code, Cancelled.DEFAULT_MESSAGE)])

    async def cancel(self) -> None:
        self.facts = replace(self.facts, has_exited=True)


@dataclass
class Runs:
    """The runs of the owner: each has `events` at once. `left` has the runs whose contexts were left."""

    events: list[Event] = field(default_factory=list[Event])
    refusal: ClinvkError | None = None
    steered: RunFacts | None = None
    opens: bool = True
    begun: list[OwnRun] = field(default_factory=list[OwnRun])
    left: list[str] = field(default_factory=list[str])
    stopped: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    checks: list[str] = field(default_factory=list[str])
    admits: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def _open(self, run_id: str, request: RunRequest) -> AsyncGenerator[OwnRun]:
        if self.refusal:
            raise self.refusal
        run = OwnRun(run_id, request, *self.events, stopped=self.stopped)
        self.begun.append(run)
        try:
            if not self.opens:
                await asyncio.Event().wait()
            yield run
        finally:
            await run.cancel()
            self.left.append(run_id)

    def run_of_user(self, request: RunRequest, _: object, run_id: str) -> AbstractAsyncContextManager[OwnRun]:
        """Run a prompt of the socket."""
        return self._open(run_id, request)

    async def steer(self, _: RunRequest, is_of_user: bool) -> RunFacts | None:
        """Steer another run if there are `steered` facts."""
        return self.steered

    def run(self, part: BeginPart) -> AbstractAsyncContextManager[OwnRun]:
        """Run a part of the cluster."""
        return self._open(part.run_id, part.request)

    async def admit(self, part: BeginPart) -> Admitted:
        """Admit a part."""
        self.checks.append(part.run_id)
        await self.admits.wait()
        if self.refusal:
            raise self.refusal
        return Admitted(part.run_id, replace(part.request, model=part.client.key_name))


@dataclass
class Ends:
    """The two ends of a carrier. `begin` begins a run, `lose_caller` is the loss of the caller's process."""

    runs: Runs
    begin: Callable[[], AbstractAsyncContextManager[RemoteRun]]
    lose_caller: Callable[[], object]


def no_warning(warning: str) -> None:
    """Expect no warning."""
    pytest.fail(warning)


def over_socket() -> Ends:
    """Connect both ends over the private socket."""
    runs, commands = Runs(), list[Connection]()

    @asynccontextmanager
    async def begin() -> AsyncGenerator[RemoteRun]:
        ours, theirs = socket.socketpair()
        streams = await asyncio.open_unix_connection(sock=theirs)
        server = ClientConnection(cast(LocalRuns, runs), cast(RunControl, None), {}, *streams)
        serving = asyncio.create_task(server.serve(Greeting({})))
        command = Connection(*await asyncio.open_unix_connection(sock=ours))
        commands.append(command)
        try:
            assert await command.receive() == Greeting({})
            async with run_over(command, REQUEST, b"", no_warning) as run:
                yield run
        finally:
            command.close()
            await serving

    return Ends(runs, begin, lambda: commands[0].close())


@dataclass
class Cluster:
    """Two nodes."""

    runs: Runs
    caller: Carrier
    owner: Carrier
    of_caller: Broker
    of_owner: Broker
    members: Members
    caller_members: Members

    @asynccontextmanager
    async def begin(self, process: str = "owner") -> AsyncGenerator[RemoteRun]:
        """Begin a run on a node."""
        member = Member(Announcement(process=process, node="one"), 0)
        async with self.caller.begin(member, self.part()) as run, attached(run):
            yield run

    def part(self, is_check: bool = False) -> BeginPart:
        """Return a part."""
        return BeginPart(os.urandom(16).hex(), REQUEST, Client("key", "ana", 1), is_check)

    def lose_caller(self) -> None:
        """Let the owner find the caller silent."""
        self.members.note(Announcement(process="caller", state="left"))


@asynccontextmanager
async def cluster(broker: NatsServer, signer: Signer = SIGNER) -> AsyncGenerator[Cluster]:
    """Connect two nodes."""
    runs, of = Runs(), (Members(), Members())
    for members in of:
        for process in ("caller", "owner", "killed"):
            members.note(Announcement(process=process))
    async with (
        connected(ClusterSettings(url=broker.url)) as of_caller,
        connected(ClusterSettings(url=broker.url)) as of_owner,
        Carrier(of_owner, SIGNER, of[0], "owner", runs) as owner,
        Carrier(of_caller, signer, of[1], "caller", Runs()) as caller,
    ):
        yield Cluster(runs, caller, owner, of_caller, of_owner, *of)


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[NatsServer]:
    """A NATS server; what may be lost is repeated soon."""
    monkeypatch.setattr(carriers, "HOLD_INTERVAL_S", 0.1)
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture(params=["socket", "nats"])
async def ends(request: pytest.FixtureRequest) -> AsyncGenerator[Ends]:
    """Both ends of each carrier."""
    if request.param == "socket":
        yield over_socket()
    else:
        async with cluster(request.getfixturevalue("broker")) as nodes:
            yield Ends(nodes.runs, nodes.begin, nodes.lose_caller)


async def events_of(run: RemoteRun) -> list[Event]:
    """Return the events of a run that ends, and whose agent exits."""
    async with asyncio.timeout(20):
        found = [entry.event async for entry in run.log.follow()]
        await run.exited.wait()
    return found


async def test_events_arrive_complete_and_in_order(ends: Ends) -> None:
    ends.runs.events = [*WHOLE[:500]]
    async with ends.begin() as run:
        own = await until_begun(ends.runs)
        for event in WHOLE[500:]:
            own.log.extend([event])
            await asyncio.sleep(0)
        assert await events_of(run) == [own.log.since(0)[0].event, *WHOLE]
    assert (ends.runs.stopped, len(ends.runs.begun)) == ([], 1)


async def until_begun(runs: Runs) -> OwnRun:
    await until(lambda: runs.begun)
    return runs.begun[0]


async def test_event_above_the_size_of_a_message_arrives(ends: Ends) -> None:
    ends.runs.events = [TextDelta("ä" * 1_500_000), RunFinished()]
    async with ends.begin() as run:
        assert (await events_of(run))[1:] == ends.runs.events


async def test_reader_that_is_slow_holds_the_owner_back(ends: Ends) -> None:
    async with ends.begin() as run:
        own = await until_begun(ends.runs)
        while not own.log.is_ahead:
            own.log.extend([TextDelta("x" * 100_000)], 100_000)
            await asyncio.sleep(0.001)
            assert own.log.count < 500
        await until(lambda: run.log.is_ahead)
        own.log.extend([RunFinished()])
        assert await events_of(run) == [entry.event for entry in own.log.since(0)]


async def test_stop_and_the_end_of_the_context_stop_the_run(ends: Ends) -> None:
    async with ends.begin() as run:
        run.stop()
        assert (await events_of(run))[-1] == RunFailed(Cancelled.code, Cancelled.DEFAULT_MESSAGE)
    async with ends.begin() as run:
        pass
    assert run.exited.is_set()
    stopped = dict.fromkeys(run_id for run_id, _ in ends.runs.stopped)  # a stop is repeated until the run has ended
    assert [*stopped] == [run.id for run in ends.runs.begun]


async def test_runs_of_a_caller_that_is_lost_are_stopped(ends: Ends) -> None:
    async with ends.begin() as run:
        await until_begun(ends.runs)
        ends.lose_caller()
        await until(lambda: ends.runs.left == [run.id])
        assert ends.runs.stopped == [(run.id, False)]
        run.lose(NodeUnavailable("it is lost"))


async def test_refusal_is_raised_with_its_field(ends: Ends) -> None:
    ends.runs.refusal = InvalidRequest("no such model", "model")
    with pytest.raises(InvalidRequest, match="no such model") as refused:
        async with ends.begin():
            pass
    assert refused.value.field == "model"


async def test_prompt_that_steers_another_run_has_the_facts_of_that_run() -> None:
    ends = over_socket()
    ends.runs.steered = RunFacts(run_id="other", backend="codex", is_steered=True)
    async with ends.begin() as run:
        assert (run.facts, run.exited.is_set()) == (ends.runs.steered, True)
    assert (ends.runs.begun, ends.runs.stopped) == ([], [])


async def test_part_is_admitted_without_a_run(broker: NatsServer) -> None:
    async with cluster(broker) as nodes:
        member = Member(Announcement(process="owner"), 0)
        nodes.runs.admits.set()
        async with nodes.caller.begin(member, nodes.part(is_check=True)) as run:
            assert await run.answer() == Admitted(run.id, replace(REQUEST, model="key"))
        nodes.runs.refusal = InvalidRequest("no", "model")
        with pytest.raises(InvalidRequest):
            async with nodes.caller.begin(member, nodes.part(is_check=True)) as run:
                await run.answer()
        assert nodes.runs.begun == []


@dataclass
class Sent:
    """Notes what a broker sends, and drops each message for which `drops` is true the first time."""

    broker: Broker
    monkeypatch: pytest.MonkeyPatch
    drops: Callable[[bytes], bool] = lambda _: False
    always: bool = False
    sent: list[tuple[str, bytes, str]] = field(default_factory=list[tuple[str, bytes, str]])
    dropped: int = 0

    def __post_init__(self) -> None:
        self._send = self.broker.send
        self.monkeypatch.setattr(self.broker, "send", self.send)

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message, or drop it."""
        self.sent.append((subject, data, reply))
        if self.drops(data) and (self.always or not self.dropped):
            self.dropped += 1
        else:
            self._send(subject, data, reply)

    def repeat(self) -> None:
        """Send copies of all messages."""
        for subject, data, _ in [*self.sent]:
            self._send(subject, data)


@pytest.mark.parametrize("end", ["of_caller", "of_owner"])
@pytest.mark.parametrize("lost", range(8))
async def test_message_that_is_lost_is_sent_again(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch, end: str, lost: int
) -> None:
    async with cluster(broker) as nodes:
        messages_sent = 0

        def is_lost(_: bytes) -> bool:
            nonlocal messages_sent
            messages_sent += 1
            return messages_sent == lost + 1

        sent = Sent(getattr(nodes, end), monkeypatch, is_lost)
        nodes.runs.events = [TextDelta("y" * 200_000), TextDelta("x" * 1_200_000)]
        async with nodes.begin() as run:
            own = await until_begun(nodes.runs)
            own.log.extend([*WHOLE])
            assert (await events_of(run))[1:] == [*nodes.runs.events, *WHOLE]
            await until(lambda: sent.dropped)
        assert len(nodes.runs.begun) == 1


async def test_check_that_takes_long_is_done_once(broker: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(broker) as nodes:
        sent = Sent(nodes.of_caller, monkeypatch)
        member = Member(Announcement(process="owner", node="one"), 0)
        async with nodes.caller.begin(member, nodes.part(is_check=True)) as run:
            await until(lambda: sum(b"begin_part" in data for _, data, _ in sent.sent) > 2)
            nodes.runs.admits.set()
            await run.answer()
        assert nodes.runs.checks == [run.id]


async def test_stop_that_is_lost_is_repeated(broker: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_run, "_STOPS_TIMEOUT_S", 60)
    async with cluster(broker) as nodes, nodes.begin() as run:
        sent = Sent(nodes.of_caller, monkeypatch, lambda data: b"\xa4stop" in data)
        await asyncio.wait_for(run.cancel(), 20)
        assert sent.dropped
        assert {*nodes.runs.stopped} == {(run.id, False)}


async def test_run_that_a_node_has_received_is_not_lost_if_a_repeated_begin_is_refused(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(broker) as nodes:
        nodes.runs.opens = False
        async with nodes.caller.begin(Member(Announcement(process="owner", node="one"), 0), nodes.part()) as run:
            await until(lambda: nodes.runs.begun)
            vars(nodes.owner)["_unsubscribe"]()
            refused = Sent(nodes.of_caller, monkeypatch, lambda _: False)
            await until(lambda: len(refused.sent) > 4)
            assert not run.begun.done()
            nodes.caller_members.note(Announcement(process="owner", state="left"))
            with pytest.raises(NodeUnavailable, match="'one' is away"):
                await run.answer()


async def test_run_that_is_no_longer_held_is_stopped(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_run, "_STOPS_TIMEOUT_S", 0.1)
    async with cluster(broker) as nodes:
        Sent(nodes.of_caller, monkeypatch, lambda data: b"\xa4stop" in data, always=True)
        async with nodes.begin():
            await until_begun(nodes.runs)
        await until(lambda: nodes.runs.left)
        assert caplog.text.count("does not tell whether its agent is gone") == 1


async def test_agent_that_does_not_exit_after_the_ending_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_run, "_EXITS_TIMEOUT_S", 0.1)
    warnings: list[str] = []
    run = RemoteRun("r", REQUEST, lambda _: None, warnings.append)
    run.feed(Begun("r", RunFacts(run_id="r", backend="claude")))
    run.feed(Events("r", [Logged(1, 0.0, RunFinished())]))
    await asyncio.wait_for(run.cancel(), 20)
    assert len(warnings) == 1


async def test_copies_do_nothing(broker: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(broker) as nodes:
        sent = [Sent(each, monkeypatch) for each in (nodes.of_caller, nodes.of_owner)]
        nodes.runs.events = [*WHOLE]
        async with nodes.begin() as run:
            for each in sent:
                each.repeat()
            assert (await events_of(run))[1:] == WHOLE
        await until(lambda: nodes.runs.left)
        for each in sent:
            each.repeat()
            for subject, data, _ in [*each.sent]:  # in the stream of another pair
                to, sender = subject.split(".")[1:]
                each.broker.send(f"runs.{to}.killed", data)
                each.broker.send(f"runs.{sender}.{to}", data)
        nodes.runs.events = [RunFinished()]
        async with nodes.begin() as run:
            assert len(await events_of(run)) == 2
        assert len(nodes.runs.begun) == 2


async def test_request_of_another_secret_is_ignored(broker: NatsServer) -> None:
    async with cluster(broker, Signer(b"other")) as nodes:
        with pytest.raises(TimeoutError):
            async with (
                asyncio.timeout(0.5),
                nodes.caller.begin(Member(Announcement(process="owner"), 0), nodes.part()) as run,
            ):
                await run.answer()
        assert nodes.runs.begun == []


async def test_broker_that_restarts_costs_no_event(broker: NatsServer) -> None:
    async with cluster(broker) as nodes, nodes.begin() as run:
        own = await until_begun(nodes.runs)
        own.log.extend(WHOLE[:10])
        await until(lambda: run.log.count == 11)
        await asyncio.to_thread(broker.kill)
        await until(lambda: not (nodes.of_caller.is_connected or nodes.of_owner.is_connected))
        own.log.extend(WHOLE[10:20])
        with pytest.raises(Undelivered, match="NATS server"):
            async with nodes.begin():
                pass
        await asyncio.to_thread(broker.start)
        own.log.extend(WHOLE[20:])
        assert (await events_of(run))[1:] == WHOLE
        assert (nodes.runs.stopped, len(nodes.runs.begun)) == ([], 1)


async def test_caller_that_returns_learns_how_its_run_has_ended(broker: NatsServer) -> None:
    async with cluster(broker) as nodes, nodes.begin() as run:
        own = await until_begun(nodes.runs)
        own.log.extend(WHOLE[:10])
        nodes.lose_caller()
        await until(lambda: nodes.runs.left)
        nodes.members.note(Announcement(process="caller"))
        assert (await events_of(run))[1:] == [*WHOLE[:10], RunFailed(Cancelled.code, Cancelled.DEFAULT_MESSAGE)]


async def test_run_that_the_owner_has_forgotten_is_broken_off(
    broker: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "_KEPT_S", 0.1)
    async with cluster(broker) as nodes, nodes.begin() as run:
        await until_begun(nodes.runs)
        nodes.lose_caller()
        await until(lambda: nodes.runs.left)
        await asyncio.sleep(0.3)
        nodes.members.note(Announcement(process="caller"))
        assert (await events_of(run))[-1] == RunFailed(NodeUnavailable.code, "the node broke off the run")


async def test_run_of_a_node_that_was_lost_and_returns_is_stopped(broker: NatsServer) -> None:
    async with cluster(broker) as nodes:
        async with nodes.begin() as run:
            await until_begun(nodes.runs)
            lose_owner(nodes)
            assert (await events_of(run))[-1] == RunFailed(NodeUnavailable.code, "node 'one' is away")
        await until(lambda: nodes.runs.left)
        assert len({run_id for run_id, _ in nodes.runs.stopped}) == 1


def lose_owner(nodes: Cluster, process: str = "owner") -> None:
    """Let the caller find a node silent, which returns at once."""
    nodes.caller_members.note(Announcement(process=process, state="left"))
    nodes.caller_members.note(Announcement(process=process))


async def test_only_a_run_that_no_node_may_have_begun_is_undelivered(broker: NatsServer) -> None:
    async with cluster(broker) as nodes:
        for process in ("killed", "unknown"):
            with pytest.raises(Undelivered, match="node 'one' is away"):
                async with nodes.begin(process):
                    pass
        nodes.runs.opens = False

        async def begin() -> None:
            async with nodes.begin():
                pass

        beginning = asyncio.create_task(begin())
        await until_begun(nodes.runs)
        lose_owner(nodes)
        with pytest.raises(NodeUnavailable) as lost:
            await beginning
        assert not isinstance(lost.value, Undelivered)


async def test_run_waits_after_an_interruption_for_a_node_that_connects_later(broker: NatsServer) -> None:
    async with cluster(broker) as nodes:
        for callback in nodes.of_caller.on_reconnect:
            callback()

        async def begin() -> None:
            async with nodes.begin("killed"):
                pass

        beginning = asyncio.create_task(begin())
        await asyncio.sleep(0.5)  # several refusals of the broker
        assert not beginning.done()
        lose_owner(nodes, "killed")
        with pytest.raises(Undelivered):
            await beginning
