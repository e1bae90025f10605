"""Show a run on the terminal: the answer on stdout as it arrives, notes on stderr. Signals cancel the run."""

import asyncio
import logging
import os
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.cli.prompt import printers
from clinvk.cli.prompt.status_line import StatusLine, edit_lines
from clinvk.cli.prompt.work_done import WorkDone, changes_in_worktree
from clinvk.cli.sessions.session_text import short_id, short_tokens, tokens
from clinvk.cli.terminal import exits
from clinvk.cli.terminal import output as terminal
from clinvk.cli.terminal.output import STDERR, STDOUT, Notes, columns, renders_markdown
from clinvk.cli.terminal.streams import BrokenStdout, Stdout, on_signals, writable
from clinvk.config.load import home
from clinvk.config.model import OutputSettings
from clinvk.runtime.process.waiting import in_background
from clinvk.types import events
from clinvk.types.errors import Cancelled, NotResumable, SessionError, SessionNotFound
from clinvk.types.interaction import BY_RULES, Interaction
from clinvk.types.request import RunRequest
from clinvk.types.text import without_sequences
from clinvk.types.tool_text import tool_text

if TYPE_CHECKING:
    from clinvk.cli.prompt.questions import TerminalQuestions
    from clinvk.dialects.dialect import Encoder
    from clinvk.runtime.runs import Run, Runner

_LAST_WORDS_TIMEOUT_S = 1.0
_FORCE_AFTER_S = 0.05


class RunDisplay:
    """Shows a run on the terminal: `run` one of its own, `showing` and `show` one that only the store has."""

    def __init__(
        self, output: OutputSettings, notes: Notes, environ: Mapping[str, str], is_verbose: bool = False
    ) -> None:
        is_terminal = os.isatty(1)
        self._explains_json = output.format == "auto" and not is_terminal and notes.is_terminal
        if output.format == "auto":
            output = replace(output, format="text" if is_terminal else "json")
        self._output = output
        self._renders = output.format == "text" and renders_markdown(output, environ)
        self._notes = notes
        self._environ = environ
        self._is_verbose = is_verbose
        self._stdout = Stdout(1)
        self._has_footer = is_terminal and notes.is_terminal and output.format == "text"
        self._status = StatusLine("", is_on=False)
        self._model: str | None = None
        self._ends_line = True
        self._is_moved = False
        self._shown: Run | None = None
        self._printer: Encoder = printers.TextPrinter()
        self._questions: TerminalQuestions | None = None
        self._held: list[events.Logged] = []
        self._number = 0
        self._denied: dict[str, str] = {}
        self._ending: events.Ending | None = None
        self._work: WorkDone | None = None
        self._did: list[str] = []

    @property
    def has_begun(self) -> bool:
        """Whether a run was started."""
        return self._shown is not None

    async def run(self, request: RunRequest, note: str, new_session_request: RunRequest | None, runs: "Runner") -> int:
        """Run a prompt, show the run, and return the exit code. On return, the agent and its children are gone.

        Args:
            request: the prompt.
            note: printed when the run starts; may be empty.
            new_session_request: the prompt in a new session, if the session of `request` may not be resumable.
            runs: starts the run.

        Raises:
            ClinvkError: the prompt was not run.
        """
        if self._explains_json:
            self._notes.info("JSON, since stdout is not a terminal: -o text for text")
        try:
            with _signals_cancel(), report_runtime_warnings(self._notes):
                if lost := await self._play(runs, request, note, is_attempt=new_session_request is not None):
                    assert new_session_request is not None
                    self._notes.info(f"{lost}; starting another session")
                    await self._play(runs, new_session_request, "", is_attempt=False)
        except BrokenStdout:
            return exits.CANCELLED
        except asyncio.CancelledError:
            if self._ending is None:
                await self._finish_cancelled()
            return exits.CANCELLED
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """The exit code of the run, which has ended."""
        assert self._ending is not None
        return printers.exit_code_of_ending(self._ending)

    @asynccontextmanager
    async def showing(self, run: "printers.ShownRun") -> AsyncGenerator[None]:
        """Draw the status line of a run inside the context; `show` prints the events."""
        text: printers.MarkdownPrinter | None = None
        match self._output.format:
            case "json":
                self._printer = printers.JsonPrinter(run, indent=os.isatty(1))
            case "stream-json":
                self._printer = printers.LinesPrinter(run)
            case _ if self._renders and run.request.output_schema is None:
                self._printer = text = printers.MarkdownPrinter(
                    lambda: columns() or 80, partial(terminal.terminal_size, STDOUT)
                )
            case _:
                pass
        is_drawn = self._notes.can_draw and not (self._is_verbose or self._output.format == "stream-json")
        self._status = StatusLine(run.request.backend, is_drawn, text, printers.duration_s(run.facts))
        async with self._status.shown(self._notes):
            yield

    @property
    def _is_rendered(self) -> bool:
        return isinstance(self._printer, printers.MarkdownPrinter)

    async def _play(self, runs: "Runner", request: RunRequest, note: str, is_attempt: bool) -> str | None:
        """Run a prompt and show the run. Of an attempt, return why the session cannot be resumed."""
        lost: str | None = None
        try:
            async with runs.run(request) as run:
                if run.facts.is_steered:
                    from clinvk.cli.prompt import background  # imports that other prompts do not need

                    background.report(run.facts, self._notes, wants_json=self._output.format != "text", prints_id=False)
                    self._ending = events.RunFinished()
                    return None
                self._shown, self._number = run, 0
                if note:
                    self._notes.info(note)
                async with self.showing(run), AsyncExitStack() as stack:
                    if self._has_footer:
                        self._work = WorkDone(run.facts.workdir or os.getcwd(), self._environ)
                        await stack.enter_async_context(in_background(self._work.watch()))
                    async for logged in run.log.follow():
                        match logged:
                            case (1, _, events.RunFailed(code=SessionNotFound.code, message=message)) if is_attempt:
                                self._number, lost = 1, message
                            case (1, _, events.RunFailed(code=NotResumable.code, message=message)) if is_attempt:
                                self._number, lost = 1, message.partition(";")[0]
                            case _:
                                await self._receive(run, logged, partial(self._ask, runs, stack))
            if self._output.format == "text" and (line := await changes_in_worktree(run.facts, self._environ)):
                self._notes.info(line)
        except SessionError as exc:
            if not is_attempt:
                raise
            lost = exc.message
        return lost

    async def _receive(
        self, run: "Run", logged: events.Logged, ask: "Callable[[Run, Interaction], Awaitable[None]]"
    ) -> None:
        """Show an event, or ask what the agent asks. Events are held while a question is on the terminal."""
        self._held.append(logged)
        event, questions = logged.event, self._questions
        if questions and isinstance(event, events.InteractionResolved):
            await questions.close(event.interaction)
        elif questions and isinstance(event, events.RunFinished | events.RunFailed):
            await questions.close_all()
        while self._held and not (questions and questions.pending):
            self._number, at, shown = self._held.pop(0)
            await self.show(run, shown, at)
        if isinstance(event, events.InteractionRequested):
            await ask(run, event.interaction)

    async def _ask(self, runs: "Runner", stack: AsyncExitStack, run: "Run", interaction: Interaction) -> None:
        from clinvk.cli.prompt.questions import Question, TerminalQuestions  # imports that only a question needs

        if not self._questions:
            self._questions = TerminalQuestions(self._notes, self._environ)
            await stack.enter_async_context(in_background(self._questions.run()))
        if self._questions.can_ask or self._output.format != "stream-json":
            workdir = run.request.workdir or os.getcwd()
            self._questions.open(Question(interaction, run.request.backend, workdir, runs.answer))

    async def show(self, run: "printers.ShownRun", event: events.Event, at: float) -> None:
        """Print an event: the answer on stdout, other things on stderr."""
        if isinstance(event, events.RunFinished | events.RunFailed):
            self._ending = event
        if isinstance(event, events.RunStarted):
            self._model = event.model
        if data := self._printer.feed(event, at):
            self._status.hide()
            await self._stdout.write(self._on_own_line(data), is_safe=self._is_rendered)
        self._status.feed(event)
        if (
            self._has_footer
            and not (self._ends_line or self._is_rendered)
            and isinstance(event, events.ToolCall | events.ThinkingDelta | events.InteractionRequested)
        ):
            self._ends_line = self._is_moved = True  # the status line and notes need a line of their own
            await self._stdout.write(b"\n")
        if self._work:
            self._work.feed(event)
            if isinstance(event, events.RunFinished | events.RunFailed):
                self._did = await self._work.lines()
                if self._did and run.facts.session_id:
                    self._did[-1] += " · details: clinvk show"
        await writable(STDERR)  # a stalled reader holds up the agent, but not Ctrl-C
        self._note(run, event)

    def _note(self, run: "printers.ShownRun", event: events.Event) -> None:
        """Print on stderr what stdout does not have."""
        if isinstance(event, events.RunFinished | events.RunFailed):
            self._note_denied(run)  # the ending completes the last line of the answer
        if isinstance(event, events.RunFailed):
            self._notes.footer(*self._did)
            self._notes.error(event.message)
            return
        if self._output.format == "stream-json":
            return
        match event:
            case events.Progress(stage="stderr", message=message):
                self._notes.info(f"{run.request.backend}: {without_sequences(message)}")
            case events.Progress(stage="denied"):  # without the note, the run looks like any other
                self._keep_denied(event)
            case events.UserMessage(text=text) if self._is_verbose or self._notes.is_terminal:
                self._notes.info(f"steered: {text}")
            case events.Progress(stage=stage, message=message) if (
                (stage in ("fallback", "handover") or self._is_verbose or self._notes.is_terminal)
                and stage != "output"
                and not (stage == "hint" and _was_shown(message, self._environ))
            ):
                self._notes.info(f"{stage}: {message}")
            case events.ToolCall() if self._is_verbose:
                self._notes.info(tool_text(event))
                self._notes.block(edit_lines(event, self._notes.has_color))
            case events.RunFinished():
                self._note_finished(run, event)
            case _:
                pass

    def _keep_denied(self, event: events.Progress) -> None:
        """Keep which actions were denied until the end, unless the user has denied all of them here.

        Some agents report again what rules have denied.
        """
        is_known = BY_RULES in self._denied.values() or (self._questions and self._questions.can_ask)
        if event.advice or not is_known:
            self._denied[event.message.partition(" denied: ")[2] or event.message] = event.advice

    def _note_denied(self, run: "printers.ShownRun") -> None:
        for what in self._denied:
            self._notes.info(f"denied: {what}")
        if self._denied and (hint := _remedy(run.request, run.facts.session_id)):
            self._notes.info(hint)

    def _note_finished(self, run: "printers.ShownRun", ending: events.RunFinished) -> None:
        if ending.stop_reason != "end_turn":
            self._notes.info(f"the answer ends early: {ending.stop_reason}")
        if self._has_footer:
            self._notes.footer(*self._did, self._footer(run, ending))
            return
        costs = [f"{tokens(ending.usage)} tokens"] if self._output.show_tokens and ending.usage else []
        costs += [f"{printers.duration_s(run.facts):.1f} s"] if self._output.show_timing else []
        if costs and self._output.format == "text":
            self._notes.info(", ".join(costs))

    def _on_own_line(self, data: bytes) -> bytes:
        """Return the data without the line end that was printed already to make room for the status line."""
        if self._is_moved:
            self._is_moved = False
            data = data.removeprefix(b"\n")
        self._ends_line = data.endswith(b"\n") if data else self._ends_line
        return data

    def _footer(self, run: "printers.ShownRun", ending: events.RunFinished) -> str:
        """Return the model, duration, tokens, cost and session of a run, and how to continue, on one line."""
        facts = run.facts
        parts = [
            self._model or run.request.backend,
            terminal.duration(printers.duration_s(facts)),
            f"{short_tokens(ending.usage)} tokens" if ending.usage else "",
            "" if ending.cost_usd is None else f"${ending.cost_usd:.2f}",
            f"session {short_id(facts.session_id)}" if facts.session_id else "",
        ]
        line = " · ".join(filter(None, parts))
        with_hint = f"{line} (clinvk -c to continue)"
        has_hint = self.has_begun and facts.session_id and len(with_hint) <= (columns() or 80)
        return with_hint if has_hint else line

    async def _finish_cancelled(self) -> None:
        """Show the rest of a cancelled run, without waiting for a stalled reader."""
        self._notes.hurry()
        task = asyncio.current_task()
        while task and task.cancelling():
            task.uncancel()
        ending = events.RunFailed(Cancelled.code, "cancelled")
        if not self._shown:
            self._notes.error(ending.message)
            return
        run = self._shown
        if run.log.ending:
            ending = replace(ending, usage=run.log.ending.usage, cost_usd=run.log.ending.cost_usd)
        try:
            async with asyncio.timeout(_LAST_WORDS_TIMEOUT_S):
                if run.log.ending and self._output.format != "text":  # a reader of text has seen enough
                    await self._show_rest(run)
                await self.show(run, ending, run.facts.ended_at or run.facts.created_at)
        except (TimeoutError, BrokenStdout):
            self._notes.error(ending.message)

    async def _show_rest(self, run: "Run") -> None:
        """Print the output of the agent from its last events to its exit."""
        async for _, at, event in run.log.follow(self._number):
            if not isinstance(event, events.RunFinished | events.RunFailed) and (data := self._printer.feed(event, at)):
                await self._stdout.write(data)


def _was_shown(hint: str, environ: Mapping[str, str]) -> bool:
    """Return whether a hint was shown in this home before, and remember the hint by an empty file."""
    try:
        (home(environ) / f"hint-{zlib.crc32(hint.encode()):08x}").touch(0o600, exist_ok=False)
    except OSError as exc:
        return isinstance(exc, FileExistsError)
    return False


def _remedy(request: RunRequest, session_id: str | None) -> str:
    """Return the command that continues the session and asks about denied actions; empty if the run could ask."""
    if request.approval_mode == "ask":
        return ""
    flags = "--approval-mode ask"
    if request.approval_mode != "always" and request.sandbox_mode in ("read-only", "workspace"):
        flags = f"--sandbox-mode full {flags}"
    return "to be asked: " + (f'clinvk resume {short_id(session_id)} {flags} "go on"' if session_id else flags)


@contextmanager
def _signals_cancel() -> Generator[None]:
    """Cancel the current task on Ctrl-C, SIGTERM and SIGHUP. A second signal cuts the clean-up short."""
    task = asyncio.current_task()
    assert task is not None
    more: list[asyncio.TimerHandle] = []

    def cancel() -> None:
        if task.cancelling():
            # The first cancellation ends the wait for the grace period, the second one the period: the agent is killed.
            more.append(asyncio.get_running_loop().call_later(_FORCE_AFTER_S, task.cancel))
        task.cancel()

    with on_signals(cancel):
        try:
            yield
        finally:
            for each in more:  # the clean-up is done
                each.cancel()


class _RuntimeWarnings(logging.Handler):
    """Prints warnings of the runtime on stderr."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.info(record.getMessage())


@contextmanager
def report_runtime_warnings(notes: Notes) -> Generator[None]:
    """Print what of a run could not be stored, and which notifications failed."""
    names = "clinvk.runtime.run.recording", "clinvk.orchestrate.live", "clinvk.runtime.notifications"
    loggers = [logging.getLogger(name) for name in names]
    handler = _RuntimeWarnings(notes)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
