"""`clinvk serve` and `clinvk worker`, and `clinvk open`, which opens the page of a server in a browser."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.cli.parse.flags import OpenFlags, ServeFlags, WorkerFlags
from clinvk.cli.parse.settings import CommandContext, directory
from clinvk.cli.terminal.output import STDERR, has_colors, print_text, wrap
from clinvk.config.model import Settings
from clinvk.config.setting_values import split_list
from clinvk.logs import TerminalFormatter
from clinvk.types.errors import ClinvkError, InvalidRequest

if TYPE_CHECKING:
    from clinvk.api.server.server import Startup

_ANSWER_TIMEOUT_S = 3


def serve(flags: ServeFlags, context: CommandContext) -> int:
    """Serve until a signal arrives; return the exit code.

    Raises:
        ClinvkError: the server did not start.
    """
    if flags.verbose and flags.quiet:
        raise InvalidRequest("--verbose and --quiet exclude each other")
    more: dict[str, object] = {
        "server.host": flags.host,
        "server.port": flags.port,
        "log.requests": flags.verbose or None,
    }
    return _serve(flags, context, more, listens=True, insecure=flags.insecure)


def work(flags: WorkerFlags, context: CommandContext) -> int:
    """Run the agents of this machine for the gateways of a cluster until a signal arrives; return the exit code.

    Raises:
        ClinvkError: the worker did not start.
    """
    return _serve(flags, context, {}, listens=False)


def _serve(
    flags: WorkerFlags, context: CommandContext, own: Mapping[str, object], listens: bool, insecure: bool = False
) -> int:
    if flags.ephemeral:
        raise InvalidRequest("a server has no --ephemeral: set it per request")
    more: dict[str, object] = {
        **own,
        "server.default_workdir": None if flags.workdir is None else directory(flags.workdir, "--workdir"),
        "cluster.url": flags.cluster,
        "cluster.node": flags.node,
        "cluster.labels": None if flags.labels is None else split_list(flags.labels),
    }
    if flags.quiet:
        more |= {"log.level": "error", "log.requests": False}

    environ = context.environ

    def load() -> Settings:
        settings = replace(context, more=more).settings
        if flags.model is None:
            return settings
        return replace(context, more=more | {f"backends.{settings.default_backend}.model": flags.model}).settings

    settings = load()
    cluster = None
    if settings.cluster.url or not listens:
        from clinvk.cli.admin.cluster import cluster_member

        settings, cluster = cluster_member(settings, environ, listens)
    from clinvk.api.observe.observers import View
    from clinvk.api.server import server
    from clinvk.cli.admin import serve_view

    view = None
    if os.isatty(STDERR) and settings.log.format == "console" and settings.log.level in ("debug", "info"):
        has_color = settings.output.color and has_colors(STDERR, environ)
        lines = serve_view.RunLines(has_color)
        view = View(lines.watch, lines.ask, TerminalFormatter(has_color, partial(wrap, fd=STDERR, indent=10)))

    def announce(ready: "Startup") -> None:
        """Print the startup banner in a thread, so that a stalled reader of stdout does not stop the server."""
        if not flags.quiet:
            is_short = view is not None and os.isatty(1) and not cluster
            text = (
                partial(serve_view.startup_banner, ready, settings, environ, context.backends)
                if is_short
                else partial(str, ready)
            )
            Thread(target=_print, args=(text,), daemon=True).start()

    return server.serve(settings, environ, context.backends, announce, load, insecure, view, cluster)


def open_page(flags: OpenFlags, context: CommandContext) -> int:
    """Open the console of a running server in the user's browser, and print its address.

    If the server requires a key, the address logs in once. The token is in the fragment, which no browser sends.

    Raises:
        ClinvkError: no clinvk server answers at the address.
    """
    import asyncio
    import webbrowser

    from clinvk.api.server.address import address, health_of, local_host
    from clinvk.remote.socket_client import create_login

    server = replace(context, more={"server.port": flags.port}).settings.server
    link = asyncio.run(create_login(context.environ))
    if link and flags.port in (None, link.port):
        page = f"{address(local_host(link.host), link.port)}/"
        page += f"#login={link.token}" if link.token else ""
    else:
        page = f"{address(local_host(server.host), server.port)}/"
        if not asyncio.run(health_of(server.host, server.port, _ANSWER_TIMEOUT_S)):
            raise ClinvkError(f"no server answers at {page}; start one with `clinvk serve`, or use --port")
    print_text(page)
    if not flags.dry_run and not webbrowser.open(page):
        context.notes.info("no browser was found")
    return 0


def _print(text: Callable[[], str]) -> None:
    with suppress(OSError, ClinvkError):
        print_text(text())
