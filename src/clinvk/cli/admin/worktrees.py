"""`clinvk worktrees list`, `show`, `apply` and `discard`."""

import os
from collections.abc import Iterator, Mapping, Sequence

from clinvk.cli.parse.flags import ApplyFlags, DeleteFlags, WorktreesFlags, WorktreeShowFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions import session_text as text
from clinvk.cli.sessions.answers import print_answer, text_view
from clinvk.cli.sessions.local_store import ALL, directory_filter, open_store
from clinvk.cli.terminal import exits, streams
from clinvk.cli.terminal.input import confirm
from clinvk.cli.terminal.output import columns, has_colors, print_bytes, print_json, print_text
from clinvk.cli.terminal.table import Column, one_line, readable_patch
from clinvk.dialects.rest import views
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees, WorktreeApplied, WorktreeListed, kept_worktrees
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.types.choices import state_word
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import ChangedFile
from clinvk.types.prompt_xml import without_context
from clinvk.types.record import RunRecord

_FILES_NAMED = 20


def list_all(flags: WorktreesFlags, context: CommandContext) -> int:
    """Print the worktrees.

    Raises:
        InvalidRequest: `--here` outside of a repository.
    """
    where = directory_filter(flags, flags.here)
    found = streams.run(_worktrees(context).list(where))
    nothing = "no worktrees" if where else "no worktrees; --isolation worktree creates them"
    print_answer(
        flags,
        context,
        lambda: {"worktrees": [*map(_as_json, found)]},
        lambda view: _table(found, context, view),
        "" if found else nothing,
    )
    for listed in () if flags.wants_json else found:
        if listed.problem:
            context.notes.error(f"{listed.id}: {listed.problem}")
    return 0


def _table(found: Sequence[WorktreeListed], context: CommandContext, view: text.TextView) -> list[str]:
    prompts = streams.run(_prompts({listed.id: os.path.realpath(listed.path) for listed in found}, context))
    fields: text.Fields[WorktreeListed] = (
        (Column("ID"), lambda listed: listed.id),
        (Column("STATE"), lambda listed: listed.state),
        (
            Column("FILES", to_right=True),
            lambda listed: str(len(listed.files)) if listed.state in ("changed", "unchanged") else "",
        ),
        (Column("MADE", is_spare=True), lambda listed: view.ago(listed.made_at)),
        (Column("REPOSITORY", 12, from_left=True), lambda listed: view.place(listed.repository)),
        (text.PROMPT, lambda listed: view.title(prompts.get(listed.id, ""))),
    )
    return view.table(fields, found)


def show(flags: WorktreeShowFlags, context: CommandContext) -> int:
    """Print a worktree, the runs of its agents, and the diff: outside of a terminal as a patch for git.

    Raises:
        InvalidRequest: there is no such worktree.
        ClinvkError: with `--diff`, there is no diff.
    """

    async def shown() -> WorktreeListed:
        worktrees = _worktrees(context)
        return await worktrees.show(await worktrees.find(flags.words[0]))

    listed = streams.run(shown())
    patch = listed.patch
    missing = f"{listed.id}: {listed.problem or 'an agent is at work in it: its diff is there when that has ended'}"
    has_head = flags.wants_json or not flags.diff
    if not has_head and patch is None:
        raise ClinvkError(missing)
    runs = streams.run(_runs(os.path.realpath(listed.path), context)) if has_head else []
    if flags.wants_json:
        diff = None if patch is None else patch.decode(errors="replace")
        print_json({**_as_json(listed), "runs": [*map(views.run_item, runs)], "diff": diff})
        return 0
    if has_head:
        print_text("\n".join(_details(listed, runs, text_view(context))))
    if patch:
        _tell_patch(patch, has_head, context.settings.output.color and has_colors(1, context.environ))
    if listed.problem or patch is None:
        context.notes.error(missing)
    return 0


def apply(flags: ApplyFlags, context: CommandContext) -> int:
    """Apply the changes of a worktree to the tree that it was made from.

    Raises:
        InvalidRequest: there is no such worktree, or it is in use or unchanged, or its changes do not apply or are
            applied already.
    """
    context.load()

    async def applied() -> WorktreeApplied:
        worktrees = _worktrees(context)
        return await worktrees.apply(await worktrees.find(flags.words[0]), flags.keep, flags.dry_run)

    done = streams.run(applied())
    for warning in done.warnings:
        context.notes.error(f"{done.id} stays: {warning}")
    verb = "would apply" if flags.dry_run else "applied"
    place = text.directory(done.repository, text.home_of(context.environ.get("HOME")))
    more = len(done.files) - _FILES_NAMED
    lines = [f"{verb} {done.id} to {place}, uncommitted", *map(_named_file, done.files[:_FILES_NAMED])]
    return print_answer(
        flags, context, lambda: done, lambda _: [*lines, *([f"  and {more:,} more"] if more > 0 else [])]
    )


def discard(flags: DeleteFlags, context: CommandContext) -> int:
    """Remove worktrees with all changes in them; ask first on a terminal.

    Raises:
        InvalidRequest: a word matches no worktree, a worktree is in use, or there is no terminal to ask on; nothing
            was removed.
    """
    context.load()
    worktrees = _worktrees(context)

    async def wanted() -> list[str]:
        ids = list(dict.fromkeys([await worktrees.find(word) for word in flags.words]))
        await worktrees.discard(*ids, dry_run=True)  # refuse before the user is asked
        return ids

    ids = streams.run(wanted())
    if not (flags.yes or flags.dry_run):
        files = {listed.id: len(listed.files) for listed in streams.run(_worktrees(context).list())}
        counted = [f"{id_} (changed files: {files.get(id_, 0)})" for id_ in ids]
        if not confirm("discard", counted, "worktrees"):
            context.notes.info("nothing was discarded")
            return exits.CANCELLED
    if not flags.dry_run:
        streams.run(_worktrees(context).discard(*ids))
    verb = "would discard" if flags.dry_run else "discarded"
    answer = {"discarded": ids, "dry_run": flags.dry_run}
    return print_answer(flags, context, lambda: answer, lambda _: [f"{verb} {id_}" for id_ in ids])


def _worktrees(context: CommandContext) -> KeptWorktrees:
    """Return the worktrees of the user's clinvk home, for one event loop."""
    return kept_worktrees(context.home, context.environ)


def _as_json(listed: WorktreeListed) -> dict[str, object]:
    """Return a worktree as JSON; `problem` is null if clinvk can examine the worktree completely."""
    names = ("id", "state", "repository", "path", "branch", "base", "made_at", "files", "problem")
    fields = {name: getattr(listed, name) for name in names}
    return {**fields, "made_at": views.time(listed.made_at), "problem": listed.problem or None}


async def _prompts(directories: Mapping[str, str], context: CommandContext) -> dict[str, str]:
    """Return the first prompt of the newest session in each worktree; `directories` are by the ids of worktrees."""
    prompts: dict[str, str] = {}
    try:
        async with open_store(context) as store:
            for id_, path in directories.items():
                for session in (await store.sessions(SessionQuery(working_dir=path, archived=None, limit=1))).items:
                    prompts[id_] = without_context(session.initial_prompt)
    except ClinvkError as exc:
        context.notes.error(f"the prompts are unknown: {exc.message}")
    return prompts


async def _runs(directory: str, context: CommandContext) -> list[RunRecord]:
    """Return the runs of the sessions in a directory, given without links, oldest first."""
    runs: list[RunRecord] = []
    try:
        async with open_store(context) as store:
            sessions = await store.sessions(SessionQuery(working_dir=directory, archived=None, limit=ALL))
            for session in sessions.items:
                runs += (await store.runs(RunQuery(session_id=session.id, limit=ALL))).items
    except ClinvkError as exc:
        context.notes.error(f"the runs in this worktree are unknown: {exc.message}")
    return sorted(runs, key=lambda run: run.created_at)


def _details(listed: WorktreeListed, runs: Sequence[RunRecord], view: text.TextView) -> Iterator[str]:
    yield from text.named_lines(
        {
            "id": listed.id,
            "state": listed.state,
            "repository": view.directory(listed.repository),
            "directory": view.directory(listed.path),
            "branch": listed.branch,
            "base": listed.base,
            "made": view.when(listed.made_at),
        }
    )
    for run in runs:
        yield from text.named_lines(
            {
                "run": f"{text.short_id(run.id)} ({state_word(run.state)})",
                "backend": text.with_model(run.backend, run.model),
                "session": text.short_id(run.session_id or ""),
                "prompt": text.opening_lines(run.prompt, view.most),
            }
        )
    yield from text.named_lines({"files": str(len(listed.files) or "")})
    yield from map(_named_file, listed.files)


def _tell_patch(patch: bytes, has_head: bool, is_colored: bool) -> None:
    """Print a patch, after an empty line if `has_head`: byte for byte, or on a terminal as readable text."""
    if columns() is not None:
        lines = (line.decode(errors="replace") for line in patch.splitlines(keepends=True))
        patch = "".join(f"{line}\n" for line in readable_patch(lines, is_colored)).encode()
    print_bytes(b"\n" + patch if has_head else patch)


def _named_file(file: ChangedFile) -> str:
    return f"  {file.change:<12}  {one_line(file.path)}"
