"""Interactions of agents on the terminal, handled one after the other."""

import asyncio
import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.cli.prompt import interaction_text as text
from clinvk.cli.sessions.session_text import directory, home_of
from clinvk.cli.terminal.keys import Interrupted, Keyboard, keyboard_fd
from clinvk.cli.terminal.output import STDERR, Notes, terminal_size, write
from clinvk.runtime.process.orphans import children
from clinvk.types.errors import ClinvkError, InteractionAnswered, InteractionEnded, InvalidRequest, StoreUnavailable
from clinvk.types.interaction import Interaction, InteractionAnswer, check_answer
from clinvk.types.interaction_text import answer_command, content, waiting_note

_ROWS_AROUND = 7
_LEAST_ROWS = 8
_LEAST_COLUMNS = 24
_NO_BRACKETS = str.maketrans("", "", "[]")

Answer = Callable[[str, InteractionAnswer], Coroutine[Any, Any, object]]
"""Passes on the answer to an interaction."""


class Question(NamedTuple):
    """What an agent asks: `agent` is how the user knows the agent, `workdir` the directory of the run."""

    interaction: Interaction
    agent: str
    workdir: str
    answer: Answer


class TerminalQuestions:
    """Asks while `run` runs. Without a terminal, a note says how to answer elsewhere."""

    def __init__(self, notes: Notes, environ: Mapping[str, str]) -> None:
        self._notes = notes
        self._environ = environ
        self._fd = keyboard_fd()
        self._pending: dict[str, Question] = {}
        self._sent: dict[str, InteractionAnswer] = {}
        self._queue: asyncio.Queue[Question] = asyncio.Queue()
        self._current = ""
        self._keyboard: Keyboard | None = None
        self._idle = asyncio.Event()

    @property
    def can_ask(self) -> bool:
        """Whether there is a terminal to ask on."""
        return self._fd is not None

    @property
    def pending(self) -> list[Interaction]:
        """The interactions on the terminal that are not resolved yet. Nothing else should be printed meanwhile."""
        return [question.interaction for question in self._pending.values()]

    def open(self, question: Question) -> None:
        """Ask a question after all questions that were opened before."""
        if self._fd is None:
            self._notes.info(waiting_note(question.interaction, question.agent))
            return
        self._pending[question.interaction.id] = question
        self._queue.put_nowait(question)

    async def close(self, resolved: Interaction) -> None:
        """Take back a question that is resolved; report an answer from elsewhere. Wait until the terminal is free."""
        self._pending.pop(resolved.id, None)
        if self._current == resolved.id and self._keyboard:
            self._keyboard.interrupt()
            await self._idle.wait()
        elif resolved.id not in self._sent:
            return
        if self._sent.pop(resolved.id, None) != resolved.answer or resolved.answer is None:
            self._notes.info(text.outcome(resolved))

    async def close_all(self) -> None:
        """Take back all questions of a run that has ended."""
        for interaction in self.pending:
            await self.close(replace(interaction, status="withdrawn"))

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            question = await self._queue.get()
            if question.interaction.id in self._pending and self._fd is not None:
                await self._ask(question, self._fd)

    async def _ask(self, question: Question, fd: int) -> None:
        id_ = self._current = question.interaction.id
        self._idle.clear()
        self._notes.is_asking = True
        try:
            with Keyboard(fd) as self._keyboard:
                self._sent[id_] = answer = await _Dialog(question, self._keyboard, self._notes, self._environ).run()
            await question.answer(id_, answer)
        except Interrupted:
            if id_ in self._pending:  # the terminal is gone
                self._fd = None
        except (InteractionAnswered, InteractionEnded):
            pass  # `close` reports the answer that was first
        except ClinvkError as exc:
            self._notes.error(exc.message)
            if isinstance(exc, StoreUnavailable):
                self._queue.put_nowait(question)
        finally:
            self._notes.is_asking = False
            self._keyboard, self._current = None, ""
            self._idle.set()


class _Dialog:
    """The dialog about one interaction."""

    def __init__(self, question: Question, keyboard: Keyboard, notes: Notes, environ: Mapping[str, str]) -> None:
        self._interaction = question.interaction
        self._question = question
        self._keyboard = keyboard
        self._notes = notes
        self._environ = environ
        self._input: dict[str, object] | None = None
        self._content = content(question.interaction)

    async def run(self) -> InteractionAnswer:
        """Ask until the answer is valid.

        Raises:
            Interrupted: the interaction was resolved elsewhere, or the terminal is gone.
        """
        self._show()
        answer = await self._reply() if self._interaction.fields else None
        while not answer:
            write(STDERR, f"{'  '.join(key.label for key in self._keys.values())}: ")
            try:
                key = await self._pressed()
            except BaseException:
                write(STDERR, "\n")
                raise
            write(STDERR, f"{key.label.translate(_NO_BRACKETS)}\n")
            answer = await self._perform(key.action)
        return answer

    async def _perform(self, action: str) -> InteractionAnswer | None:
        """Handle a key press; return the answer if the key answers the question."""
        match action:
            case "help":
                lines = [f"  {name:6}  {key.help}" for name, key in self._keys.items()]
                lines += ["  Ctrl-C  cancel the run", f"In another terminal: {answer_command(self._interaction)}"]
                self._notes.block(lines)
            case "view":
                await self._view()
            case "edit":
                await self._edit()
            case "answer":
                return await self._reply()
            case "deny" if self._interaction.accepts_reason:
                reason = await self._keyboard.line("Reason for the agent (Enter: none, Ctrl-D: back): ")
                return None if reason is None else InteractionAnswer(choice="deny", reason=reason.strip())
            case choice:
                changed = self._input if choice == "allow" else None
                return msgspec.convert({"choice": choice, "input": changed}, InteractionAnswer)
        return None

    def _show(self) -> None:
        """Print the question."""
        interaction = self._interaction
        place = directory(interaction.workdir or self._question.workdir, home_of(self._environ.get("HOME")))
        columns, rows = terminal_size(STDERR)
        is_colored = self._notes.has_color and interaction.diff is not None and self._input is None
        columns, rows = max(columns, _LEAST_COLUMNS), max(rows - _ROWS_AROUND, _LEAST_ROWS)
        lines, missing = text.question_lines(self._content, columns, rows, is_colored)
        more = [f"    … {missing:,} more characters"] if missing else []
        head = text.headline(interaction, self._question.agent, place)
        self._notes.block(["", head, "", *lines, *more, ""])
        self._keys = text.keys_of(interaction, bool(missing), self._input is not None)

    async def _pressed(self) -> text.Key:
        while True:
            if key := self._keys.get((await self._keyboard.key()).lower()):
                return key

    async def _reply(self) -> InteractionAnswer | None:
        """Ask for the fields of a question; return None if the user leaves a field empty."""
        answers: dict[str, str | list[str]] = {}
        for field in self._interaction.fields:
            while field.id not in answers:
                line = await self._keyboard.line(text.field_question(field))
                if not line or not line.strip():
                    return None
                answer = InteractionAnswer(choice="answer", answers={field.id: text.field_value(field, line)})
                try:
                    check_answer(replace(self._interaction, fields=(field,)), answer)
                    answers |= answer.answers
                except InvalidRequest as exc:
                    self._notes.error(exc.message)
        return InteractionAnswer(choice="answer", answers=answers)

    async def _view(self) -> None:
        pager = shlex.split(self._environ.get("PAGER") or "less")
        lines = text.safe_lines(self._content)
        if await self._opened(pager, "\n".join(lines), ".txt") is None:
            self._notes.block(lines)

    async def _edit(self) -> None:
        """Let the user change the command, or the input as JSON, and show the change."""
        before = self._interaction.input if self._input is None else self._input
        command = before.get("command") if self._interaction.command is not None else None
        old = command if isinstance(command, str) else json.dumps(before, indent=2, ensure_ascii=False)
        if editor := shlex.split(self._environ.get("VISUAL") or self._environ.get("EDITOR") or ""):
            new = await self._opened(editor, old, ".json" if command is None else ".sh")
        else:
            kind = "input as JSON" if command is None else "command"
            new = await self._keyboard.line(f"New {kind} (Enter: unchanged): ")
        if new is None or new.strip() in ("", old.strip()):
            return
        new = new.rstrip("\n")
        try:
            value = json.loads(new) if command is None else {**before, "command": new}
            self._input = msgspec.convert(value, dict[str, object])
        except (ValueError, RecursionError) as exc:
            self._notes.error(f"not changed: not a JSON object: {exc}")
            return
        changed = replace(self._interaction, command=new, input=self._input)
        self._content = new if command is None else content(changed)
        self._show()

    async def _opened(self, program: Sequence[str], content: str, suffix: str) -> str | None:
        """Open a text in a program on the terminal, and return the text after that; None if the program failed."""

        def open_file(fd: int) -> str:
            with tempfile.TemporaryDirectory(prefix="clinvk-") as folder:
                file = Path(folder, f"approval{suffix}")
                file.write_text(content, errors="replace")
                with children.untagged():
                    process = subprocess.Popen([*program, str(file)], stdin=fd, stdout=STDERR)
                if code := process.wait():
                    raise subprocess.CalledProcessError(code, process.args)
                return file.read_text(errors="replace")

        try:
            return await self._keyboard.lend(open_file)
        except (OSError, subprocess.CalledProcessError) as exc:
            self._notes.error(f"{program[0]!r} failed: {exc}")
            return None
