"""Check each agent CLI: installed, responding, accepting clinvk's flags, logged in, able to stay warm."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from clinvk.backends.base import PRIVATE, Backend
from clinvk.backends.checkup_base import Checkup, FlagProbe, LoginProbe, LoginStatus, ProbeOutput, SupportsCheckup
from clinvk.cli.admin.doctor import report
from clinvk.cli.admin.doctor.report import Check, Status
from clinvk.config.model import BackendSettings, Settings
from clinvk.runtime.pool.agent_programs import ProtocolSupport, probe_protocol
from clinvk.runtime.process import executables
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError
from clinvk.types.request import RunRequest

_SECTION = "agents"
_WITHIN_S = 30.0


class AgentFindings(NamedTuple):
    """The checks of an agent CLI."""

    name: str
    usable: bool
    checks: tuple[Check, ...]


async def probe_agents(
    backend: Backend, settings: Settings, environ: Mapping[str, str], spawner: Spawner, prefix: str
) -> AgentFindings:
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
        return await _AgentProbe(
            backend, path, env, spawner, folder, report.warm_agents_check(settings, backend.name)
        ).agent()


def _missing(error: ClinvkError, backend: Backend, own: BackendSettings) -> str:
    return error.message.partition(": ")[2] if own.executable else f"not installed; {backend.install}"


def _judged(name: str, usable: bool, status: Status, message: str, remarks: Sequence[str] = ()) -> AgentFindings:
    checks = [Check(_SECTION, name, status, message), *(Check(_SECTION, name, "warning", text) for text in remarks)]
    return AgentFindings(name, usable, tuple(checks))


class _AgentProbe:
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

    async def agent(self) -> AgentFindings:
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
        if isinstance(self._backend, SupportsCheckup):
            return self._backend.checkup(executables.host(self._env))
        return Checkup(empty_home={}, trials=(), login=LoginStatus(None, "login not known"))

    def _agent(
        self, version: str | None, lacking: Sequence[tuple[str, ...] | None], login: LoginStatus, remarks: Sequence[str]
    ) -> AgentFindings:
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
        why = await probe_protocol(self._spawner, self._path, stays, channel, apart, ProtocolSupport().answer_within_s)
        return [f"does not speak the protocol of a process that stays ({why}): each prompt starts it"] if why else []

    async def _lacking(self, trial: FlagProbe, env: Mapping[str, str]) -> tuple[str, ...] | None:
        answer = await self._answer(trial.argv, env)
        return trial.lacking(answer) if answer else None

    async def _login(self, login: LoginStatus | LoginProbe, apart: Mapping[str, str]) -> LoginStatus:
        if isinstance(login, LoginStatus):
            return login
        answer = await self._answer(login.argv, {**self._env, **login.env} if login.at_home else apart)
        return login.read(answer) if answer else LoginStatus(None, "login not known: it did not answer")

    async def _answer(self, argv: Sequence[str], env: Mapping[str, str]) -> ProbeOutput | None:
        """Run the CLI in an empty folder, without project settings; return None if it does not exit in time."""
        argv = (self._path, *(word.replace(PRIVATE, self._folder) for word in argv[1:]))
        with suppress(ClinvkError, TimeoutError):
            done = await run_tool(self._spawner, argv, env, _WITHIN_S, self._folder)
            return ProbeOutput(
                done.exit_code, "\n".join(text.decode(errors="replace") for text in (done.stdout, done.stderr))
            )
        return None
