"""`LocalRuns` with warm processes of the lasting backend, and helpers for the tests of the pool."""

import os

import psutil
from msgspec.structs import replace

from clinvk.config.model import Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunResult, RunStarted
from clinvk.types.request import RunRequest
from lasting_backend import Lasting

ENV = {"PATH": os.environ["PATH"]}
WARM = WarmSettings(max_processes=3)


class Server:
    """`LocalRuns` with warm processes of one backend."""

    def __init__(self, backend: Lasting, warm: WarmSettings = WARM) -> None:
        warm = replace(warm, kept_backends=("lasting",))
        self.store = MemoryStore()
        self.runs = LocalRuns(Settings(warm=warm), self.store, ENV, {"lasting": backend}, keeps_warm=True)

    async def __aenter__(self) -> "Server":
        await self.runs.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.runs.__aexit__(*error)

    async def ask(self, prompt: str, session: str | None = None, **options: object) -> RunResult:
        result, _ = await self.ask_in_session(prompt, session, **options)
        return result

    async def ask_in_session(
        self, prompt: str, session: str | None = None, **options: object
    ) -> tuple[RunResult, str | None]:
        async with self.runs.run(request(prompt, session, **options)) as run:
            return await run.log.result(), run.session_id

    @property
    def processes(self) -> int:
        assert self.runs.pool
        return self.runs.pool.stats.processes

    @property
    def pool(self) -> Pool:
        assert self.runs.pool
        return self.runs.pool

    @property
    def misses(self) -> int:
        assert self.runs.pool
        return self.runs.pool.stats.misses


def request(prompt: str, session: str | None = None, **options: object) -> RunRequest:
    return replace(RunRequest(prompt=prompt, backend="lasting", session_id=session), **options)


async def begun(run: RunTask, kind: type = RunStarted) -> None:
    async for logged in run.log.follow():
        if isinstance(logged.event, kind):
            return


def sleeping(run: str) -> bool:
    """Return whether a tool of a run is running."""
    for process in psutil.process_iter():
        try:
            if process.name() == "sleep" and process.environ().get("RUN") == run:
                return True
        except psutil.Error:
            continue
    return False


def gone(pid: int) -> bool:
    """Return whether a process has exited or is a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
