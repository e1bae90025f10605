"""What an agent did in a run, as lines before the footer: changed files, and commands that failed."""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from clinvk.cli.terminal.table import cut
from clinvk.config.load import home
from clinvk.types import events
from clinvk.types.errors import ClinvkError
from clinvk.types.record import worktree_of
from clinvk.types.run import RunFacts
from clinvk.types.tool_text import edited_paths, tool_action

if TYPE_CHECKING:
    from clinvk.runtime.worktrees.diff import FileChange
    from clinvk.runtime.worktrees.tree_changes import Changes

_LOOK_TIMEOUT_S = 5.0
_MAX_NAMED = 10
_COMMAND_SHOWN = 60
_EXIT = re.compile(r"exit code (\d+)", re.IGNORECASE)
_LETTERS = {"A": " (new)", "D": " (deleted)"}


class WorkDone:
    """The work of a run in a directory. `watch` runs alongside; without git, the agent's own edits are named."""

    def __init__(self, directory: str, environ: Mapping[str, str]) -> None:
        self._directory = os.path.realpath(directory)
        self._environ = environ
        self._calls: dict[str, events.ToolCall] = {}
        self._edited: dict[str, None] = {}
        self._failed: dict[str, str] = {}
        self._changes: Changes | None = None
        self._has_looked = asyncio.Event()
        self._has_worked = self._is_late = False

    async def watch(self) -> None:
        """Take a snapshot of the files at once, for comparison, and keep the snapshot until cancelled."""
        from clinvk.runtime.process import process_tags  # imports while the model thinks
        from clinvk.runtime.process.spawn import Spawner
        from clinvk.runtime.worktrees.git import Git
        from clinvk.runtime.worktrees.tree_changes import tree_changes

        git = Git(Spawner(process_tags.choose_tags()), self._environ, self._directory)
        try:
            with suppress(ClinvkError, OSError, ValueError):  # the lines are not worth the end of the run
                async with asyncio.timeout(_LOOK_TIMEOUT_S) as limit:
                    async with tree_changes(git, self._directory, str(home(self._environ))) as self._changes:
                        limit.reschedule(None)
                        self._has_looked.set()
                        await asyncio.Event().wait()
        finally:
            self._changes = None
            self._has_looked.set()

    def feed(self, event: events.Event) -> None:
        """Take an event of the run."""
        if isinstance(event, events.ToolCall):
            self._calls[event.id] = event
            self._has_worked = True
            self._is_late = self._is_late or not self._has_looked.is_set()
        elif isinstance(event, events.ToolResult) and (call := self._calls.pop(event.id, None)):
            self._take(call, event)

    def _take(self, call: events.ToolCall, result: events.ToolResult) -> None:
        if not call.input.keys() & {"command", "cmd"}:
            if not result.is_error:
                self._edited |= dict.fromkeys(edited_paths(call))
            return
        command = tool_action(call)[1]
        self._failed.pop(command, None)
        found = _EXIT.match(result.output)
        if result.is_error and (found or (call.name == "command_execution" and result.output != "declined")):
            self._failed[command] = f" (exit {found[1]})" if found else ""

    async def lines(self) -> list[str]:
        """Return the lines; `watch` still runs. An agent that has used no tool has done nothing."""
        if not self._has_worked:
            return []
        changed = [*map(self._shown, self._edited)]
        with suppress(ClinvkError, OSError, ValueError):
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                await self._has_looked.wait()
                if self._changes:
                    found = {self._shown(file.path): self._change(file) for file in await self._changes()}
                    missed = changed if self._is_late else ()  # the snapshot may have the first changes already
                    changed = [*found.values(), *(path for path in missed if path not in found)]
        failed = [f"{cut(command, _COMMAND_SHOWN)}{code}" for command, code in self._failed.items()]
        return [*_line("changed", changed), *_line("failed", failed)]

    def _change(self, file: "FileChange") -> str:
        counts = f" +{file.added} \N{MINUS SIGN}{file.deleted}" if file.added or file.deleted else ""
        return f"{self._shown(file.path)}{_LETTERS.get(file.letter, counts)}"

    def _shown(self, path: str) -> str:
        return os.path.relpath(os.path.join(self._directory, path), self._directory)


async def changes_in_worktree(facts: RunFacts, environ: Mapping[str, str]) -> str:
    """Return where the changes of a run are that works in a worktree; empty if the run has changed nothing."""
    if not (id_ := worktree_of(facts.workdir)):
        return ""
    from clinvk.runtime.worktrees.kept_worktrees import kept_worktrees  # only a worktree needs the import

    with suppress(ClinvkError, OSError):
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            if (await kept_worktrees(home(environ), environ).changes(id_, facts.run_id)).files:
                return f"changes are in worktree {id_}: clinvk worktrees show {id_}, or apply {id_}"
    return ""


def _line(head: str, items: Sequence[str]) -> list[str]:
    more = f" + {len(items) - _MAX_NAMED:,} more" if len(items) > _MAX_NAMED else ""
    return [f"{head}: {', '.join(items[:_MAX_NAMED])}{more}"] if items else []
