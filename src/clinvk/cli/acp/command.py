"""`clinvk acp`: serve an editor on stdin and stdout."""

import asyncio
from functools import partial

from msgspec.structs import replace

from clinvk.acp.agent import EditorAgent
from clinvk.acp.session import Context
from clinvk.cli.acp.bridge import KEY_VARIABLE, bridge
from clinvk.cli.acp.stdio import connected
from clinvk.cli.parse.flags import AcpFlags
from clinvk.cli.parse.settings import CommandContext, directory
from clinvk.cli.prompt.display import report_runtime_warnings
from clinvk.cli.prompt.prompt import ServerOrLocalRuns, local_runs
from clinvk.cli.sessions.local_store import open_store
from clinvk.cli.terminal import streams
from clinvk.config.model import Settings, complete
from clinvk.runtime.process import executables
from clinvk.runtime.process.process_scan import private_prefix
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.record import Session
from clinvk.types.request import RunRequest

_MAX_PROCESSES = 16
_IDLE_S = 24 * 60 * 60
"""How many processes are kept for the open sessions, and for how long without a prompt."""


class UserRules:
    """The rules for an editor of the user of this machine: the settings, and no limits."""

    starts_programs = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def complete(self, request: RunRequest) -> RunRequest:
        """Complete a request from the settings."""
        return complete(request, self._settings)

    async def directory(self, path: str, field: str) -> str:
        """Return an existing directory."""
        return directory(path, field)

    async def may_use(self, session: Session) -> bool:
        """Return True: every session of the home belongs to the user."""
        return True


def acp(flags: AcpFlags, context: CommandContext) -> int:
    """Serve an editor on stdin and stdout until the editor closes stdin.

    Raises:
        ClinvkError: the settings are invalid, stdin or stdout is not a pipe, or the server refuses the connection.
    """
    if flags.server:
        streams.run(bridge(flags.server, context.environ.get(KEY_VARIABLE, "")))
        return 0
    found = (
        name for name, each in context.backends.items() if executables.find(each, context.settings, context.environ)
    )
    names = [context.settings.default_backend, *(name for name in found if context.settings.backend(name).enabled)]
    agents = {name: context.backends[name] for name in names}

    async def serve() -> None:
        async with (
            open_store(context) as store,
            local_runs(context, store, _keeping_conversations(context.settings), keeps_warm=True) as local,
            connected() as connection,
            asyncio.TaskGroup() as group,
        ):
            runs = ServerOrLocalRuns(context, store, is_verbose=False, local=local)
            rules = UserRules(context.settings)
            shared = Context(connection, store, runs, group, context.settings, agents, flags.model, rules)
            agent = EditorAgent(shared, partial(_login_problem, context, local.spawner))
            async for message in connection.messages():
                await agent.receive(message)
            agent.close()

    with report_runtime_warnings(context.notes):
        streams.run(serve())
    return 0


async def _login_problem(context: CommandContext, spawner: Spawner, name: str) -> str:
    """Return why an agent cannot be used, with the command that helps; empty if the agent is usable."""
    from clinvk.cli.admin.doctor.agents import check_agent  # an import that prompts do not need

    prefix = f"{private_prefix(spawner.server_id)}login-"
    first, *_ = await check_agent(context.backends[name], context.settings, context.environ, spawner, prefix)
    return f"{name}: {first.message} ({first.fix or 'see `clinvk doctor`'})" if first.status != "ok" else ""


def _keeping_conversations(settings: Settings) -> Settings:
    """Return settings that keep no processes but those without which an open session could not continue."""
    warm = settings.warm
    processes, idle_s = max(warm.max_processes, _MAX_PROCESSES), max(warm.idle_secs, _IDLE_S)
    kept = replace(warm, enabled=True, kept_backends=(), prestart=(), max_processes=processes, idle_secs=idle_s)
    return replace(settings, warm=kept)
