"""Check each agent CLI: installed, responding, accepting clinvk's flags, logged in, able to stay warm."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from clinvk.backends.base import PRIVATE, Backend
from clinvk.backends.checkup_base import Answer, Checkable, Checkup, Login, Question, Trial
from clinvk.cli.admin.doctor import report
from clinvk.cli.admin.doctor.report import Check, Status
from clinvk.config.model import BackendSettings, Settings
from clinvk.runtime.pool.agent_programs import Fallbacks, unspoken
from clinvk.runtime.process import executables
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError
from clinvk.types.request import RunRequest

_SECTION = "agents"
_WITHIN_S = 30.0


class Agent(NamedTuple):
    """The checks of an agent CLI."""

    name: str
    usable: bool
    checks: tuple[Check, ...]


async def look(
    backend: Backend, settings: Settings, environ: Mapping[str, str], spawner: Spawner, prefix: str
) -> Agent:
    """Check an agent CLI, without calling its model and without changing its own files.

    The name of its temporary folder begins with `prefix`.
    """
    own = settings.backend(backend.name)
    if not own.enabled:
        return _judged(backend.name, False, "skipped", f"disabled (backends.{backend.name}.enabled: false)")
    try:
        path = executables.require(backend, settings, environ)
    except ClinvkError as exc:
        return _judged(backend.name, False, "problem" if own.executable else "warning", _missing(exc, backend, own))
    env = executables.environment(backend.name, settings, environ)
    # The files that a CLI writes at every start go here.
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        return await _Look(backend, path, env, spawner, folder, report.of(settings, backend.name)).agent()


def _missing(error: ClinvkError, backend: Backend, own: BackendSettings) -> str:
    return error.message.partition(": ")[2] if own.executable else f"not installed; {backend.install}"


def _judged(name: str, usable: bool, status: Status, message: str, remarks: Sequence[str] = ()) -> Agent:
    checks = [Check(_SECTION, name, status, message), *(Check(_SECTION, name, "warning", text) for text in remarks)]
    return Agent(name, usable, tuple(checks))


class _Look:
    """Checks an installed CLI, with all its processes at the same time."""

    def __init__(
        self, backend: Backend, path: str, env: Mapping[str, str], spawner: Spawner, folder: str, is_kept: bool
    ) -> None:
        self._backend = backend
        self._path = path
        self._env = env
        self._spawner = spawner
        self._folder = folder
        self._is_kept = is_kept

    async def agent(self) -> Agent:
        plan = self._plan()
        empty_home = {name: value.replace(PRIVATE, self._folder) for name, value in plan.empty_home.items()}
        apart = {**self._env, **empty_home}
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(executables.version(self._spawner, self._path, apart))
            tried = [group.create_task(self._lacking(trial, apart)) for trial in plan.trials]
            login = group.create_task(self._login(plan.login, apart))
            unspoken = group.create_task(self._unspoken(apart))
        remarks = [*plan.remarks, *unspoken.result()]
        return self._agent(asked.result(), [task.result() for task in tried], login.result(), remarks)

    def _plan(self) -> Checkup:
        if isinstance(self._backend, Checkable):
            return self._backend.checkup(executables.host(self._env))
        return Checkup(empty_home={}, trials=(), login=Login(None, "login not known"))

    def _agent(
        self, version: str | None, lacking: Sequence[tuple[str, ...] | None], login: Login, remarks: Sequence[str]
    ) -> Agent:
        name = self._backend.name
        if version is None:
            return _judged(name, False, "problem", f"{self._path} does not tell its version: is it the right program?")
        about = f"{version} {self._path}"
        if missing := dict.fromkeys(flag for flags in lacking for flag in flags or ()):
            flags = ", ".join(missing)
            update = f"another version may: {self._backend.install}"
            return _judged(name, False, "problem", f"{about}: does not take {flags}, which clinvk needs; {update}")
        if login.there is False:
            return _judged(name, False, "problem", f"{about}: {login.about}", remarks)
        if None in lacking:
            remarks = ["it does not tell which flags it takes", *remarks]
        return _judged(name, True, "ok", f"{about}, {login.about}", remarks)

    async def _unspoken(self, apart: Mapping[str, str]) -> list[str]:
        """Report a CLI that does not speak the protocol of a warm process. It runs in an empty folder."""
        request = RunRequest(prompt="", backend=self._backend.name, workdir=self._folder, ephemeral=True)
        host = executables.host(apart)
        launch = self._backend.launch(request, None, host)
        stays = launch if launch.long_lived else launch.warm if self._is_kept else None
        if stays is None:
            return []
        channel = self._backend.channel(stays, host)
        why = await unspoken(self._spawner, self._path, stays, channel, apart, Fallbacks().answer_within_s)
        return [f"does not speak the protocol of a process that stays ({why}): each prompt starts it"] if why else []

    async def _lacking(self, trial: Trial, env: Mapping[str, str]) -> tuple[str, ...] | None:
        answer = await self._answer(trial.argv, env)
        return trial.lacking(answer) if answer else None

    async def _login(self, login: Login | Question, apart: Mapping[str, str]) -> Login:
        if isinstance(login, Login):
            return login
        answer = await self._answer(login.argv, {**self._env, **login.env} if login.at_home else apart)
        return login.read(answer) if answer else Login(None, "login not known: it did not answer")

    async def _answer(self, argv: Sequence[str], env: Mapping[str, str]) -> Answer | None:
        """Run the CLI in an empty folder, without project settings; return None if it does not exit in time."""
        argv = (self._path, *(word.replace(PRIVATE, self._folder) for word in argv[1:]))
        with suppress(ClinvkError, TimeoutError):
            done = await run_tool(self._spawner, argv, env, _WITHIN_S, self._folder)
            return Answer(
                done.exit_code, "\n".join(text.decode(errors="replace") for text in (done.stdout, done.stderr))
            )
        return None
