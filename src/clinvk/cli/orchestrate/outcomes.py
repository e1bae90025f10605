"""The outcome of `parallel`, `chain` and `compare` as JSON, on stdout and in a folder.

The JSON is the REST answer with the field names of the command line.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from clinvk.cli.prompt.printers import TokenUsage, exit_code_of_ending
from clinvk.cli.terminal.output import Notes
from clinvk.cli.terminal.streams import BrokenStdout, Stdout
from clinvk.dialects.rest import batch_answers
from clinvk.orchestrate.observers import EventStream, PartObserver
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Kind, PartResult, Plan, Summary

Json = dict[str, object]

_PART = (
    *("backend", "model", "output", "error", "error_code", "duration_seconds", "exit_code", "session_id", "run_id"),
    *("usage", "cost_usd", "structured_output", "meta"),
    *("diff", "diff_is_cut", "files", "branch", "worktree", "check", "warnings"),
)
_JUDGE = (
    *("backend", "best", "best_backend", "reasons", "order"),
    *("error", "duration_seconds", "run_id", "usage", "cost_usd"),
)
_NULLABLE = ("model", "best", "best_backend")
_WHOLE = (
    *("total_tasks", "completed", "failed", "cancelled", "total_steps", "completed_steps", "failed_step"),
    *("prompt", "backends", "total_duration_seconds", "run_id", "warnings", "results", "judge"),
)


def outcome(summary: Summary) -> Json:
    """Return the outcome of an orchestration."""
    fields: Json = msgspec.to_builtins(batch_answers.answer(summary))
    fields["total_duration_seconds"] = round(summary.duration_s, 3)
    fields["results"] = [part_outcome(result, summary.plan.kind) for result in summary.results]
    if verdict := summary.verdict:
        judge = msgspec.convert(fields["judge"], Json)
        fields["judge"] = _part(judge, verdict.result, _JUDGE)
    return {name: fields[name] for name in _WHOLE if name in fields}


def part_outcome(result: PartResult, kind: Kind) -> Json:
    """Return the outcome of a part; `exit_code` is the exit code of `clinvk PROMPT` for the same run.

    `index` counts from 0, `step` from 1.
    """
    part = result.part
    match kind:
        case "parallel":
            identity: Json = {"index": result.index, "task_id": part.id, "task_name": part.name}
        case "chain":
            identity = {"step": result.index + 1, "name": part.name}
        case "compare":
            identity = {"index": result.index}
    return identity | _part(msgspec.to_builtins(batch_answers.part_answer(result, kind)), result, _PART)


def _part(answer: Json, result: PartResult, names: Iterable[str]) -> Json:
    """Select the named fields of a part's answer; drop empty fields."""
    usage = result.result.usage
    fields = answer | {
        "model": answer.get("model"),
        "duration_seconds": round(result.duration_s, 3),
        "exit_code": exit_code_of_ending(result.result.ending),
        "usage": msgspec.convert(usage, TokenUsage | None, from_attributes=True),
        "branch": result.change.branch if result.change and result.change.kept else None,
    }
    return {name: fields[name] for name in names if name in _NULLABLE or fields.get(name) is not None}


def event_printer(plan: Plan, stop: Callable[[], None]) -> PartObserver:
    """Return an observer that prints events as they happen, and calls `stop` once stdout is closed."""
    stdout = Stdout(1)

    async def write(lines: Iterable[bytes]) -> None:
        try:
            await stdout.write(b"".join(lines))
        except BrokenStdout:
            stop()

    return EventStream(plan, write)


def last_line(summary: Summary) -> str:
    """Return the outcome as the last line of a stream."""
    return msgspec.json.encode({"type": "summary", **outcome(summary)}).decode()


_NAME_CHARS = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class OutputFolder(PartObserver):
    """Writes the outcome of each task as soon as the task ends. Only the first error is reported.

    The folder is held open: files land in the folder even if an agent moves the folder or replaces its path.
    """

    def __init__(self, fd: int, path: str, total: int, notes: Notes) -> None:
        self.has_failed = False
        self._fd = fd
        self._path = path
        self._digits = len(str(total - 1))
        self._notes = notes
        self._written: set[int] = set()

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)

    async def ended(self, result: PartResult) -> None:
        """Write the outcome of a task."""
        await asyncio.to_thread(self._write_part, result)

    def write_summary(self, summary: Summary) -> None:
        """Write the outcome of all tasks, and of each task whose end was not observed because stderr was blocked."""
        for result in summary.results:
            if result.index not in self._written:
                self._write_part(result)
        self._write("summary.json", outcome(summary))

    def _write_part(self, result: PartResult) -> None:
        self._written.add(result.index)
        name = _UNSAFE.sub("-", result.part.name or result.part.id)[:_NAME_CHARS].strip("-.")
        self._write(
            f"{result.index:0{self._digits}}{f'-{name}' if name else ''}.json", part_outcome(result, "parallel")
        )

    def _write(self, name: str, value: object) -> None:
        """Write a file whole or not at all, in place of a file or link of the same name."""
        temporary = f".{name}.{os.urandom(4).hex()}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._fd)
            try:
                with open(fd, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
                os.replace(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                os.unlink(temporary, dir_fd=self._fd)
                raise
        except OSError as exc:
            if not self.has_failed:
                self._notes.error(f"output_dir: {self._path}/{name} cannot be written: {exc.strerror}")
            self.has_failed = True


def open_output_folder(path: str, base: str, total: int, notes: Notes) -> OutputFolder:
    """Create the folder if it is missing, and open it for the outcomes of `total` tasks.

    Raises:
        InvalidRequest: the folder is outside of the directory `base`, or cannot be created or written.
    """
    field = "output_dir"
    real = os.path.realpath(os.path.join(base, os.path.expanduser(path)))
    root = os.path.realpath(base)
    if os.path.commonpath([root, real]) != root:
        raise InvalidRequest(f"output_dir: {path!r} is outside the working directory {root!r}", field)
    try:
        Path(real).mkdir(parents=True, exist_ok=True)
        if not os.access(real, os.W_OK | os.X_OK):
            raise InvalidRequest(f"output_dir: {path!r} cannot be written to", field)
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequest(f"output_dir: {path!r} cannot be used: {why}", field) from exc
    return OutputFolder(fd, real, total, notes)
