"""A session that an editor has open: options and prompts."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from clinvk.acp.connection import EditorConnection
from clinvk.acp.updates import TurnUpdates, answer_of, chunk, prompt_of, prompt_result
from clinvk.backends import acp_wire as wire
from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.runtime.runs import Run, Runner
from clinvk.store.protocol import SessionStore
from clinvk.types import errors
from clinvk.types.events import InteractionRequested, InteractionResolved, RunFailed, RunFinished
from clinvk.types.interaction import Interaction
from clinvk.types.interaction_text import content, waiting_note
from clinvk.types.record import Session
from clinvk.types.request import McpServer, RunRequest
from clinvk.types.text import unknown_name

_DEFAULT = "default"
_CANCELLED = wire.Result(stop_reason="cancelled")

logger = logging.getLogger(__name__)


class Rules(Protocol):
    """What an editor may do.

    Attributes:
        starts_programs: whether agents may start MCP servers that the editor names.
    """

    @property
    def starts_programs(self) -> bool: ...  # noqa: D102  # see above

    def complete(self, request: RunRequest) -> RunRequest:
        """Return a request with the options that its prompts have unless the editor chooses others."""
        ...

    async def directory(self, path: str, field: str) -> str:
        """Return the directory of an absolute path.

        Raises:
            InvalidRequest: agents cannot work in the directory; the error names `field`.
        """
        ...

    async def may_use(self, session: Session) -> bool:
        """Return whether the editor may list and continue a stored session."""
        ...


class Context(NamedTuple):
    """What the sessions of an editor share. `agents` are the backends to choose from, the default one first.

    `model` is the first model of the default backend. Questions are asked in tasks of `group`.
    """

    connection: EditorConnection
    store: SessionStore
    runs: Runner
    group: asyncio.TaskGroup
    settings: Settings
    agents: Mapping[str, Backend]
    model: str | None
    rules: Rules


class EditorSession:
    """A session. It is stored with its first prompt; from then on its agent stays.

    Attributes:
        request: the request of each prompt, without the prompt. The options of the session are fields of the request.
    """

    def __init__(self, context: Context, session_id: str, bare: RunRequest, agent: str) -> None:
        self.id = session_id
        self._context = context
        self._bare = bare
        self._choose_agent(agent)
        self._is_busy = self._is_cancelled = False
        self._task: asyncio.Task[object] | None = None

    def connect(self, servers: tuple[McpServer, ...]) -> None:
        """Let the next prompts use other MCP servers of the editor."""
        self._bare = replace(self._bare, mcp_servers=servers)
        self.request = replace(self.request, mcp_servers=servers)

    async def options(self) -> list[wire.ConfigOption]:
        """Return the configuration options."""
        backend = self._context.agents[self.request.backend]
        can, agents = backend.capabilities, await self._stored() and [backend.name]
        models = dict.fromkeys([_DEFAULT, *backend.models, self.request.model or _DEFAULT])
        return [
            self._option("backend", "Agent", None, agents or [*self._context.agents]),
            self._option("model", "Model", "model", [*models]),
            self._option("approval_mode", "Approval", "mode", can.approval_modes),
            self._option("sandbox_mode", "Sandbox", None, can.sandbox_modes),
        ]

    async def state(self) -> wire.Result:
        """Return the options, and the approval modes once more for editors without options."""
        options = await self.options()
        values = next(option for option in options if option.id == "approval_mode").options
        modes = wire.Modes(
            self.request.approval_mode or _DEFAULT, [wire.Mode(each.value, each.name) for each in values]
        )
        return wire.Result(modes=modes, config_options=options)

    async def choose(self, name: str, value: str | bool) -> wire.Result:
        """Set an option. Another agent starts with the options of its settings.

        Raises:
            InvalidRequest: there is no such option or value.
        """
        found = {option.id: [each.value for each in option.options] for option in await self.options()}
        if name not in found:
            raise errors.InvalidRequest(unknown_name("option", name, found), "configId")
        if name == "backend" and value in self._context.agents and value not in found[name]:
            raise errors.InvalidRequest("the agent of a conversation is fixed after the first prompt", "value")
        if value not in found[name]:
            raise errors.InvalidRequest(unknown_name(name, str(value), found[name]), "value")
        if name == "backend":
            self._choose_agent(str(value))
        else:
            self.request = replace(self.request, **{name: None if (name, value) == ("model", _DEFAULT) else value})
        options = await self.options()
        mode = wire.Update(session_update="current_mode_update", current_mode_id=self.request.approval_mode)
        await self.show(mode, wire.Update(session_update="config_option_update", config_options=options))
        return wire.Result(config_options=options)

    def prompt(self, blocks: Sequence[wire.Block]) -> Awaitable[wire.Result]:
        """Begin a turn, and return its work.

        Raises:
            InvalidRequest: the prompt is invalid, or another one is in progress.
        """
        text, images = prompt_of(blocks)
        if self._is_busy:
            raise errors.InvalidRequest("the session has a prompt in progress; session/cancel ends it")
        self._is_busy, self._is_cancelled = True, False
        return self._turn(replace(self.request, prompt=text, images=images))

    def cancel(self) -> None:
        """Cancel the turn in progress, if any."""
        if self._task and not self._is_cancelled:
            self._task.cancel()
        self._is_cancelled = True

    async def show(self, *updates: wire.Update) -> None:
        """Send updates to the editor."""
        for update in updates:
            params = wire.Params(session_id=self.id, update=update)
            await self._context.connection.send(method="session/update", params=params)

    async def _turn(self, request: RunRequest) -> wire.Result:
        updates, self._task = TurnUpdates(self.request.workdir or ""), asyncio.current_task()
        try:
            return _CANCELLED if self._is_cancelled else await self._run(request, updates)
        except asyncio.CancelledError:
            if not (self._is_cancelled and self._task):
                raise
            self._task.uncancel()
            await self.show(*updates.close())
            return _CANCELLED
        finally:
            self._is_busy, self._task = False, None

    async def _run(self, request: RunRequest, updates: TurnUpdates) -> wire.Result:
        """Run a prompt. A session whose agent has reported no conversation begins again."""
        stored = await self._stored()
        is_resumed = stored is not None and stored.backend_session_id is not None
        ids = {"session_id" if is_resumed else "new_session_id": self.id}
        async with self._context.runs.run(replace(request, **ids)) as run:
            await self._follow(run, updates)
        match run.log.ending:
            case RunFailed(code, message) if code != errors.Cancelled.code:
                raise errors.error_from_code(code, message)
            case RunFinished() as ending:
                return prompt_result(ending)
            case _:
                return _CANCELLED

    async def _follow(self, run: Run, updates: TurnUpdates) -> None:
        """Show the events of a run, and ask what the agent asks."""
        questions: dict[str, asyncio.Task[None]] = {}
        try:
            async for logged in run.log.follow():
                await self.show(*updates.feed(logged.event))
                match logged.event:
                    case InteractionRequested(interaction):
                        question = self._ask(interaction, updates)
                        questions[interaction.id] = self._context.group.create_task(question)
                    case InteractionResolved(interaction) if interaction.id in questions:
                        questions[interaction.id].cancel()
                    case _:
                        pass
        finally:
            for question in questions.values():
                question.cancel()

    async def _ask(self, interaction: Interaction, updates: TurnUpdates) -> None:
        """Ask the user in the editor, or say how to answer elsewhere if a permission request cannot ask it."""
        if not (permission := updates.permission(interaction)):
            note = f"\n\n{content(interaction)}\n\n{waiting_note(interaction, interaction.backend)}\n\n"
            await self.show(chunk("agent_message_chunk", note))
            return
        tool, options = permission
        params = wire.Params(session_id=self.id, tool_call=tool, options=options)
        result = await self._context.connection.ask(interaction.id, "session/request_permission", params)
        try:
            await self._context.runs.answer(interaction.id, answer_of(interaction, result))
        except (errors.InteractionAnswered, errors.InteractionEnded):
            pass  # the answer from elsewhere was first
        except Exception:  # the interaction expires, and the turn goes on
            logger.exception("the answer of the editor is lost")

    def _choose_agent(self, agent: str) -> None:
        """Apply the settings for an agent. `default` becomes `ask`, because the editor can ask its user."""
        settings = self._context.settings
        model = self._context.model if agent == settings.default_backend else None
        timeout_s = settings.unified_flags.command_timeout_secs or None
        bare = replace(self._bare, backend=agent, model=model, timeout_s=timeout_s)
        self.request = self._context.rules.complete(bare)
        if self.request.approval_mode == _DEFAULT and "ask" in self._context.agents[agent].capabilities.approval_modes:
            with suppress(errors.BeyondPolicy):
                self.request = self._context.rules.complete(replace(bare, approval_mode="ask"))

    def _option(self, name: str, label: str, category: str | None, values: Sequence[str]) -> wire.ConfigOption:
        options = [wire.ConfigValue(value, value.capitalize()) for value in values]
        return wire.ConfigOption(name, label, "select", category, getattr(self.request, name) or _DEFAULT, options)

    async def _stored(self) -> Session | None:
        try:
            return await self._context.store.session(self.id)
        except errors.SessionNotFound:
            return None
