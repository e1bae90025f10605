"""`clinvk compare`: one prompt for several agents."""

from collections.abc import Mapping

from msgspec.structs import replace

from clinvk.backends import registry
from clinvk.cli.orchestrate.driver import Job, given, run, unplaced
from clinvk.cli.orchestrate.result_text import View
from clinvk.cli.parse.flags import CompareFlags
from clinvk.cli.parse.settings import directory, settings_of
from clinvk.cli.prompt.prompt import Attached, check
from clinvk.cli.sessions.local_store import real_directory
from clinvk.cli.terminal.input import prompt_from
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import Settings
from clinvk.config.setting_values import split_list
from clinvk.dialects.rest import bodies
from clinvk.runtime.process import executables
from clinvk.types.errors import BackendUnavailable, InvalidRequest
from clinvk.types.orchestration import Compare


def compare(flags: CompareFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the prompt of the command line and of stdin with several agents; give the exit code.

    Raises:
        ClinvkError: nothing was run.
    """
    no_limit = 0 if flags.timeout == 0 else None
    settings = settings_of(flags, environ, {"unified_flags.command_timeout_secs": no_limit}, notes)
    names = _names(flags, settings, environ, notes)
    files = check(flags, settings)
    text = prompt_from(flags.words[0] if flags.words else None, None if flags.no_stdin else 0, notes.say)
    plan = _plan(flags, names, text, files)
    view = View(flags, settings, environ, notes, has_answers=not flags.quiet, has_differences=flags.diff)
    return run(Job(settings, environ, notes, given(plan), unplaced, view.teller, view.told))


def _names(flags: CompareFlags, settings: Settings, environ: Mapping[str, str], notes: Notes) -> list[str]:
    """Give the backends that are asked for; of all only those that are there."""
    if flags.backend is not None:
        raise InvalidRequest("compare takes several agents: --backends A,B, not --backend", "--backend")
    if flags.all_backends == (flags.backends is not None):
        raise InvalidRequest("compare needs --backends A,B or --all-backends, and not both; see clinvk help compare")
    if flags.backends is not None:
        names = list(split_list(flags.backends))
        for name in names:
            registry.named(name)
        if not names:
            raise InvalidRequest("--backends names none", "--backends")
        return names
    found: list[str] = []
    for name, backend in registry.BACKENDS.items():
        try:
            executables.check_enabled(backend, settings)
            executables.require(backend, settings, environ)
        except BackendUnavailable as exc:
            notes.say(f"leaving out {name}: {exc.message}")
        else:
            found.append(name)
    if not found:
        raise BackendUnavailable("no backend is available; see clinvk doctor")
    return found


def _plan(flags: CompareFlags, names: list[str], text: str, files: Attached) -> Compare:
    if flags.judge_prompt is not None and flags.judge is None:
        raise InvalidRequest("--judge-prompt needs --judge", "--judge-prompt")
    if flags.check is not None and flags.isolation != "worktree":
        raise InvalidRequest("--check is run in worktrees: it needs --isolation worktree", "--check")
    judge = None if flags.judge is None else bodies.JudgeBody(backend=flags.judge, prompt=flags.judge_prompt)
    body = bodies.CompareBody(
        prompt=text,
        backends=[*names],
        model=flags.model,
        system_prompt=flags.system_prompt,
        workdir=real_directory(flags.workdir),
        add_dirs=[directory(path, "--add-dir") for path in flags.add_dir],
        approval_mode=flags.approval_mode,
        sandbox_mode=flags.sandbox_mode,
        allowed_tools=None if flags.allowed_tools is None else list(split_list(flags.allowed_tools)),
        max_turns=flags.max_turns,
        effort=flags.effort,
        output_schema=files.output_schema,
        timeout_secs=flags.timeout or None,
        ephemeral=flags.ephemeral,
        verbose=flags.verbose,
        sequential=flags.sequential,
        isolation=flags.isolation,
        check=flags.check,
        judge=judge,
    )
    plan = bodies.compare(body)
    parts = tuple(replace(part, request=replace(part.request, images=files.images)) for part in plan.parts)
    return replace(plan, parts=parts)
