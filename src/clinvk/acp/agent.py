"""An agent of the Agent Client Protocol, version 1, for an editor."""

import logging
import os
import re
from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace

from clinvk import __version__
from clinvk.acp.connection import METHOD_NOT_FOUND, Id, Incoming
from clinvk.acp.session import Context, EditorSession
from clinvk.acp.updates import TurnUpdates, chunk
from clinvk.backends import acp_wire as wire
from clinvk.dialects.rest.views import time
from clinvk.runtime.process import executables
from clinvk.store.protocol import RunQuery, SessionQuery, page_offset
from clinvk.types.errors import AgentUnauthenticated, ClinvkError, InvalidRequest, SessionNotFound
from clinvk.types.prompt_xml import without_context
from clinvk.types.record import Session
from clinvk.types.request import McpServer, RunRequest
from clinvk.types.text import on_one_line, unknown_name

_VERSION = 1
_LOGIN = wire.AuthMethod(
    "Log in with the agent's own program",
    "Run `clinvk doctor` in a terminal: it shows which agents need a login, and the command that logs in.",
    "agent-login",
)
_CAPABILITIES = wire.AgentCapabilities(
    load_session=True,
    prompt_capabilities=wire.PromptCapabilities(image=True, embedded_context=True),
    mcp_capabilities=wire.McpCapabilities(http=True),
    session_capabilities=wire.SessionCapabilities(list={}, resume={}, close={}, additional_directories={}),
)
_PAGE = 100
"""How many sessions a page of `session/list` has."""

_ALL = 2**31 - 1
_MAX_TITLE = 50

_NOT_IN_NAMES = re.compile(r"[^\w-]", re.ASCII)
"""Characters that some agents refuse in the name of an MCP server."""

logger = logging.getLogger(__name__)


class EditorAgent:
    """The agent that an editor talks to. What takes long is a task; other requests are answered in order."""

    def __init__(self, context: Context, login_problem: Callable[[str], Awaitable[str]] | None = None) -> None:
        self._context = context
        self._login_problem = login_problem
        self._sessions: dict[str, EditorSession] = {}
        self._methods: dict[str, Callable[[wire.Request], Awaitable[wire.Result]]] = {
            "initialize": self._initialize,
            "authenticate": self._authenticate,
            "session/new": self._new,
            "session/load": self._load,
            "session/resume": self._resume,
            "session/list": self._list,
            "session/close": self._close,
            "session/set_mode": self._set_mode,
            "session/set_config_option": lambda request: self._session(request).choose(
                request.config_id, request.value
            ),
            "session/prompt": lambda request: self._session(request).prompt(request.prompt),
        }

    async def receive(self, message: Incoming) -> None:
        """Handle a request or a notification; a notification gets no answer."""
        try:
            request = msgspec.convert(message.params or {}, wire.Request)
            if message.id is None:
                if message.method == "session/cancel":
                    self._session(request).cancel()
            elif not (method := self._methods.get(message.method)):
                await self._context.connection.refuse(
                    message.id, METHOD_NOT_FOUND, f"unknown method {message.method!r}"
                )
            elif message.method in ("session/prompt", "session/load", "session/list", "authenticate"):
                self._context.group.create_task(self._respond(message.id, method(request)))
            else:
                await self._respond(message.id, method(request))
        except (ClinvkError, msgspec.ValidationError) as exc:
            if message.id is not None:
                await self._context.connection.fail(message.id, exc)

    def close(self) -> None:
        """Cancel all turns."""
        for session in self._sessions.values():
            session.cancel()

    async def _respond(self, id_: Id, work: Awaitable[wire.Result]) -> None:
        try:
            await self._context.connection.send(id=id_, result=await work)
        except ClinvkError as exc:
            await self._context.connection.fail(id_, exc)
        except Exception as exc:
            logger.exception("a request of the editor failed")
            await self._context.connection.fail(id_, exc)

    async def _initialize(self, _: wire.Request) -> wire.Result:
        return wire.Result(
            protocol_version=_VERSION,
            agent_capabilities=_CAPABILITIES,
            agent_info={"name": "clinvk", "version": __version__},
            auth_methods=[_LOGIN] if self._login_problem else [],
        )

    async def _authenticate(self, request: wire.Request) -> wire.Result:
        """Check the login of the agents of the open sessions, or of the default agent.

        Raises:
            AgentUnauthenticated: an agent is not logged in; the message has the command that logs in.
        """
        if request.method_id != _LOGIN.id or not self._login_problem:
            raise InvalidRequest(unknown_name("methodId", request.method_id, [str(_LOGIN.id)]), "methodId")
        opened = dict.fromkeys(session.request.backend for session in self._sessions.values())
        for name in opened or [self._context.settings.default_backend]:
            if problem := await self._login_problem(name):
                raise AgentUnauthenticated(problem)
        return wire.Result()

    async def _new(self, request: wire.Request) -> wire.Result:
        bare = await self._bare(request, request.cwd)
        session = self._open(os.urandom(16).hex(), bare, next(iter(self._context.agents)))
        return replace(await session.state(), session_id=session.id)

    async def _resume(self, request: wire.Request) -> wire.Result:
        """Return the state of a session, which is stored or open."""
        if request.cwd is not None:
            _absolute(request.cwd, "cwd")
        if session := self._sessions.get(request.session_id):
            session.connect(self._mcp_servers(request))
            return await session.state()
        stored = await self._context.store.session(request.session_id)
        if not await self._context.rules.may_use(stored):
            raise SessionNotFound(f"session {request.session_id!r:.100} is not one that this client may use")
        if stored.backend not in self._context.agents:
            raise InvalidRequest(unknown_name("agent", stored.backend, self._context.agents))
        bare = await self._bare(request, stored.working_dir or request.cwd)
        session = self._sessions.get(stored.id) or self._open(stored.id, bare, stored.backend)
        return await session.state()

    async def _load(self, request: wire.Request) -> wire.Result:
        """Resume a session, and show its stored events."""
        state, session = await self._resume(request), self._session(request)
        page = await self._context.store.runs(RunQuery(session_id=session.id, limit=_ALL))
        for run in reversed(page.items):
            updates = TurnUpdates(run.workdir)
            await session.show(chunk("user_message_chunk", run.prompt))
            for logged in await self._context.store.events(run.id):
                await session.show(*updates.feed(logged.event))
        return state

    async def _list(self, request: wire.Request) -> wire.Result:
        workdir = None if request.cwd is None else executables.resolve(_absolute(request.cwd, "cwd"))
        begin = page_offset(request.cursor)
        query = SessionQuery(working_dir=workdir, resumable=True, limit=_PAGE, offset=begin)
        page = await self._context.store.sessions(query)
        end = begin + len(page.items)
        return wire.Result(
            sessions=[
                wire.SessionInfo(each.id, each.working_dir or "/", _title(each), time(each.last_used))
                for each in page.items
                if await self._context.rules.may_use(each)
            ],
            next_cursor=str(end) if page.items and end < page.total else None,
        )

    async def _set_mode(self, request: wire.Request) -> wire.Result:
        await self._session(request).choose("approval_mode", request.mode_id)
        return wire.Result()

    async def _close(self, request: wire.Request) -> wire.Result:
        self._session(request).cancel()
        del self._sessions[request.session_id]
        return wire.Result()

    async def _bare(self, request: wire.Request, cwd: str | None) -> RunRequest:
        """Return the request of each prompt of a session, without prompt and options."""
        check, name = self._context.rules.directory, "additionalDirectories"
        workdir = executables.resolve(await check(_absolute(cwd or "", "cwd"), "cwd"))
        add_dirs = [await check(_absolute(path, name), name) for path in request.additional_directories]
        return RunRequest(
            workdir=workdir, add_dirs=tuple(add_dirs), mcp_servers=self._mcp_servers(request), thinking=True
        )

    def _mcp_servers(self, request: wire.Request) -> tuple[McpServer, ...]:
        servers = _mcp_servers(request)
        programs = [repr(server.name) for server in request.mcp_servers if server.command]
        if programs and not self._context.rules.starts_programs:
            raise InvalidRequest(
                f"{', '.join(programs)}: a server starts no MCP servers that a client names; use type http",
                "mcpServers",
            )
        return servers

    def _open(self, session_id: str, bare: RunRequest, agent: str) -> EditorSession:
        session = self._sessions[session_id] = EditorSession(self._context, session_id, bare, agent)
        return session

    def _session(self, request: wire.Request) -> EditorSession:
        if request.session_id not in self._sessions:
            raise SessionNotFound(f"session {request.session_id!r:.100} is not open; session/load opens a stored one")
        return self._sessions[request.session_id]


def _mcp_servers(request: wire.Request) -> tuple[McpServer, ...]:
    """Return the MCP servers of a session, with names that every agent accepts.

    Raises:
        InvalidRequest: a server has no name, the name of another, no address and no program, or an unknown type.
    """
    servers: dict[str, McpServer] = {}
    for server in request.mcp_servers:
        if not {"http": server.url, "stdio": server.command}.get(server.type):
            kinds = "type http with a url, or a program with a command"
            raise InvalidRequest(
                f"the MCP server {server.name!r} of type {server.type!r} must be {kinds}", "mcpServers"
            )
        if not (name := _NOT_IN_NAMES.sub("_", server.name)):
            raise InvalidRequest("an MCP server has an empty name; give it one", "mcpServers")
        if name in servers:
            raise InvalidRequest(
                f"the MCP servers {servers[name].name!r} and {server.name!r} are both {name!r} to an agent; rename one",
                "mcpServers",
            )
        servers[name] = server
    return tuple(replace(server, name=name) for name, server in servers.items())


def _title(session: Session) -> str:
    """Return the beginning of the title of a session, or else of its first prompt."""
    return on_one_line(session.title or without_context(session.initial_prompt))[:_MAX_TITLE]


def _absolute(path: str, field: str) -> str:
    """Return the path of a field.

    Raises:
        InvalidRequest: the path is relative.
    """
    if not path.startswith("/"):
        raise InvalidRequest(f"{field} must be an absolute path, got {path!r}", field)
    return path
