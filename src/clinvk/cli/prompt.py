"""`clinvk PROMPT`: one run, shown as it goes."""

import asyncio
import logging
import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import msgspec

from clinvk.backends.base import describe
from clinvk.cli import exits
from clinvk.cli.flags import PromptFlags
from clinvk.cli.notes import Notes
from clinvk.cli.printers import JsonPrinter, LinesPrinter, Printer, TextPrinter, duration_s
from clinvk.cli.settings import directory, settings_of
from clinvk.cli.stdin import prompt_from
from clinvk.cli.stdout import ReaderGone, Stdout
from clinvk.config import Settings, complete
from clinvk.config.values import split_list
from clinvk.errors import Cancelled
from clinvk.events import Ending, Event, Progress, RunFailed, RunFinished, ToolCall, Usage
from clinvk.request import RunRequest
from clinvk.runtime.runs import LocalRuns, Run
from clinvk.store.memory import MemoryStore

_LAST_WORDS_WITHIN_S = 1.0
_FORCE_AFTER_S = 0.05
_INPUT_SHOWN = 200


def prompt(flags: PromptFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the prompt of the command line and of stdin; give the exit code.

    Raises:
        ClinvkError: nothing was run.
    """
    settings = settings_of(flags, environ, {})
    notes = notes if settings.output.color else Notes(environ, color=False)
    request = _request(flags, settings)
    text = prompt_from(flags.words[0] if flags.words else None, None if flags.no_stdin else 0, notes.say)
    request = msgspec.structs.replace(request, prompt=text)
    if not flags.verbose:
        logging.getLogger("clinvk").addHandler(logging.NullHandler())
    if settings.unified_flags.dry_run:
        return asyncio.run(_describe(request, settings, environ))
    return asyncio.run(_Show(request, settings, notes).run(environ))


def _request(flags: PromptFlags, settings: Settings) -> RunRequest:
    timeout_s = settings.unified_flags.command_timeout_secs if flags.timeout is None else flags.timeout
    request = RunRequest(
        prompt="",
        backend=settings.default_backend,
        model=flags.model,
        system_prompt=flags.system_prompt,
        workdir=directory("." if flags.workdir is None else flags.workdir, "--workdir"),
        add_dirs=tuple(directory(path, "--add-dir") for path in flags.add_dir),
        approval_mode=flags.approval_mode,
        sandbox_mode=flags.sandbox_mode,
        allowed_tools=None if flags.allowed_tools is None else split_list(flags.allowed_tools),
        max_turns=flags.max_turns,
        timeout_s=timeout_s or None,
        ephemeral=flags.ephemeral,
        verbose=flags.verbose,
    )
    return complete(request, settings)


async def _describe(request: RunRequest, settings: Settings, environ: Mapping[str, str]) -> int:
    """Show what would be run."""
    async with LocalRuns(settings, MemoryStore(), environ) as runs:
        launch = await runs.plan(request)
    await Stdout(1).write(f"{describe(launch, len(request.prompt.encode()))}\n".encode())
    return 0


class _Show:
    """One run on the terminal."""

    def __init__(self, request: RunRequest, settings: Settings, notes: Notes) -> None:
        self._request = request
        self._settings = settings
        self._output = settings.output
        self._notes = notes
        self._stdout = Stdout(1)
        self._ending: Ending | None = None

    async def run(self, environ: Mapping[str, str]) -> int:
        """Run, show, and give the exit code. When it returns, the agent and all that it started are gone."""
        shown: tuple[Run, Printer] | None = None
        try:
            with _signals_cancel():
                async with LocalRuns(self._settings, MemoryStore(), environ) as runs, runs.run(self._request) as run:
                    shown = run, self._printer(run)
                    async for _, at, event in run.follow():
                        await self._event(*shown, event, at)
        except ReaderGone:
            return exits.CANCELLED
        except asyncio.CancelledError:
            if self._ending is None:
                await self._cancelled(shown)
            return exits.CANCELLED
        assert self._ending is not None
        return exits.of_ending(self._ending)

    def _printer(self, run: Run) -> Printer:
        match self._output.format:
            case "text":
                return TextPrinter()
            case "json":
                return JsonPrinter(run, indent=os.isatty(1))
            case "stream-json":
                return LinesPrinter(run, self._request.workdir or "")

    async def _event(self, run: Run, printer: Printer, event: Event, at: float) -> None:
        if isinstance(event, RunFinished | RunFailed):
            self._ending = event
        if data := printer.feed(event, at):
            await self._stdout.write(data)
        self._remark(run, event)

    def _remark(self, run: Run, event: Event) -> None:
        """Say on stderr what stdout does not tell."""
        if isinstance(event, RunFailed):
            self._notes.error(event.message)
            return
        if self._output.format == "stream-json":
            return
        match event:
            case Progress(stage="stderr", message=message):
                self._notes.say(f"{run.request.backend}: {message}")
            case Progress(stage=stage, message=message) if self._request.verbose or self._notes.is_terminal:
                self._notes.say(f"{stage}: {message}")
            case ToolCall(name=name, input=given) if self._request.verbose:
                self._notes.say(f"{name} {msgspec.json.encode(given).decode()[:_INPUT_SHOWN]}")
            case RunFinished():
                self._finished(run, event)
            case _:
                pass

    def _finished(self, run: Run, ending: RunFinished) -> None:
        if ending.stop_reason != "end_turn":
            self._notes.say(f"the answer ends early: {ending.stop_reason}")
        costs = [_tokens(ending.usage)] if self._output.show_tokens and ending.usage else []
        costs += [f"{duration_s(run):.1f} s"] if self._output.show_timing else []
        if costs and self._output.format == "text":
            self._notes.say(", ".join(costs))

    async def _cancelled(self, shown: tuple[Run, Printer] | None) -> None:
        """Show what there is. A reader who pauses is not waited for."""
        task = asyncio.current_task()
        while task and task.cancelling():
            task.uncancel()
        ending = RunFailed(Cancelled.code, "cancelled")
        if not shown:
            self._notes.error(ending.message)
            return
        run, printer = shown
        try:
            async with asyncio.timeout(_LAST_WORDS_WITHIN_S):
                await self._event(run, printer, ending, run.ended_at or run.created_at)
        except (TimeoutError, ReaderGone):
            self._notes.error(ending.message)


def _tokens(usage: Usage) -> str:
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} tokens in{cached}, {usage.output_tokens:,} out"


@contextmanager
def _signals_cancel() -> Generator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP cancel the current task; once more, they cut its clean-up short.

    A signal that clinvk was started to ignore (nohup, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        if task.cancelling():
            # The first of these ends the wait for the agent's grace, the second the grace itself: it is killed.
            loop.call_later(_FORCE_AFTER_S, task.cancel)
        task.cancel()

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    for number in numbers:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
