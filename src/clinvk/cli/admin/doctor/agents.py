"""Check each agent CLI: installed, responding, accepting clinvk's flags, logged in, able to stay warm."""

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.backends.base import PRIVATE, Backend
from clinvk.backends.checkup_base import FlagProbe, LoginProbe, LoginStatus, ProbeOutput, Remark
from clinvk.cli.admin.doctor.machine import Check, Status, is_kept_warm
from clinvk.config.model import Settings
from clinvk.runtime.pool.warm_agent import probe_protocol
from clinvk.runtime.process import executables
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError
from clinvk.types.request import RunRequest

_TIMEOUT_S = 30.0
_PROBE_TIMEOUT_S = 10.0
_PACKAGE_MANAGERS = ("apt-get install", "dnf install", "pacman -S", "zypper install")


async def check_agent(
    backend: Backend, settings: Settings, environ: Mapping[str, str], spawner: Spawner, prefix: str
) -> list[Check]:
    """Check an agent CLI, without calling its model and without changing its own files.

    The first check is `ok` if the agent is usable. The name of its temporary folder begins with `prefix`.
    """
    own = settings.backend(backend.name)
    if not own.enabled:
        return [_check(backend.name, "skipped", f"disabled (backends.{backend.name}.enabled: false)")]
    if backend.error:
        return [_check(backend.name, "problem", backend.error)]
    try:
        path = executables.require(backend, settings, environ)
    except ClinvkError as exc:
        if own.executable:
            return [_check(backend.name, "problem", exc.message.partition(": ")[2])]
        return [_check(backend.name, "warning", "not installed", backend.install)]
    env = executables.environment(backend.name, settings, environ)
    # The files that a CLI writes at every start go here.
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        try:
            return await _Probe(backend, path, env, spawner, folder, is_kept_warm(settings, backend.name)).checks()
        except Exception as exc:  # noqa: BLE001  # the code of a plug-in
            cause: Exception = getattr(exc, "exceptions", (exc,))[0]  # the first of a group
            return [_check(backend.name, "problem", f"{path}: its check failed: {type(cause).__name__}: {cause}")]


def _check(name: str, status: Status, message: str, fix: str = "") -> Check:
    return Check("agents", name, status, message, fix)


def _install_command(packages: Sequence[str]) -> str:
    """Return the command that installs system packages, if the package manager is known."""
    found = (command for command in _PACKAGE_MANAGERS if packages and shutil.which(command.split()[0]))
    return next((f"sudo {command} {' '.join(packages)}" for command in found), "")


class _Probe(NamedTuple):
    """Checks an installed CLI, with all its processes at the same time."""

    backend: Backend
    path: str
    env: Mapping[str, str]
    spawner: Spawner
    folder: str
    is_kept: bool

    async def checks(self) -> list[Check]:
        plan = self.backend.checkup(executables.host(self.env))
        empty_home = {name: value.replace(PRIVATE, self.folder) for name, value in plan.empty_home.items()}
        isolated_env = {**self.env, **empty_home}
        async with asyncio.TaskGroup() as group:
            version = group.create_task(executables.version(self.spawner, self.path, isolated_env))
            trials = [group.create_task(self._missing_flags(trial, isolated_env)) for trial in plan.probes]
            login = group.create_task(self._login(plan.login, isolated_env))
            protocol = group.create_task(self._protocol(isolated_env))
        found, hint = protocol.result()
        remarks = [*plan.remarks, *found]
        if None in (lacking := [task.result() for task in trials]):
            remarks.insert(0, Remark("its help lists no flags"))
        status = login.result()
        if hint and status.is_logged_in is None:
            status = replace(status, detail=f"{status.detail} ({hint})")
        first = self._judge(version.result(), lacking, status)
        name = self.backend.name
        warnings = [_check(name, "warning", text, _install_command(packages)) for text, packages in remarks]
        return [first, *warnings]

    def _judge(self, version: str | None, lacking: Sequence[tuple[str, ...] | None], login: LoginStatus) -> Check:
        name = self.backend.name
        if version is None and lacking:
            return _check(name, "problem", f"{self.path} reports no version; is it the right program?")
        about = f"{version} {self.path}" if version else self.path
        if missing := dict.fromkeys(flag for flags in lacking for flag in flags or ()):
            what = f"does not accept {', '.join(missing)}, which clinvk needs; another version may"
            return _check(name, "problem", f"{about}: {what}", self.backend.install)
        if login.is_logged_in is False:
            return _check(name, "problem", f"{about}: {login.detail}", login.fix)
        lack = "" if self.backend.capabilities.client_tools else ", cannot call the tools of API clients"
        return _check(name, "ok", f"{about}{lack}, {login.detail}")

    async def _protocol(self, isolated_env: Mapping[str, str]) -> tuple[list[Remark], str]:
        """Report a CLI that does not speak the protocol of a warm process, and how to log in, if the protocol says so.

        The CLI runs in an empty folder.
        """
        request = RunRequest(prompt="", backend=self.backend.name, workdir=self.folder, ephemeral=True)
        host = executables.host(isolated_env)
        launch = self.backend.launch(request, None, host)
        warm_launch = launch if launch.long_lived else launch.warm if self.is_kept else None
        if warm_launch is None:
            return [], ""
        channel = self.backend.channel(warm_launch, host)
        why = await probe_protocol(self.spawner, self.path, warm_launch, channel, isolated_env, _PROBE_TIMEOUT_S)
        effect = (
            "cannot be used ({})" if launch.long_lived else "cannot stay warm ({}); each prompt starts a new process"
        )
        return [Remark(effect.format(why))] if why else [], channel.login_hint()

    async def _missing_flags(self, trial: FlagProbe, env: Mapping[str, str]) -> tuple[str, ...] | None:
        answer = await self._answer(trial.argv, env)
        return trial.missing_flags(answer) if answer else None

    async def _login(self, login: LoginStatus | LoginProbe, isolated_env: Mapping[str, str]) -> LoginStatus:
        if isinstance(login, LoginStatus):
            return login
        answer = await self._answer(login.argv, {**self.env, **login.env} if login.in_user_home else isolated_env)
        return login.read(answer) if answer else LoginStatus(None, "login not known: no answer")

    async def _answer(self, argv: Sequence[str], env: Mapping[str, str]) -> ProbeOutput | None:
        """Run the CLI in an empty folder, without project settings; return None if it does not exit in time."""
        argv = (self.path, *(word.replace(PRIVATE, self.folder) for word in argv[1:]))
        with suppress(ClinvkError, TimeoutError):
            done = await run_tool(self.spawner, argv, env, _TIMEOUT_S, self.folder)
            return ProbeOutput(
                done.exit_code, "\n".join(text.decode(errors="replace") for text in (done.stdout, done.stderr))
            )
        return None
