"""`clinvk worktrees commit`: commit the changes of a worktree, with a message that its agent proposes."""

import asyncio
import os

from clinvk.cli.parse.flags import CommitFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.prompt.prompt import ServerOrLocalRuns
from clinvk.cli.sessions.answers import print_answer
from clinvk.cli.sessions.local_store import open_store
from clinvk.cli.terminal import exits, streams
from clinvk.cli.terminal.input import ask_yes_no
from clinvk.config.model import complete
from clinvk.runtime.worktrees.commit_message import message_of, message_request
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees, kept_worktrees
from clinvk.store.protocol import SessionQuery
from clinvk.types.errors import InvalidRequest


def commit(flags: CommitFlags, context: CommandContext) -> int:
    """Commit the changes of a worktree on its branch. Without a message, its agent proposes one.

    Raises:
        InvalidRequest: there is no such worktree, or it is in use or unchanged, or git cannot commit it.
    """
    context.load()
    if flags.model is not None:
        raise InvalidRequest("-m is --model: give the message with --message", "--model")
    id_ = streams.run(_worktrees(context).find(flags.words[0]))
    message = flags.message
    if message is None:
        message = streams.run(_proposed_message(id_, context))
        context.notes.block(message.splitlines())
        asks = not flags.dry_run and context.notes.is_terminal and os.isatty(0)
        if asks and not ask_yes_no("Commit with this message"):
            context.notes.info("nothing was committed")
            return exits.CANCELLED
    if flags.dry_run:
        context.notes.info(f"would commit {id_}")
        return 0
    done = streams.run(_worktrees(context).commit(id_, message))
    line = f"committed {id_} as {done.commit[:12]} on the branch {done.branch}"
    return print_answer(flags, context, lambda: done, lambda _: [line])


async def _proposed_message(id_: str, context: CommandContext) -> str:
    listed = await _worktrees(context).show(id_)
    async with open_store(context) as store:
        directory = await asyncio.to_thread(os.path.realpath, listed.path)
        sessions = await store.sessions(SessionQuery(working_dir=directory, archived=None, limit=1))
        backend, model = next(
            ((each.backend, each.model) for each in sessions.items), (context.settings.default_backend, None)
        )
        request = complete(message_request(id_, listed.patch, listed.path, backend, model), context.settings)
        context.notes.info(f"{backend} proposes a message")
        async with ServerOrLocalRuns(context, store, is_verbose=False).run(request) as run:
            return message_of(await run.log.result())


def _worktrees(context: CommandContext) -> KeptWorktrees:
    return kept_worktrees(context.home, context.environ)
