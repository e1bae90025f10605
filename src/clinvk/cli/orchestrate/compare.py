"""`clinvk compare`: one prompt for several agents."""

from collections.abc import Mapping

from msgspec.structs import replace

from clinvk.backends import registry
from clinvk.cli.orchestrate.driver import run
from clinvk.cli.orchestrate.view import View
from clinvk.cli.parse.flags import CompareFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.prompt.prompt import check, request_of
from clinvk.cli.terminal.input import prompt_from
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import Settings
from clinvk.config.setting_values import split_list
from clinvk.dialects.rest.bodies import JudgeBody, judge_request
from clinvk.runtime.process import executables
from clinvk.types.errors import BackendUnavailable, InvalidRequest
from clinvk.types.orchestration import Compare, Part
from clinvk.types.request import RunRequest


def compare(flags: CompareFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the prompt of the command line and of stdin with several agents; return the exit code.

    Raises:
        ClinvkError: nothing ran.
    """
    no_limit = 0 if flags.timeout == 0 else None
    settings = settings_of(flags, environ, {"unified_flags.command_timeout_secs": no_limit}, notes)
    names = _backends(flags, settings, environ, notes)
    files = check(flags, settings)
    text = prompt_from(flags.words[0] if flags.words else None, None if flags.no_stdin else 0, notes.say)
    plan = _plan(flags, names, request_of(flags, settings, text, files))
    return run(View(flags, settings, environ, notes, has_answers=not flags.quiet, has_differences=flags.diff), plan)


def _backends(flags: CompareFlags, settings: Settings, environ: Mapping[str, str], notes: Notes) -> list[str]:
    """Return the names of the requested backends; `--all-backends` means the available ones."""
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
    available: list[str] = []
    for name, backend in registry.BACKENDS.items():
        try:
            executables.check_enabled(backend, settings)
            executables.require(backend, settings, environ)
        except BackendUnavailable as exc:
            notes.say(f"leaving out {name}: {exc.message}")
        else:
            available.append(name)
    if not available:
        raise BackendUnavailable("no backend is available; see clinvk doctor")
    return available


def _plan(flags: CompareFlags, names: list[str], request: RunRequest) -> Compare:
    if flags.judge_prompt is not None and flags.judge is None:
        raise InvalidRequest("--judge-prompt needs --judge", "--judge-prompt")
    if flags.check is not None and flags.isolation != "worktree":
        raise InvalidRequest("--check is run in worktrees: it needs --isolation worktree", "--check")
    isolation = flags.isolation or "none"
    judge = None if flags.judge is None else JudgeBody(backend=flags.judge, prompt=flags.judge_prompt)
    return Compare(
        prompt=request.prompt,
        parts=tuple(Part(request=replace(request, backend=name), isolation=isolation) for name in names),
        sequential=flags.sequential,
        check=flags.check or "",
        judge=judge and judge_request(judge, request.workdir),
    )
