"""`clinvk doctor`: check everything that clinvk needs, without calling a model and without changes."""

import asyncio
from collections.abc import Mapping

from msgspec.structs import replace

from clinvk import __version__
from clinvk.api.access import auth, keys
from clinvk.api.access.workdirs import WorkdirPolicy
from clinvk.backends.registry import BACKENDS
from clinvk.cli.admin.doctor import agents, machine, report
from clinvk.cli.admin.doctor.report import Check, Report, lines
from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import trace_of
from clinvk.cli.terminal import exits, streams
from clinvk.cli.terminal.output import Notes, has_colors, print_json, print_text
from clinvk.config.load import home, settings_file
from clinvk.config.model import Settings
from clinvk.config.setting_values import all_keys
from clinvk.runtime.process import process_tags, resource_limits
from clinvk.runtime.process.guardian_process import GuardianProcess
from clinvk.runtime.process.process_scan import private_prefix
from clinvk.runtime.process.process_tags import ProcessTags
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.slots import capacity
from clinvk.types.errors import ConfigError

_INVALID = exits.exit_code_of_error(ConfigError.code)


def doctor(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run all checks, and print the results.

    Raises:
        BackendUnavailable: the backend of `--backend` does not exist.
        ConfigError: the user has no home directory.
    """
    errors: list[ConfigError] = []
    settings, places = trace_of(flags, environ, {}, errors.append)
    try:
        resource_limits.check_resource_limits(settings.agents)
    except ConfigError as exc:
        errors.append(exc)
    usable, checks = streams.run(_run_checks(flags, settings, environ, errors))
    by_machine = capacity(replace(settings.server, max_concurrent_runs=None)).runs
    checks.append(machine.check_runs(settings.server, places, by_machine))
    is_kept = all(check.status != "problem" for check in checks if check.name == machine.SESSIONS)
    obstacle = "the settings are invalid" if errors else "" if is_kept else "the sessions cannot be kept"
    found = Report(bool(usable) and not obstacle, __version__, tuple(usable), tuple(checks))
    if flags.wants_json:
        print_json(found)
    else:
        print_text("\n".join(lines(found, obstacle, settings.output.color and has_colors(1, environ))))
    return _INVALID if errors else 0 if found.usable else exits.FAILED


async def _run_checks(
    flags: JsonFlags, settings: Settings, environ: Mapping[str, str], errors: list[ConfigError]
) -> tuple[list[str], list[Check]]:
    """Run all checks under a guardian, which ends leftover processes and removes private folders, as in a run."""
    chosen = process_tags.choose_tags()
    guard = GuardianProcess(chosen, ResourceLimits(settings.agents, chosen.server))
    guard.start()
    try:
        return await _run_checks_with(chosen, flags, settings, environ, errors)
    finally:
        guard.stop()


async def _run_checks_with(
    chosen: ProcessTags, flags: JsonFlags, settings: Settings, environ: Mapping[str, str], errors: list[ConfigError]
) -> tuple[list[str], list[Check]]:
    """Run all checks, the slow ones of the agents at the same time; return the usable agents and the checks."""
    spawner = Spawner(chosen)
    prefix = f"{private_prefix(chosen.server)}doctor-"
    names = [flags.backend] if flags.backend else list(BACKENDS)
    async with asyncio.TaskGroup() as group:
        looks = [
            group.create_task(agents.probe_agents(BACKENDS[name], settings, environ, spawner, prefix)) for name in names
        ]
        git = group.create_task(machine.check_git(environ, spawner))
        port = group.create_task(machine.check_port(settings.server))
    # Not while a child is spawned: clinvk then carries an agent's tag itself, and the server would decline a command
    # that an agent started.
    server = await machine.check_server(settings, environ)
    seen = [look.result() for look in looks]
    usable = [agent.name for agent in seen if agent.usable]
    folder = home(environ)
    file, _ = settings_file(flags.config, environ)
    checks = [check for agent in seen for check in agent.checks]
    checks += _settings(settings, errors, usable, flags, environ)
    checks += await _serve(settings, environ, spawner)
    checks += [machine.check_home(folder), machine.check_settings_file(file)]
    checks += [await asyncio.to_thread(machine.check_store, folder)]
    checks += [port.result(), server, git.result(), machine.check_marks(chosen)]
    return usable, [check for check in checks if check]


def _settings(
    settings: Settings, errors: list[ConfigError], usable: list[str], flags: JsonFlags, environ: Mapping[str, str]
) -> list[Check]:
    """Report invalid settings, and valid settings that will not work."""
    section = "settings"
    checks = [Check(section, "invalid", "problem", error.message) for error in errors]
    if not errors:
        file, _ = settings_file(flags.config, environ)
        checks.append(Check(section, "valid", "ok", str(file) if file.exists() else f"no {file}: the defaults hold"))
        checks += [check for check in (report.check(settings), report.check_prestart(settings)) if check]
    if usable and settings.default_backend not in usable:
        other = f"{settings.default_backend} cannot be used; others need --backend"
        checks.append(Check(section, "default", "warning", f"default_backend = {other}"))
    return checks + [Check(section, "variable", "warning", text) for text in _near_misses(environ)]


async def _serve(settings: Settings, environ: Mapping[str, str], spawner: Spawner) -> list[Check]:
    """Report what keeps the server from starting, or from accepting requests."""
    workdirs = WorkdirPolicy(settings, environ, BACKENDS)
    mistakes = list(auth.access_mistakes(settings.server))
    try:
        workdirs.check_default()
        if keys.VARIABLE in environ or not settings.server.api_keys_gopass_path:  # gopass may ask for its passphrase
            await keys.read_keys(settings, environ, spawner)
    except ConfigError as exc:
        mistakes.append(exc)
    if mistakes:
        told = (f"clinvk serve does not start: {mistake.message}" for mistake in mistakes)
        return [Check("settings", "serve", "warning", text) for text in told]
    if refusal := workdirs.refusal_of_default():
        about = f"clinvk serve, started here, refuses requests that name no workdir: {refusal}"
        return [Check("settings", "serve", "warning", about)]
    return []


def _near_misses(environ: Mapping[str, str]) -> list[str]:
    """Report variables that lack the two underscores between section and key."""
    meant = {f"CLINVK_{'_'.join(name).upper()}": f"CLINVK_{'__'.join(name).upper()}" for name, _ in all_keys(BACKENDS)}
    missed = [name for name in sorted(environ) if name in meant and meant[name] != name]
    return [f"{name} has no meaning for clinvk; did you mean {meant[name]}?" for name in missed]
