"""The clients, in a process of their own: `python -m bench.load JOB`, the job as JSON; the answer is a line of JSON."""

import asyncio
import os
import re
import subprocess
import sys
import time
from statistics import median, quantiles

import msgspec
import uvloop

_PATIENCE_S = 40.0
_WRITTEN = re.compile(rb"written=(\d+)")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Times(msgspec.Struct, frozen=True):
    """How long things took: all together, and the spread of the single ones."""

    count: int
    seconds: float
    p50_ms: float
    p99_ms: float


def times(began: float, single_ms: list[float]) -> Times:
    """Sum up what began at `began` of `time.perf_counter()` and has just ended."""
    seconds = time.perf_counter() - began
    return Times(len(single_ms), seconds, median(single_ms), quantiles(single_ms, n=100)[98])


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send `count` requests over `clients` connections, one at a time on each.

    Each answer must contain `expected`, and all must be there in `within_s`. A request without a body is a GET.
    """

    port: int
    path: str
    body: str | None = None
    clients: int = 1
    count: int
    expected: str
    within_s: float = _PATIENCE_S


class TimeStreams(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Read streams until each has given `enough`. The times are those from a line's writing to its reading.

    Lines without `piece` do not count: some APIs tell at the end again what they have told.
    """

    port: int
    path: str
    body: str
    streams: int
    enough: str
    piece: str = ""


class TimePipes(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start children and read their output directly: the limit of `TimeStreams`."""

    child: str
    env: dict[str, str]
    prompt: str
    streams: int


class HoldStreams(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Open streams, read until each has given `enough`, say so by a line, and hold them until stdin ends."""

    port: int
    path: str
    body: str | None = None
    streams: int
    enough: str


Job = Ask | TimeStreams | TimePipes | HoldStreams


def now_ns() -> int:
    """Return the time on the clock that the child's lines carry."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def request(path: str, body: str | None) -> bytes:
    """Return the bytes of a request: a POST of JSON, or a GET where there is no body."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode()


class Tally:
    """Counts answers down to none, over all connections."""

    def __init__(self, count: int, expected: bytes) -> None:
        self.left_to_ask = count
        self.left_to_come = count
        self.expected = expected
        self.latencies_ms: list[float] = []
        self.done = asyncio.get_running_loop().create_future()

    def fail(self, why: str) -> None:
        """End the measurement with an error."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))

    def answered(self, answer: bytes, after_s: float) -> None:
        """Count a correct answer."""
        if self.expected not in answer or not answer.startswith(b"HTTP/1.1 200"):
            self.fail(f"unexpected answer: {answer[:1000].decode(errors='replace')}")
        self.latencies_ms.append(after_s * 1000)
        self.left_to_come -= 1
        if not self.left_to_come and not self.done.done():
            self.done.set_result(None)


class Asker(asyncio.Protocol):
    """A kept-alive connection that sends the next request after each answer."""

    def __init__(self, data: bytes, tally: Tally) -> None:
        self._data = data
        self._tally = tally
        self._buffer = b""
        self._asked_at = 0.0
        self._waits = False

    def ask(self, transport: asyncio.WriteTransport) -> None:
        """Ask, unless all was asked."""
        self._waits = bool(self._tally.left_to_ask)
        if self._waits:
            self._tally.left_to_ask -= 1
            self._transport = transport
            self._asked_at = time.perf_counter()
            transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self._buffer += data
        if self._is_whole():
            self._tally.answered(self._buffer, time.perf_counter() - self._asked_at)
            self._buffer = b""
            self.ask(self._transport)

    def _is_whole(self) -> bool:
        head, gap, body = self._buffer.partition(b"\r\n\r\n")
        if length := _LENGTH.search(head):
            return len(body) >= int(length[1])
        return bool(gap) and body.endswith(b"\r\n0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a lost connection, unless all answers have arrived."""
        if self._waits:
            self._tally.fail(f"the server closed a connection: {exc}")


async def ask(job: Ask) -> Times:
    """Do the job."""
    loop = asyncio.get_running_loop()
    data = request(job.path, job.body)
    tally = Tally(job.count, job.expected.encode())
    began = time.perf_counter()
    for _ in range(job.clients):
        transport, asker = await loop.create_connection(lambda: Asker(data, tally), "127.0.0.1", job.port)
        asker.ask(transport)
    async with asyncio.timeout(job.within_s):
        await tally.done
    return times(began, tally.latencies_ms)


class Delays:
    """The delays of the lines of one stream that contain `piece`, from writing to reading."""

    def __init__(self, piece: str = "") -> None:
        self.delays_ms: list[float] = []
        self._piece = piece.encode()
        self._open = b""

    def feed(self, data: bytes) -> None:
        """Take a piece of the stream."""
        at = now_ns()
        *lines, self._open = (self._open + data).split(b"\n")
        for line in lines:
            if self._piece in line and (found := _WRITTEN.search(line)):
                self.delays_ms.append((at - int(found[1])) / 1e6)


class StreamReader(asyncio.Protocol):
    """A connection that reads one stream; `done` when enough has arrived."""

    def __init__(self, enough: bytes, piece: str) -> None:
        self.delays = Delays(piece)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enough = enough
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        """Take a piece of the stream."""
        self.delays.feed(data)
        self._tail = (self._tail + data)[-1000:]
        if self._enough in self._tail and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a lost connection, unless all answers have arrived."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"a stream ended early: {self._tail.decode(errors='replace')}"))


async def read_streams(port: int, data: bytes, streams: int, enough: str, piece: str = "") -> list[StreamReader]:
    """Open streams at once, and read until each has given `enough`."""
    loop = asyncio.get_running_loop()
    readers: list[StreamReader] = []
    for _ in range(streams):
        transport, reader = await loop.create_connection(
            lambda: StreamReader(enough.encode(), piece), "127.0.0.1", port
        )
        transport.write(data)
        readers.append(reader)
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*(reader.done for reader in readers))
    return readers


async def time_streams(job: TimeStreams) -> Times:
    """Do the job."""
    began = time.perf_counter()
    readers = await read_streams(job.port, request(job.path, job.body), job.streams, job.enough, job.piece)
    return times(began, [delay for reader in readers for delay in reader.delays.delays_ms])


async def hold_streams(job: HoldStreams) -> None:
    """Do the job."""
    await read_streams(job.port, request(job.path, job.body), job.streams, job.enough)
    print("null", flush=True)
    await asyncio.to_thread(sys.stdin.read)


class PipeReader:
    """A child that is read directly; `done` when it has closed its output."""

    def __init__(self, job: TimePipes) -> None:
        self.delays = Delays()
        self.process = subprocess.Popen(
            [job.child], env=job.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert self.process.stdin
        assert self.process.stdout
        self._output = self.process.stdout.fileno()
        asyncio.get_running_loop().add_reader(self._output, self._read)
        self.process.stdin.write(job.prompt.encode())
        self.process.stdin.close()

    def _read(self) -> None:
        if data := os.read(self._output, 65536):
            self.delays.feed(data)
        else:
            asyncio.get_running_loop().remove_reader(self._output)
            self.done.set_result(None)


async def time_pipes(job: TimePipes) -> Times:
    """Do the job."""
    began = time.perf_counter()
    readers: list[PipeReader] = []
    try:
        for _ in range(job.streams):
            readers.append(PipeReader(job))
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*(reader.done for reader in readers))
    finally:
        for reader in readers:
            reader.process.kill()
            reader.process.wait()
    return times(began, [delay for reader in readers for delay in reader.delays.delays_ms])


async def work(job: Job) -> Times | None:
    """Run a job and return its answer."""
    match job:
        case Ask():
            return await ask(job)
        case TimeStreams():
            return await time_streams(job)
        case TimePipes():
            return await time_pipes(job)
        case HoldStreams():
            return await hold_streams(job)


if __name__ == "__main__":
    print(msgspec.json.encode(uvloop.run(work(msgspec.json.decode(sys.argv[1], type=Job)))).decode())
