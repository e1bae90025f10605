"""The gain from warm processes of the real agent CLIs, against a start for each prompt."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.agents import CLIS, agents
from bench.asking import MODELS, asked, kept
from bench.mixed import mixed
from bench.processes import clinvk, last_words
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_FIRST_TOKEN = {"claude": 0.15, "codex": 0.5, "gemini": 0.06}
_PACE = {"claude": 1.0, "codex": 3.0, "gemini": 10.0}
_LATER_TURN_MS = 60
_COMMAND = {"claude": Budget("share", 0.4)}
_PROMPT = "hello [[words=20]]"
_CLIENTS = 8
_FEW, _MANY = 24, 200
_READY_TIMEOUT_S = 60
_RESTS_S = 1.0
"""A process that has just come up is still at work, and so is one that has just been spoken to."""

_CONFIG = "warm: {kept_backends: [claude, codex, gemini]}\n"


def warm(place: Workplace) -> list[Figure]:
    """Time the first token and later turns, and count prompts, kept and started; then look at the memory of many."""
    figures: list[Figure] = []
    for cli in CLIS:
        with agents(place) as machine, serving(machine, _CONFIG) as server:
            figures += _of(cli, machine, server)
        with agents(place) as machine, serving(machine, _CONFIG) as server:
            figures.append(_of_command(cli, machine, server))
    return figures + mixed(place)


def _of(cli: str, place: Workplace, server: Server) -> list[Figure]:
    body = {"backend": cli, "workdir": str(place.root), "model": MODELS[cli][0], "prompt": _PROMPT}
    session = asked(server, body).session
    turn = {**body, "session_id": session}
    first, cold, later = interleaved(
        2 * place.rounds,
        lambda: _ready(server, cli) or asked(server, body).first_ms,
        lambda: asked(server, {**body, "warm": False}).first_ms,
        lambda: _rested() or asked(server, turn).first_ms,
    )
    fast, slow = interleaved(
        place.rounds,
        lambda: _pace(server, body, place.some(_FEW if cli == "claude" else _MANY)),
        lambda: _pace(server, {**body, "warm": False}, place.some(_FEW)),
    )

    def figure(name: str, unit: str, ours: list[float], peer: list[float], budget: Budget) -> Figure:
        started = f"{cli} started for it"
        return Figure(name=f"{name}, {cli} kept", unit=unit, ours=ours, peer_name=started, peer=peer, budget=budget)

    return [
        figure("first token", "ms", first, cold, Budget("share", _FIRST_TOKEN[cli])),
        figure("later turn, first token", "ms", later, cold, Budget("at most", _LATER_TURN_MS)),
        figure(f"prompts, {_CLIENTS} at once", "/s", fast, slow, Budget("ratio", _PACE[cli])),
    ]


def _of_command(cli: str, place: Workplace, server: Server) -> Figure:
    """Time the command line from its start to its first word."""
    command = clinvk("--backend", cli, "--model", MODELS[cli][0], "--new", "--no-stdin", "-o", "text")
    _first_word(place, command)
    through, local = interleaved(
        2 * place.rounds,
        lambda: _ready(server, cli) or _through(place, server, command),
        lambda: _rested() or _first_word(place, [*command, "--no-server"]),
    )
    return Figure(
        name=f"command line, first word, {cli} kept by a server",
        unit="ms",
        ours=through,
        peer_name="with --no-server",
        peer=local,
        budget=_COMMAND.get(cli),
    )


def _through(place: Workplace, server: Server, command: Sequence[str]) -> float:
    before = kept(server).hits
    first_ms = _first_word(place, command)
    if kept(server).hits == before:
        raise BenchBroken(f"{command} found no kept process")
    return first_ms


def _first_word(place: Workplace, command: Sequence[str]) -> float:
    """Return the milliseconds from the start of a command to the first byte that it prints."""
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, _PROMPT],
        env=place.env,
        cwd=place.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # else `communicate` would not give what was read along with the first byte
    ) as process:
        assert process.stdout
        first = process.stdout.read(1)
        first_ms = (time.perf_counter() - began) * 1000
        printed, complaint = process.communicate(timeout=_READY_TIMEOUT_S)
    if process.returncode or not (first + printed).startswith(b"word1"):
        raise BenchBroken(f"{command} exited with {process.returncode}: {last_words(complaint.decode())}")
    return first_ms


def _ready(server: Server, cli: str) -> None:
    """Wait until a process is ready and at rest."""
    until = time.monotonic() + _READY_TIMEOUT_S
    while not kept(server).ready:
        if time.monotonic() > until:
            raise BenchBroken(f"no process of {cli} is ready")
        time.sleep(0.05)
    _rested()


def _rested() -> None:
    time.sleep(_RESTS_S)


def _pace(server: Server, body: Mapping[str, object], count: int) -> float:
    """Return the prompts per second of several concurrent clients."""
    began = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as clients:
        for run in [clients.submit(asked, server, body) for _ in range(count)]:
            run.result()
    return count / (time.perf_counter() - began)
