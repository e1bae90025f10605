"""Check each agent CLI: installed, responding, accepting clinvk's flags, logged in, able to stay warm."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from clinvk.backends.base import PRIVATE, Backend
from clinvk.backends.checkup_base import Checkup, FlagProbe, LoginProbe, LoginStatus, ProbeOutput, SupportsCheckup
from clinvk.cli.admin.doctor.machine import Check, Status, is_kept_warm
from clinvk.config.model import Settings
from clinvk.runtime.pool.agent_programs import ProtocolSupport
from clinvk.runtime.pool.worker import probe_protocol
from clinvk.runtime.process import executables
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError
from clinvk.types.request import RunRequest

_TIMEOUT_S = 30.0


async def check_agent(
    backend: Backend, settings: Settings, environ: Mapping[str, str], spawner: Spawner, prefix: str
) -> list[Check]:
    """Check an agent CLI, without calling its model and without changing its own files.

    The first check is `ok` if the agent is usable. The name of its temporary folder begins with `prefix`.
    """
    own = settings.backend(backend.name)
    if not own.enabled:
        return _checks(backend.name, "skipped", f"disabled (backends.{backend.name}.enabled: false)")
    try:
        path = executables.require(backend, settings, environ)
    except ClinvkError as exc:
        if own.executable:
            return _checks(backend.name, "problem", exc.message.partition(": ")[2])
        return _checks(backend.name, "warning", f"not installed; {backend.install}")
    env = executables.environment(backend.name, settings, environ)
    # The files that a CLI writes at every start go here.
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        return await _Probe(backend, path, env, spawner, folder, is_kept_warm(settings, backend.name)).checks()


def _checks(name: str, status: Status, message: str, remarks: Sequence[str] = ()) -> list[Check]:
    return [Check("agents", name, status, message), *(Check("agents", name, "warning", text) for text in remarks)]


class _Probe(NamedTuple):
    """Checks an installed CLI, with all its processes at the same time."""

    backend: Backend
    path: str
    env: Mapping[str, str]
    spawner: Spawner
    folder: str
    is_kept: bool

    async def checks(self) -> list[Check]:
        plan = Checkup(empty_home={}, probes=(), login=LoginStatus(None, "login not known"))
        if isinstance(self.backend, SupportsCheckup):
            plan = self.backend.checkup(executables.host(self.env))
        empty_home = {name: value.replace(PRIVATE, self.folder) for name, value in plan.empty_home.items()}
        apart = {**self.env, **empty_home}
        async with asyncio.TaskGroup() as group:
            version = group.create_task(executables.version(self.spawner, self.path, apart))
            trials = [group.create_task(self._lacking(trial, apart)) for trial in plan.probes]
            login = group.create_task(self._login(plan.login, apart))
            unspoken = group.create_task(self._unspoken(apart))
        remarks = [*plan.remarks, *unspoken.result()]
        return self._judge(version.result(), [task.result() for task in trials], login.result(), remarks)

    def _judge(
        self, version: str | None, lacking: Sequence[tuple[str, ...] | None], login: LoginStatus, remarks: Sequence[str]
    ) -> list[Check]:
        name = self.backend.name
        if version is None:
            return _checks(name, "problem", f"{self.path} reports no version; is it the right program?")
        about = f"{version} {self.path}"
        if missing := dict.fromkeys(flag for flags in lacking for flag in flags or ()):
            flags = ", ".join(missing)
            update = f"another version may: {self.backend.install}"
            return _checks(name, "problem", f"{about}: does not take {flags}, which clinvk needs; {update}")
        if login.is_logged_in is False:
            return _checks(name, "problem", f"{about}: {login.detail}", remarks)
        if None in lacking:
            remarks = ["its help lists no flags", *remarks]
        return _checks(name, "ok", f"{about}, {login.detail}", remarks)

    async def _unspoken(self, apart: Mapping[str, str]) -> list[str]:
        """Report a CLI that does not speak the protocol of a warm process. It runs in an empty folder."""
        request = RunRequest(prompt="", backend=self.backend.name, workdir=self.folder, ephemeral=True)
        host = executables.host(apart)
        launch = self.backend.launch(request, None, host)
        stays = launch if launch.long_lived else launch.warm if self.is_kept else None
        if stays is None:
            return []
        channel = self.backend.channel(stays, host)
        why = await probe_protocol(self.spawner, self.path, stays, channel, apart, ProtocolSupport().answer_timeout_s)
        return [f"does not speak the protocol of a process that stays ({why}): each prompt starts it"] if why else []

    async def _lacking(self, trial: FlagProbe, env: Mapping[str, str]) -> tuple[str, ...] | None:
        answer = await self._answer(trial.argv, env)
        return trial.missing_flags(answer) if answer else None

    async def _login(self, login: LoginStatus | LoginProbe, apart: Mapping[str, str]) -> LoginStatus:
        if isinstance(login, LoginStatus):
            return login
        answer = await self._answer(login.argv, {**self.env, **login.env} if login.in_user_home else apart)
        return login.read(answer) if answer else LoginStatus(None, "login not known: it did not answer")

    async def _answer(self, argv: Sequence[str], env: Mapping[str, str]) -> ProbeOutput | None:
        """Run the CLI in an empty folder, without project settings; return None if it does not exit in time."""
        argv = (self.path, *(word.replace(PRIVATE, self.folder) for word in argv[1:]))
        with suppress(ClinvkError, TimeoutError):
            done = await run_tool(self.spawner, argv, env, _TIMEOUT_S, self.folder)
            return ProbeOutput(
                done.exit_code, "\n".join(text.decode(errors="replace") for text in (done.stdout, done.stderr))
            )
        return None
