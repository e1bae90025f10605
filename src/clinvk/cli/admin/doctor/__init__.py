"""`clinvk doctor`: check everything that clinvk needs, without calling a model and without changes."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from clinvk import __version__
from clinvk.api.access import auth, keys
from clinvk.api.access.workdirs import WorkdirPolicy
from clinvk.cli.admin.backends import disabled_presets
from clinvk.cli.admin.doctor import machine
from clinvk.cli.admin.doctor.agents import check_agent
from clinvk.cli.admin.doctor.machine import Check
from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import CommandContext, variables_without_effect
from clinvk.cli.terminal import exits, output, streams
from clinvk.config.load import settings_file
from clinvk.config.model import Settings
from clinvk.runtime.process import process_tags, resource_limits
from clinvk.runtime.process.guardian_process import GuardianProcess
from clinvk.runtime.process.process_scan import private_prefix
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError, ConfigError, StoreUnavailable
from clinvk.types.text import on_one_line, without_sequences

_COLORS = {"ok": output.GREEN, "warning": output.YELLOW, "problem": output.RED, "skipped": output.DIM}
_NAME_COLUMN = 10
_MESSAGE_COLUMN = 22


def doctor(flags: JsonFlags, context: CommandContext) -> int:
    """Run all checks, and print the results.

    Raises:
        BackendUnavailable: the backend of `--backend` does not exist.
        ConfigError: the user has no home directory.
    """
    errors: list[ConfigError] = []
    settings = context.trace(errors.append).settings
    try:
        resource_limits.check_resource_limits(settings.agents)
        settings.notifications.check()
    except ConfigError as exc:
        errors.append(exc)
    report = _Report(not flags.wants_json, settings.output.color and output.has_colors(1, context.environ))
    agents = streams.run(_run_checks(context, settings, errors, report))
    is_kept = all(check.status != "problem" for check in report.checks if check.name == machine.SESSIONS)
    obstacle = "the settings are invalid" if errors else "" if is_kept else "sessions cannot be stored"
    usable = bool(agents) and not obstacle
    if flags.wants_json:
        output.print_json({"usable": usable, "version": __version__, "agents": agents, "checks": report.checks})
    else:
        others = (
            f"not usable: {obstacle} (agents: {', '.join(agents)})" if agents else "not usable: no agent can be used"
        )
        output.print_text(f"usable: {', '.join(agents)}" if usable else others)
    return exits.exit_code_of_error(ConfigError.code) if errors else 0 if usable else exits.FAILED


class _Report(msgspec.Struct):
    """Collects the checks, and prints each one for people as soon as it is added, section by section."""

    is_printed: bool
    has_color: bool
    section: str = ""
    checks: list[Check] = []

    def head(self, section: str) -> None:
        """Print the name of a section before its first check."""
        if section != self.section:
            self.section = section
            self._print(section)

    def add(self, *checks: Check) -> None:
        """Add checks that have finished."""
        for check in checks:
            self.checks.append(check)
            self.head(check.section)
            message = on_one_line(without_sequences(check.message))
            mark = f"  {check.status:<8} "
            line = output.wrap(f"{mark}{check.name:<{_NAME_COLUMN}} {message}", 1, _MESSAGE_COLUMN)
            color = _COLORS[check.status] if self.has_color else ""
            self._print(output.paint(mark, color) + line.removeprefix(mark))
            if check.fix:
                self._print(f"{'':<{_MESSAGE_COLUMN}}{check.fix}")

    def _print(self, line: str) -> None:
        if self.is_printed:
            with suppress(OSError, ClinvkError):  # the last line of the command reports the error
                output.print_text(line)


async def _run_checks(
    context: CommandContext, settings: Settings, errors: list[ConfigError], report: _Report
) -> list[str]:
    """Run all checks, the slow ones at the same time; return the usable agents.

    A guardian ends leftover processes and removes private folders, as in a run.
    """
    report.head("agents")
    flags, environ, backends = context.flags, context.environ, context.backends
    chosen = process_tags.choose_tags()
    spawner = Spawner(chosen)
    guard = GuardianProcess(chosen, ResourceLimits(settings.agents, chosen.server))
    guard.start()
    try:
        prefix = f"{private_prefix(chosen.server)}doctor-"
        names = [flags.backend] if flags.backend else list(backends)
        usable: list[str] = []
        async with asyncio.TaskGroup() as group:
            agents = {
                name: group.create_task(check_agent(backends[name], settings, environ, spawner, prefix))
                for name in names
            }
            git = group.create_task(machine.check_git(environ, spawner))
            running = group.create_task(machine.running_server(settings.server))
            for name, agent in agents.items():
                checks = await agent
                report.add(*checks)
                usable += [name] * (checks[0].status == "ok")
        for name, path, command in disabled_presets(backends, environ) if flags.backend is None else ():
            report.add(Check("agents", name, "skipped", f"{path} is installed, but not in the settings", command))
        # Not while a child is spawned: clinvk then carries an agent's tag itself, and the server would decline a
        # command that an agent started.
        server = await machine.check_server(settings, environ)
        file, _ = settings_file(flags.config, environ)
        report.add(*_settings(settings, errors, usable, file, context))
        report.add(*await _serve(settings, spawner, context))
        report.add(*machine.check_files(context.home, file))
        has_url, folder = bool(settings.store.url), context.home
        check = machine.check_database(settings) if has_url else asyncio.to_thread(machine.check_store, folder)
        report.add(await check)
        health = running.result()
        port = await asyncio.to_thread(machine.check_port, settings.server, health)
        runs = machine.check_runs(settings.server, health)
        report.add(port, server, git.result(), machine.check_marks(chosen), runs)
        return usable
    finally:
        guard.stop()


def _settings(
    settings: Settings, errors: list[ConfigError], usable: list[str], file: Path, context: CommandContext
) -> Iterator[Check]:
    """Yield invalid settings, and valid settings that will not work."""
    section = "settings"
    yield from (Check(section, "invalid", "problem", error.message) for error in errors)
    if not errors:
        yield Check(section, "valid", "ok", f"{file}" if file.exists() else f"no file {file}: the defaults apply")
        yield from machine.check_warm(settings, context.backends)
        yield from machine.check_rules(settings, usable)
        yield from machine.check_notifications(settings.notifications, context.environ)
    if usable and settings.default_backend not in usable:
        about = f"default_backend = {settings.default_backend} cannot be used: prompts need --backend"
        yield Check(section, "default", "warning", about, f"clinvk config set default_backend {usable[0]}")
    for message in variables_without_effect(context.environ, context.backends):
        yield Check(section, "variable", "warning", message)


async def _serve(settings: Settings, spawner: Spawner, context: CommandContext) -> list[Check]:
    """Report what keeps the server from starting, or from accepting requests."""
    environ = context.environ
    workdirs = WorkdirPolicy(settings, environ, context.backends)
    mistakes: list[ClinvkError] = [*auth.access_mistakes(settings.server)]
    try:
        workdirs.check_default()
        if keys.VARIABLE in environ or not settings.server.api_keys_gopass_path:  # gopass may ask for its passphrase
            await keys.read_keys(settings, environ, spawner)
    except (ConfigError, StoreUnavailable) as exc:
        mistakes.append(exc)
    texts = [f"clinvk serve does not start: {mistake.message}" for mistake in mistakes]
    if not texts and (refusal := workdirs.refusal_of_default()):
        texts = [f"clinvk serve, started here, refuses requests that name no workdir: {refusal}"]
    return [Check("settings", "serve", "warning", text) for text in texts]
