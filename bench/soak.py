"""Whether a server can be left running: what it holds after thousands of requests of all kinds, beside after some.

What is left behind, answered wrongly or complained of in the log is no figure but a defect.
"""

import http.client
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bench.processes import module, run
from bench.report import Budget, Figure
from bench.server import Server, serving
from bench.visitors import Made, Visits
from bench.workplace import BenchBroken, Workplace

_VISITS = 10_000
_WARM_UP = 200
_WARM_UP_SHARE = 0.2
_AT_ONCE = 48
_MAX_VISIT_S = 0.5
_KEY = "of-a-soak"
_GROWN = 1.1
_AT_REST_TIMEOUT_S = 60
_MAX_THREADS = 1 + min(32, (os.cpu_count() or 1) + 4) + 5 + 1
"""The event loop, the default executor, the store (a writer and four readers), and the writer of stderr."""
_STORE = "clinvk.db"
_MAX_STORE_FILES = 2 * (1 + 4) + 1
"""The database and its log for the writer and each reader, who come when they are needed and stay, and their index."""
_POLL_INTERVAL_S = 4.0
"""Memory that is free is given back after ten seconds."""
_TOLD = 3
_HERE = Path(__file__).parent
_CONFIG = """\
server: {{metrics_enabled: true, default_workdir: {root}}}
log: {{format: json, requests: true}}
warm: {{idle_secs: 2}}
"""
_UNENDED = ("runs?state=queued", "runs?state=running", "sessions?status=active")
_COMPLAINT = re.compile(rb"(?m)^.*(?:Traceback|\"level\": ?\"(?:error|critical)\").*$")


class _List(msgspec.Struct):
    total: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The resources of an idle server. `objects` are the objects that Python's collector tracks.

    `descriptors` are those of other files than the store's.
    """

    resident_mb: list[float]
    descriptors: int
    of_the_store: int
    threads: int
    tasks: int
    objects: int


def soak(place: Workplace) -> list[Figure]:
    """Visit a server, measure it, visit it many more times, and measure again."""
    place = _prepared(place)
    count = place.some(_VISITS)
    first = max(min(_WARM_UP, count // 2), round(count * _WARM_UP_SHARE))
    with serving(place, _CONFIG.format(root=place.root)) as server:
        made = [_visited(place, server, first, seed=1)]
        before = _held(place, server)
        made.append(_visited(place, server, count - first, seed=2))
        after = _held(place, server)
        defects = [*_wrong(made), *_unended(server), *_left(place)]
    defects += [*_left(place), *_complaints(server)]
    if defects:
        raise BenchBroken("\n".join(dict.fromkeys(defects)))
    return [*_figures(first, count, before, after)]


def _figures(first: int, count: int, before: Held, after: Held) -> Iterator[Figure]:
    share, none_more = Budget("share", _GROWN), Budget("added", 0)

    def figure(name: str, unit: str, ours: list[float], peer: list[float], budget: Budget) -> Figure:
        return Figure(
            name=f"{name} after {count:,} visits",
            unit=unit,
            ours=ours,
            peer_name=f"after {first:,}",
            peer=peer,
            budget=budget,
        )

    yield figure("resident memory", "MB", after.resident_mb, before.resident_mb, share)
    yield figure("objects", "", [after.objects], [before.objects], share)
    yield figure("open files", "", [after.descriptors], [before.descriptors], none_more)
    yield figure(
        "files of the store",
        "",
        [after.of_the_store],
        [before.of_the_store],
        Budget("at most", _MAX_STORE_FILES),
    )
    yield figure("tasks", "", [after.tasks], [before.tasks], none_more)
    yield figure("threads", "", [after.threads], [before.threads], Budget("at most", _MAX_THREADS))


def _prepared(place: Workplace) -> Workplace:
    """Install the agents and the probe, and make a temporary folder for the server."""
    programs = place.child.parent
    place.child.unlink()
    for name in ("codex", "claude", "gemini"):
        (programs / name).write_text(f"#!{sys.executable} -IS\n{(_HERE / 'soak_agent.py').read_text()}")
        (programs / name).chmod(0o755)
    for name in ("tmp", "shared"):
        (place.root / name).mkdir()
    probe = {"PYTHONPATH": str(_HERE / "probe"), "BENCH_PROBE": str(place.root / "probe.json")}
    return replace(place, env={**place.env, **probe, "TMPDIR": str(place.root / "tmp"), "CLINVK_API_KEYS": _KEY})


def _visited(place: Workplace, server: Server, count: int, seed: int) -> Made:
    job = Visits(port=server.port, key=_KEY, root=str(place.root), count=count, at_once=_AT_ONCE, seed=seed)
    command = module("visitors", msgspec.json.encode(job).decode())
    return msgspec.json.decode(run(command, within_s=60 + count * _MAX_VISIT_S), type=Made)


def _held(place: Workplace, server: Server) -> Held:
    """Measure a server when it is idle."""
    until = time.monotonic() + _AT_REST_TIMEOUT_S
    while _agents(place) and time.monotonic() < until:
        time.sleep(0.1)
    _probed(place, server)
    resident_mb: list[float] = []
    for _ in range(place.rounds):
        time.sleep(_POLL_INTERVAL_S)
        resident_mb.append(server.resident_kb / 1024)
    probed = _probed(place, server)
    opened = _opened(server)
    of_the_store = sum(Path(name).name.startswith(_STORE) for name in opened)
    return Held(
        resident_mb=resident_mb,
        descriptors=len(opened) - of_the_store,
        of_the_store=of_the_store,
        threads=len(os.listdir(f"/proc/{server.pid}/task")),
        tasks=probed["tasks"],
        objects=probed["objects"],
    )


def _opened(server: Server) -> list[str]:
    """Return the open descriptors of an idle server."""
    folder = f"/proc/{server.pid}/fd"
    return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]


def _probed(place: Workplace, server: Server) -> dict[str, int]:
    """Request the values that only the server knows; see probe/sitecustomize.py."""
    told = place.root / "probe.json"
    told.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR2)
    until = time.monotonic() + _AT_REST_TIMEOUT_S
    while not told.exists():
        if time.monotonic() > until:
            raise BenchBroken("the server does not tell what it holds")
        time.sleep(0.01)
    return msgspec.json.decode(told.read_bytes(), type=dict[str, int])


def _wrong(made: Iterable[Made]) -> Iterator[str]:
    """Tell how many visits of each kind were answered wrongly, and the first of each."""
    wrong = [what for visits in made for what in visits.wrong]
    for kind, count in Counter(what.partition(":")[0] for what in wrong).items():
        yield f"{count} of {next(what for what in wrong if what.startswith(kind))}"


def _unended(server: Server) -> Iterator[str]:
    """Return the runs that are reported as active; there should be none."""
    for query in _UNENDED:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", f"/api/v1/{query}", headers={"x-api-key": _KEY})
        total = msgspec.json.decode(connection.getresponse().read(), type=_List).total
        connection.close()
        if total:
            yield f"{total} {query} when all had ended"


def _left(place: Workplace) -> Iterator[str]:
    if left := _agents(place):
        yield f"{len(left)} processes were left, such as {left[:_TOLD]}"
    if files := os.listdir(place.root / "tmp"):
        yield f"{len(files)} temporary files were left, such as {files[:_TOLD]}"


def _agents(place: Workplace) -> list[str]:
    """Find the processes of agents: their program or first word is in the folder of agents."""
    folder = f"{place.child.parent}/".encode()
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # it is gone
            continue
        if any(word.startswith(folder) for word in command.split(b"\0")[:3]):
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def _complaints(server: Server) -> Iterator[str]:
    if said := _COMPLAINT.findall(server.log.read_bytes()):
        yield f"{len(said)} complaints in the log, such as {said[:_TOLD]}"
