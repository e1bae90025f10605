"""`clinvk service`: the server as a service of systemd or launchd."""

import sys
from collections.abc import Mapping
from pathlib import Path

from clinvk.cli.admin.completion.grammar import MANAGERS
from clinvk.cli.admin.service import unit_files
from clinvk.cli.admin.service.launchd import Launchd
from clinvk.cli.admin.service.manager import Manager, Steps
from clinvk.cli.admin.service.service_plan import account_of, planned
from clinvk.cli.admin.service.systemd import Systemd
from clinvk.cli.parse.flags import InstallFlags, ServiceFlags, StatusFlags
from clinvk.cli.terminal.exits import FAILED
from clinvk.cli.terminal.output import Notes, tell, tell_json
from clinvk.types.errors import InvalidRequest


def install(flags: InstallFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Write the files of the service, enable it and start it; anew where they change, or did and it came no further.

    Raises:
        ClinvkError: the settings are wrong, the service manager cannot be reached, or a file cannot be written.
    """
    manager = _manager(flags, environ)
    plan = planned(flags, environ, manager.account, manager.reads_secrets)
    files, gone = manager.files(plan), manager.known()
    gone = [path for path in gone if path not in files and path.exists()]
    changed = gone + [path for path, text in files.items() if unit_files.differs(path, text)]
    unfinished = unit_files.mark_beside(manager.known()[0])
    anew = bool(changed) or unfinished.exists()
    steps = Steps(environ)
    if flags.dry_run:
        tell(_shown(files))
        tell("\n".join(steps.shown([*manager.leaving(gone), *manager.starting(plan, anew)])))
        return 0
    steps.run(manager.reaching())
    unit_files.make_folder(plan.folder, manager.account)
    unit_files.check_writable([*files, *gone])
    if anew:
        unit_files.write(unfinished, "")
    steps.run(manager.leaving(gone))
    unit_files.remove(gone)
    for path, text in files.items():
        if path in changed:
            unit_files.write(path, text)
        tell(f"{path}: {'written' if path in changed else 'unchanged'}")
    steps.run(manager.starting(plan, anew))
    unit_files.remove([unfinished])
    tell(f"{manager.title}: {'started' if anew else 'runs'}, and starts by itself from now on")
    for hint in (*plan.warnings, *manager.hints()):
        notes.say(hint)
    return 0


def uninstall(flags: ServiceFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Stop the service and remove its files; where there is none, say so.

    Raises:
        ClinvkError: the service manager cannot be reached, or a file cannot be removed.
    """
    manager = _manager(flags, environ)
    there = [path for path in manager.known() if path.exists()]
    if not there:
        tell(f"{manager.title}: not installed")
        return 0
    steps = Steps(environ)
    if flags.dry_run:
        tell("\n".join([*steps.shown(manager.leaving(there)), *(f"rm {path}" for path in there)]))
        tell("\n".join(steps.shown(manager.left())))
        return 0
    steps.run(manager.reaching())
    unit_files.check_writable(there)
    steps.run(manager.leaving(there))
    unit_files.remove([*there, unit_files.mark_beside(manager.known()[0])])
    steps.run(manager.left())
    tell("\n".join(f"{path}: removed" for path in there))
    notes.say("sessions, settings and API keys stay where they are")
    return 0


def status(flags: StatusFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Tell whether the service is installed, starts by itself, and runs; give 0 when it runs.

    Raises:
        ClinvkError: the service manager cannot be reached.
    """
    manager = _manager(flags, environ)
    steps = Steps(environ)
    steps.run(manager.reaching())
    state = manager.state(steps)
    if flags.wants_json:
        tell_json(state)
    else:
        words = {"installed": state.installed, "starts by itself": state.enabled, "runs": state.active}
        tell(
            "\n".join(
                [f"{manager.title}", *(f"  {word:17} {'yes' if is_so else 'no'}" for word, is_so in words.items())]
            )
        )
    return 0 if state.active else FAILED


def show(flags: InstallFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the files that `install` writes.

    Raises:
        ClinvkError: the settings are wrong, or there is no such user.
    """
    manager = _manager(flags, environ)
    plan = planned(flags, environ, manager.account, manager.reads_secrets)
    tell(_shown(manager.files(plan)).rstrip("\n"))
    for warning in plan.warnings:
        notes.say(warning)
    return 0


def _manager(flags: ServiceFlags, environ: Mapping[str, str]) -> Manager:
    name = flags.words[0] if flags.words else MANAGERS[sys.platform == "darwin"]
    if name not in MANAGERS:
        raise InvalidRequest(f"no service manager {name!r}; have {', '.join(MANAGERS)}")
    account = account_of(flags, flags.run_as if isinstance(flags, InstallFlags) else None, environ)
    return Systemd(account) if name == "systemd" else Launchd(account)


def _shown(files: Mapping[Path, str]) -> str:
    """Show files; each but XML, which must begin with its own line, under its path, as `systemctl cat` does."""
    return "\n".join(text if text.startswith("<?xml") else f"# {path}\n{text}" for path, text in files.items())
