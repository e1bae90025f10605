"""`clinvk serve`: listen, serve, and stop without leaving processes or files."""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from ipaddress import ip_network
from typing import NamedTuple

import uvicorn
import uvloop
from msgspec.structs import replace

from clinvk import __version__, logs
from clinvk.api.access import auth, keys
from clinvk.api.access.key_file import key_source
from clinvk.api.access.keys import ApiKeys
from clinvk.api.access.workdirs import WorkdirPolicy
from clinvk.api.endpoints.services import Cluster, Services, Setup, open_services
from clinvk.api.http.http1 import with_timeouts
from clinvk.api.http.middleware import RequestMiddleware
from clinvk.api.mcp.in_process_rest import InProcessRest
from clinvk.api.observe.observers import Observers, View, observe
from clinvk.api.openapi.endpoint_table import ENDPOINTS
from clinvk.api.server import housekeeping, lifecycle
from clinvk.api.server.address import address, listen, listen_error
from clinvk.api.server.app import Router, create_app
from clinvk.api.server.housekeeping import RECOVER_INTERVAL_S, maintain_store
from clinvk.api.server.lifecycle import handle_signals
from clinvk.backends.registry import Backends
from clinvk.config.load import home
from clinvk.config.model import ServerSettings, Settings
from clinvk.remote.messages import LoginLink, RestRequest, RestResponse
from clinvk.remote.socket_server import SocketServer
from clinvk.runtime.process import process_tags, resource_limits
from clinvk.runtime.process.executables import inherited
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import in_background
from clinvk.store.opening import open_store
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError, ConfigError
from clinvk.types.orchestration import Plan

logger = logging.getLogger(__name__)

Load = Callable[[], Settings]

SERVER_ERROR = 5
"""The exit code if the server cannot listen."""

_CLUSTER_RECOVER_INTERVAL_S = 1.0
_NO_IDLE_TIMEOUT_S = 10 * 365 * 86_400
_CLOSE_TIMEOUT_S = 2
_GC_THRESHOLD = 10_000
"""Objects between garbage collections: the objects of a few dozen prompts. The default of 700 costs 8 % of CPU."""
_CONSOLE = "  GET  /                 the console (clinvk open)\n"
_ENDPOINTS = """\
  POST /api/v1/prompt    run a prompt
  POST /api/v1/parallel  run several tasks; /chain steps in order, /compare one prompt with several agents
  GET  /api/v1/sessions  the conversations that can be continued
  GET  /api/v1/runs      past and current runs, with their events
  GET  /api/v1/backends  installed agents
  /openai/v1             base URL for clients of OpenAI's API
  /anthropic             base URL for clients of Anthropic's API
  /gemini                base URL for clients of Google's API
  /mcp                   MCP server: clinvk as a tool of other agents
  /acp                   WebSocket of the Agent Client Protocol, for editors
  GET  /health           health of the server
  GET  /docs             API documentation, and a page to try it (/openapi.json)"""


class Startup(NamedTuple):
    """A server that is ready: its address, whether requests need a key, and the warning if others need no key.

    The address of a worker is empty. `role` is the role of the server in a cluster.
    """

    address: str
    has_keys: bool
    warning: str
    has_console: bool
    role: str = ""

    def __str__(self) -> str:
        """Return the startup message: address, endpoints, and whether a key is needed."""
        if not self.address:
            return f"clinvk {__version__} is {self.role}"
        endpoints = _CONSOLE + _ENDPOINTS if self.has_console else _ENDPOINTS
        role = f" as {self.role}" if self.role else ""
        lines = [f"clinvk {__version__} listens on {self.address}{role}", endpoints]
        if self.has_keys:
            lines.append("Every request except /health and /docs needs an API key.")
        elif self.warning:
            lines.append(f"warning: {self.warning}")
        return "\n".join(lines)


Announce = Callable[[Startup], None]


def serve(
    settings: Settings,
    environ: Mapping[str, str],
    backends: Backends,
    announce: Announce,
    load: Load | None = None,
    insecure: bool = False,
    view: View | None = None,
    cluster: Cluster | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM, then return the exit code.

    After the first signal, running requests may finish within `server.shutdown_grace_secs`; a second signal ends the
    requests at once. SIGHUP reloads keys, limits and log level from the settings returned by `load`. `announce` is
    called when the server is ready. Sockets of a service manager take precedence over host and port; a worker of a
    `cluster` does not listen. If other machines reach the server and no keys exist, a key is created and printed on
    stderr, unless `insecure`. With a `view`, stderr is a terminal.

    Raises:
        ConfigError: a setting cannot be applied.
    """
    server, load = settings.server, load or (lambda: settings)
    formatter = view.formatter if view else logs.formatter_of(settings.log.format)
    with logs.on_stderr(formatter), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _adjust_logs(settings)
        auth.check_access(server)
        settings.notifications.check()
        workdirs = WorkdirPolicy(settings, environ, backends)
        workdirs.check_default()
        resource_limits.check_resource_limits(settings.agents)
        open_files = housekeeping.raise_open_file_limit()
        housekeeping.limit_malloc_arenas()
        api_keys = runner.run(_read_keys(settings, environ))
        listens = cluster is None or cluster.listens
        sockets = lifecycle.inherited_sockets(environ) if listens else []
        if is_inherited := bool(sockets):
            host, port = sockets[0].getsockname()[:2]
            settings = replace(settings, server=replace(server, host=host, port=port))
        try:
            sockets = sockets or (listen(server.host, server.port) if listens else [])
        except OSError as exc:
            where = address(server.host, server.port)
            print(f"clinvk: cannot listen on {where}: {listen_error(server.port, exc)}", file=sys.stderr)
            return SERVER_ERROR
        if not api_keys and not insecure:
            api_keys = auth.create_key_if_open(settings.server, sockets, partial(print, file=sys.stderr, flush=True))
        if refusal := workdirs.refusal_of_default():
            logger.warning("requests that name no workdir are refused: %s", refusal)
        if settings.warm.enabled and (names := settings.warm.never_started):
            logger.warning("warm.prestart starts none of %s: not in warm.kept_backends", ", ".join(names))
        setup = Setup(settings, environ, backends, sockets, api_keys, cluster, open_files)
        runner.run(_serve(setup, announce, load, is_inherited, view))
    return 0


def _adjust_logs(settings: Settings) -> None:
    logs.adjust(settings.log.level, settings.log.requests or settings.unified_flags.verbose)


async def _read_keys(settings: Settings, environ: Mapping[str, str]) -> ApiKeys:
    return await keys.read_keys(settings, environ, Spawner(process_tags.choose_tags()))


async def _serve(setup: Setup, announce: Announce, load: Load, is_inherited: bool, view: View | None) -> None:
    settings, environ, backends, sockets, api_keys, cluster, _ = setup
    recover_interval_s = _CLUSTER_RECOVER_INTERVAL_S if cluster else RECOVER_INTERVAL_S
    with handle_signals() as signals:
        async with (
            cluster or nullcontext(),
            observe(settings, backends, view) as observers,
            open_store(settings, environ) as store,
            SocketServer(home(environ), settings, environ, backends) as socket_server,
            open_server(setup, store, observers) as running,
            in_background(maintain_store(store, settings.session.retention_days, recover_interval_s)),
        ):
            port: int = sockets[0].getsockname()[1] if sockets else 0
            if cluster is None or cluster.runs_agents:
                rest = InProcessRest(Router(ENDPOINTS, running.services), running.services)
                socket_server.open(running.services.runs, CommandControl(running.services, port, rest))
            ready = startup(settings.server, sockets, bool(api_keys), cluster.role if cluster else "")
            announce(ready)
            lifecycle.notify_service_manager(environ, "READY=1", f"STATUS={str(ready).partition(chr(10))[0]}")
            await signals.wait_for_stop(partial(_reload, load, environ, api_keys, running))
            lifecycle.notify_service_manager(environ, "STOPPING=1", "STATUS=finishing what runs")
            socket_server.close()
            running.services.state.stopping.set()
            running.services.live.close()
            if is_inherited:
                running.hand_over()
            await signals.drain(lambda: running.is_busy, settings.server.shutdown_grace_secs)


async def _reload(load: Load, environ: Mapping[str, str], api_keys: ApiKeys, running: "RunningServer") -> None:
    """Apply new settings to all reloadable parts; if a setting is wrong, change nothing and log the reason."""
    lifecycle.notify_service_manager(environ, *lifecycle.notify_reloading())
    try:
        settings = load()
        new_keys = await _read_keys(settings, environ)
        if api_keys and not new_keys and not api_keys.is_temporary:
            raise ConfigError("the new settings have no API key; removing the last key needs a restart")
    except ClinvkError as exc:
        logger.warning("settings not reloaded: %s", exc.message)
    else:
        _adjust_logs(settings)
        api_keys.replace_permanent(new_keys)
        running.services.access.limits.reset(settings.server)
        running.services.runs.resize(settings.server)
        logger.info("reloaded keys, limits and log level; other settings wait for a restart")
    lifecycle.notify_service_manager(environ, "READY=1")


class RunningServer(NamedTuple):
    """A running server: the outermost application, the services of the endpoints, and uvicorn."""

    app: RequestMiddleware
    services: Services
    uvicorn: "Server"

    @property
    def is_busy(self) -> bool:
        """Whether a request, a run or an orchestration is under way. In the background, they have no request."""
        services = self.services
        has_runs = services.runs.busy or services.runs.queued
        return bool(services.state.active_requests or has_runs or services.is_orchestrating)

    def hand_over(self) -> None:
        """Stop accepting connections. New connections wait for the next server, which inherits the sockets."""
        self.services.state.is_handed_over = True
        for server in self.uvicorn.servers:
            server.close()


@asynccontextmanager
async def open_server(setup: Setup, store: SessionStore, observers: Observers) -> AsyncGenerator[RunningServer]:
    """Serve inside the context. On exit, end the agents, send the remaining output, and close the sockets.

    The caller closes `store`.
    """
    settings, environ, _, sockets, api_keys, cluster, _ = setup
    store.on_run = observers.live.publish_run
    if observers.metrics:
        store.on_commit = observers.metrics.time_commit
    started = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            async with (
                keys.watch_key_sources(api_keys, key_source(store, environ)),
                open_services(setup, store, observers, group, keeps_warm=True) as services,
            ):
                app = create_app(services, wrap=partial(cluster.wrap, services) if cluster else None)
                server = Server(app, settings.server, started.set)
                group.create_task(server.serve(sockets))
                versions = group.create_task(services.inventory.query_versions())
                await started.wait()
                gc.collect()
                gc.freeze()  # exclude the permanent objects from later collections
                gc.set_threshold(_GC_THRESHOLD)
                async with (
                    in_background(housekeeping.trim_memory(lambda: services.state.total_requests)),
                    cluster.joined(services) if cluster else nullcontext(),
                ):
                    yield RunningServer(app, services, server)
                    await services.end_orchestrations()
                versions.cancel()
            server.should_exit = True
    finally:
        for sock in sockets:
            sock.close()


class Server(uvicorn.Server):
    """uvicorn without signal handling."""

    def __init__(self, app: RequestMiddleware, settings: ServerSettings, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=with_timeouts(settings.read_timeout_secs, settings.write_timeout_secs),
                ws="none",  # Http1Protocol upgrades
                ws_max_size=settings.max_request_body_bytes or sys.maxsize,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=[str(ip_network(text, strict=False)) for text in settings.trusted_proxies],
                server_header=False,
                timeout_keep_alive=settings.idle_timeout_secs or _NO_IDLE_TIMEOUT_S,
                timeout_graceful_shutdown=_CLOSE_TIMEOUT_S,
            )
        )
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `on_started`."""
        await super().startup(sockets=sockets)
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Ignore signals: uvicorn would raise them again after a clean stop."""
        yield


def startup(settings: ServerSettings, sockets: list[socket.socket], has_keys: bool = False, role: str = "") -> Startup:
    """Return the startup message of a ready server."""
    if not sockets:
        return Startup("", has_keys, "", has_console=False, role=role)
    port: int = sockets[0].getsockname()[1]
    warning = "" if has_keys else auth.open_warning_of(settings, sockets)
    return Startup(address(settings.host, port), has_keys, warning, settings.console, role)


class CommandControl(NamedTuple):
    """The `RunControl` of a server: what commands ask for over the private socket besides a prompt."""

    services: Services
    port: int
    rest: InProcessRest

    async def start_plan(self, plan: Plan, original: Plan, environ: Mapping[str, str]) -> str:
        """Start a plan in the background, in the environment of the command; return the run id."""
        services = self.services
        begin = partial(services.runs.run_of_user, environ=environ, may_wait=True)
        resources = services.orchestrations.resources_of_user(begin, inherited(services.settings, environ))
        return (await services.orchestrations.launch(plan, original, resources)).id

    def create_login(self) -> LoginLink:
        """Create a login link for the web pages of this server."""
        access = self.services.access
        token = access.logins.create_token() if access.keys else ""
        return LoginLink(self.services.settings.server.host, self.port, token)

    async def call_rest(self, request: RestRequest) -> RestResponse:
        """Send a request to the REST API as the user of this machine."""
        return await self.rest.send(request)
