"""A stopped prompt on the terminal, with a fake runner."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from clinvk.cli.prompt.display import RunDisplay
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import OutputSettings
from clinvk.types.errors import NotResumable
from clinvk.types.events import Progress, RunFailed, RunFinished
from clinvk.types.request import RunRequest
from known_run import KnownRun


class Stopping(KnownRun):
    """A runner whose run ends as soon as the second of two signals has come. The runner sends both."""

    @asynccontextmanager
    async def run(self, request: RunRequest) -> AsyncGenerator["Stopping"]:
        """Run; the end of it takes until the second signal."""
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            yield self
        finally:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                pass


class NotResuming(KnownRun):
    """A runner whose runs fail in a session, and finish in a new session."""

    @asynccontextmanager
    async def run(self, request: RunRequest) -> AsyncGenerator[KnownRun]:
        """Run."""
        failed = RunFailed(NotResumable.code, "gemini cannot continue; use --new")
        yield KnownRun(request, failed if request.session_id else RunFinished())


class Said(Notes):
    """Keeps the errors and notes."""

    def __init__(self) -> None:
        super().__init__({})
        self.errors: list[str] = []
        self.infos: list[str] = []

    def info(self, message: str) -> None:
        """Keep it."""
        self.infos.append(message)

    def error(self, message: str) -> None:
        """Keep it."""
        self.errors.append(message)


async def test_second_ctrl_c_does_not_interrupt_what_follows_the_run() -> None:
    notes = Said()
    runs = Stopping(RunRequest(prompt="hi", backend="claude"))

    code = await RunDisplay(OutputSettings(format="text"), notes, {}).run(runs.request, "", None, runs)
    await asyncio.sleep(0.2)  # as the store is closed
    assert (code, notes.errors) == (7, ["cancelled"])


async def test_prompt_whose_session_cannot_be_continued_starts_another_session_by_itself() -> None:
    notes = Said()
    request = RunRequest(prompt="hi", backend="gemini", session_id="s")
    runs = NotResuming(request)
    new = RunRequest(prompt="hi", backend="gemini")

    assert await RunDisplay(OutputSettings(format="text"), notes, {}).run(request, "", new, runs) == 0
    assert (notes.infos, notes.errors) == (["gemini cannot continue; starting another session"], [])
    assert await RunDisplay(OutputSettings(format="text"), notes, {}).run(request, "", None, runs) == 4
    assert notes.errors == ["gemini cannot continue; use --new"]


async def test_hint_about_the_machine_is_shown_on_a_terminal_once_in_a_home(tmp_path: Path) -> None:
    run = KnownRun(RunRequest(prompt="hi", backend="claude"))
    shown: list[list[str]] = []
    for is_terminal in (False, True, True):
        notes = Said()
        notes.is_terminal = is_terminal
        display = RunDisplay(OutputSettings(format="text"), notes, {"CLINVK_HOME": str(tmp_path)})
        await display.show(run, Progress("hint", "no shell"), 0.0)
        shown.append(notes.infos)
    assert shown == [[], ["hint: no shell"], []]
