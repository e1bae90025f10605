"""The processes of a cluster as they announce themselves."""

import threading
from collections.abc import Callable

import pytest

from clinvk.api.access.request_policy import RequestPolicy
from clinvk.api.endpoints import inventory
from clinvk.backends.base import Backend
from clinvk.backends.registry import BACKENDS
from clinvk.cluster.announcements import PROTOCOL, Announcement
from clinvk.cluster.members import CHECK_INTERVAL_S, LOST_AFTER_S, MAX_OUTAGE_S, Members
from clinvk.cluster.signing import InvalidMessage, Signer
from clinvk.config.model import Settings
from clinvk.runtime.process import executables
from clinvk.runtime.process.waiting import in_background
from polling import until


class Clock:
    """A clock that a test sets, and the members by this clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.members = Members("here", lambda: self.now)
        self.is_connected = True
        self.lost: list[str] = []
        self.members.on_lost.append(self.lost.append)

    def passes(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        """Let time pass with the regular checks; call `each` before each check."""
        until = self.now + seconds
        while self.now < until:
            self.now += CHECK_INTERVAL_S
            each()
            self.members.check(self.is_connected)


def node(name: str, **fields: object) -> Announcement:
    """Return the announcement of a worker."""
    return Announcement(process=f"p-{name}", node=name, store="here", max_runs=4, **fields)  # pyright: ignore[reportArgumentType]


def names(members: Members) -> list[str]:
    return [member.announcement.node for member in members.nodes()]


def test_silent_process_is_lost_after_four_seconds_and_others_stay() -> None:
    clock = Clock()
    clock.members.note(node("silent"))
    clock.members.note(node("alive"))
    clock.passes(LOST_AFTER_S, lambda: clock.members.note(node("alive")))
    assert clock.lost == []
    clock.passes(1, lambda: clock.members.note(node("alive")))
    assert (clock.lost, names(clock.members)) == (["p-silent"], ["alive"])


def test_process_that_was_busy_itself_does_not_lose_the_others() -> None:
    clock = Clock()
    clock.members.note(node("one"))
    clock.now += 10
    clock.members.check()
    assert clock.lost == []
    clock.passes(LOST_AFTER_S + 1)
    assert clock.lost == ["p-one"]


def test_process_without_the_broker_loses_nobody_for_thirty_seconds() -> None:
    clock = Clock()
    clock.members.note(node("one"))
    clock.is_connected = False
    clock.passes(MAX_OUTAGE_S - 1)
    assert clock.lost == []
    clock.passes(LOST_AFTER_S + 2)
    assert clock.lost == ["p-one"]


def test_process_that_leaves_is_lost_at_once() -> None:
    clock = Clock()
    clock.members.note(node("one"))
    clock.members.note(node("one", state="left"))
    assert (clock.lost, names(clock.members)) == (["p-one"], [])


def test_interruption_of_a_process_is_noticed_by_its_number_of_connections() -> None:
    clock, interrupted = Clock(), list[str]()
    clock.members.on_interrupted.append(interrupted.append)
    for connections in (1, 1, 2, 2):
        clock.members.note(node("one", connections=connections))
    assert interrupted == ["p-one"]


def test_least_loaded_node_comes_first_and_assigned_runs_count() -> None:
    clock = Clock()
    clock.members.note(node("idle"))
    clock.members.note(node("busy", running=2))
    assert names(clock.members) == ["idle", "busy"]
    clock.members.nodes()[0].assigned = 3
    assert names(clock.members) == ["busy", "idle"]
    clock.members.note(node("idle"))
    assert names(clock.members) == ["idle", "busy"]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"protocol": PROTOCOL + 1}, "incompatible"),
        ({"store": "elsewhere"}, "incompatible"),
        ({"state": "stopping"}, "stopping"),
    ],
)
def test_node_with_another_version_or_store_or_that_stops_gets_no_requests(
    fields: dict[str, object], state: str
) -> None:
    clock = Clock()
    one = Announcement(**{"process": "p", "node": "one", "store": "here", **fields})  # pyright: ignore[reportArgumentType]
    clock.members.note(one)
    assert names(clock.members) == []
    assert [clock.members.state_of(each) for each in clock.members.all_nodes()] == [state]


def test_message_of_another_secret_or_in_another_format_is_refused() -> None:
    signed = Signer(b"secret").sign(node("one"))
    assert Signer(b"secret").announcement(signed) == node("one")
    for signer, data in ((Signer(b"other"), signed), (Signer(b"secret"), signed[:-1]), (Signer(b"secret"), b"")):
        with pytest.raises(InvalidMessage):
            signer.announcement(data)
    with pytest.raises(InvalidMessage):
        Signer(b"secret").change(signed)


def test_signature_of_a_piece_holds_for_one_subject() -> None:
    signer = Signer(b"secret")
    signed = signer.sign_piece(b"piece", "runs.a.b")
    assert signer.piece(signed, "runs.a.b") == b"piece"
    for subject, data in (("runs.b.a", signed), ("runs.a.b", signed[:-1])):
        with pytest.raises(InvalidMessage):
            signer.piece(data, subject)


async def test_agents_for_announcements_are_found_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def find(*_: object) -> None:
        threads.append(threading.get_ident())

    async def ask_version(_: Backend, __: str) -> None:
        return None

    monkeypatch.setattr(executables, "find", find)
    monkeypatch.setattr(inventory, "_LOCATE_INTERVAL_S", 0.01)
    registry = {name: BACKENDS[name] for name in ("claude", "codex")}
    agents = inventory.BackendInventory(Settings(), {}, registry, RequestPolicy(Settings(), registry), ask_version)
    names = [info.name for info in agents.last_own()]
    assert (names, len(threads)) == (["claude", "codex"], 2)
    async with in_background(agents.locate_regularly()):
        await until(lambda: len(threads) > 4)
        agents.last_own()
    assert threading.get_ident() not in threads[2:]
