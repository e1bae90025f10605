"""`clinvk PROMPT`: choose the conversation, read the attached files, and run the prompt."""

import asyncio
import logging
import os
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.backends.registry import backend_named
from clinvk.cli.parse.flags import ConversationFlags, OrchestrationFlags, PromptFlags, RunFlags
from clinvk.cli.parse.settings import CommandContext, directory
from clinvk.cli.prompt.display import RunDisplay
from clinvk.cli.prompt.session_choice import SessionChoice, is_wanted, mode_change, newest, resumed
from clinvk.cli.sessions.local_store import open_store, over_store, real_directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import prompt_from
from clinvk.cli.terminal.output import WOULD_EXECUTE, print_text, printable
from clinvk.config.load import home
from clinvk.config.model import Settings, complete, refuse_nesting
from clinvk.config.setting_values import split_list
from clinvk.remote.socket_path import path_of
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import InvalidRequest, QueueFull, SessionError, ShuttingDown, StoreUnavailable
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import Session
from clinvk.types.request import Image, RunRequest, fallback_of

if TYPE_CHECKING:
    from clinvk.runtime.local import LocalRuns
    from clinvk.runtime.runs import Run


def request_of(flags: RunFlags, settings: Settings) -> RunRequest:
    """Return the request of the flags, without a prompt, before the settings complete the other options.

    Raises:
        InvalidRequest: a directory or file is missing or invalid; the message names the flag.
    """
    timeout_s = settings.unified_flags.command_timeout_secs if flags.timeout is None else flags.timeout
    given = {name: value for name in RunRequest.__struct_fields__ if (value := getattr(flags, name, None)) is not None}
    converted: dict[str, Any] = {
        "backend": settings.default_backend,
        "fallback": None,
        "continue_with": bool(getattr(flags, "continue_with", None)),
        "workdir": real_directory(flags.workdir),
        "isolation": "worktree" if getattr(flags, "worktree", False) else "none",
        "add_dirs": tuple(directory(path, "--add-dir") for path in flags.add_dir),
        "allowed_tools": None if flags.allowed_tools is None else split_list(flags.allowed_tools),
        "images": tuple(map(_image, flags.image)),
        "output_schema": None if flags.output_schema is None else _schema(flags.output_schema),
        "timeout_s": timeout_s or None,
        "notify": tuple(flags.notify) or None,
        "verbose": flags.verbose > 1,
    }
    return RunRequest(**given | converted)


def _image(path: str) -> Image:
    from clinvk.dialects.conversation import image_of  # an import that only a prompt with an image needs

    return image_of(b64encode(_read(path, "--image")).decode(), None, f"--image {path!r}")


def _schema(path: str) -> dict[str, object]:
    flag = "--output-schema"
    try:
        schema = msgspec.json.decode(_read(path, flag), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{flag}: {path!r} is not a JSON object: {exc}", flag) from exc
    refuse_nesting("output_schema", schema)
    return schema


def _read(path: str, flag: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequest(f"{flag}: {path!r} cannot be read: {why}", flag) from exc


Choose = Callable[[SessionStore], Awaitable[SessionChoice]]


async def release(environ: Mapping[str, str], session_id: str) -> None:
    """Make the server of this home release a session's conversation."""
    if path_of(home(environ)).exists():
        from clinvk.remote.socket_client import release_session

        await release_session(environ, session_id)


def local_runs(
    context: CommandContext, store: SessionStore, settings: Settings | None = None, keeps_warm: bool = False
) -> "LocalRuns":
    """Return the runs of this process; `settings` take the place of those of the context."""
    from clinvk.runtime.local import LocalRuns  # imports that a prompt through a server does not need

    environ = context.environ
    return LocalRuns(
        settings or context.settings,
        store,
        environ,
        context.backends,
        keeps_warm=keeps_warm,
        release_elsewhere=partial(release, environ),
        home=context.home,
    )


class ServerOrLocalRuns:
    """A `Runner` that starts and imports only what a run needs.

    With `is_verbose`, notes report whether a running server takes the runs, and why not; without, only that the
    environment differs. The setting `warm.command_line` says whether to ask a server at all. `local` are the runs of
    this process if they are open already; kept processes of `local` have the conversations that only their own process
    can continue.
    """

    def __init__(
        self, context: CommandContext, store: SessionStore, is_verbose: bool, local: "LocalRuns | None" = None
    ) -> None:
        self.context = context
        self.store = store
        self.is_verbose = is_verbose
        self._local = self._answering = local
        self._explained: set[str] = set()

    @asynccontextmanager
    async def run(self, request: RunRequest) -> "AsyncGenerator[Run]":
        """Run a prompt. Leaving the context ends the run."""
        async with AsyncExitStack() as stack:
            is_here = bool(request.mcp_servers)  # a server starts no programs that an editor names
            if not is_here and request.approval_mode == "ask" and self._local and self._local.pool:
                is_here = (await self._local.plan(request)).needs_its_process
            run = None if is_here else await self._through_server(request, stack)
            if not run:
                local = self._local or await stack.enter_async_context(local_runs(self.context, self.store))
                run = await stack.enter_async_context(local.run(request))
                self._answering = local
            yield run

    async def answer(self, reference: str, answer: InteractionAnswer) -> None:
        """Answer an interaction. A server reads the answer from the store."""
        from clinvk.runtime.interactions import Interactions  # an import that only a question needs

        interactions = Interactions(self.store, self.context.settings.interactions)
        await (self._answering or interactions).answer(reference, answer)

    async def _through_server(self, request: RunRequest, stack: AsyncExitStack) -> "Run | None":
        """Return the run on the server; None if no server is up, or the run would differ there."""
        if not path_of(self.context.home).exists():
            return None
        if not self.context.settings.warm.command_line:
            self._explain("not through the server: disabled by --no-server or warm.command_line: false")
            return None
        from clinvk.remote.socket_client import EnvironmentDiffers, ServerDeclined, run_through_server

        try:
            started = run_through_server(request, self.context.settings, self.context.environ, self.context.notes.info)
            run = await stack.enter_async_context(started)
        except (ServerDeclined, QueueFull, ShuttingDown) as exc:
            if str(exc):
                self._explain(f"not through the server: {exc}", always=isinstance(exc, EnvironmentDiffers))
            return None
        self._explain("through the server of this home")
        return run

    def _explain(self, what: str, always: bool = False) -> None:
        if (self.is_verbose or always) and what not in self._explained:
            self._explained.add(what)
            self.context.notes.info(what)


class PromptJob(NamedTuple):
    """A prompt to run. With `imports`, the sessions of an earlier clinvk are imported first."""

    request: RunRequest
    context: CommandContext
    flags: ConversationFlags
    imports: bool = False

    @property
    def is_verbose(self) -> bool:
        """Whether to show tools and notes about the server; `request.verbose` shows the agent's stderr."""
        return self.flags.verbose > 0 or self.context.settings.unified_flags.verbose

    def request_in(self, session: Session | None) -> RunRequest:
        """Return the request in a session, or in a new one, completed from the settings."""
        request = self.request
        if session:
            workdir = session.working_dir or None
            backend = self.flags.continue_with or session.backend
            request = replace(request, backend=backend, session_id=session.id, workdir=workdir)
        return _complete(request, self.context, self.flags.detach)


def _complete(request: RunRequest, context: CommandContext, is_detached: bool) -> RunRequest:
    request = complete(request, context.settings)
    return request if is_detached else asking_here(request, context.settings)


def asking_here(request: RunRequest, settings: Settings) -> RunRequest:
    """Return a completed request that asks on the terminal about the actions that `default` denies.

    The request stays unchanged without a terminal, in the background of a terminal, if the setting `ask_on_terminal`
    is off, and if the agent cannot ask.
    """
    if not (settings.interactions.ask_on_terminal and os.isatty(0)):
        return request
    from clinvk.cli.terminal.keys import keyboard_fd  # imports that a pipe does not need
    from clinvk.runtime.interactions import asking

    return asking(request, settings) if keyboard_fd() is not None else request


def prompt(flags: PromptFlags, context: CommandContext) -> int:
    """Run the prompt of the command line and of stdin; return the exit code.

    Raises:
        ClinvkError: the prompt was not run.
    """
    starts = _starts(flags)
    request = request_of(flags, context.settings)
    text = prompt_from(next(iter(flags.words), None), flags.no_stdin, context.notes.info)

    may_ask = os.isatty(0) and context.notes.is_terminal and not context.settings.unified_flags.dry_run
    chosen = None
    if flags.continue_ and not flags.workdir and may_ask:
        chosen = over_store(context, lambda store: newest(store, flags.backend, None, context.notes))
        if not is_wanted(chosen, context):
            return exits.CANCELLED

    async def choose(store: SessionStore) -> SessionChoice:
        if chosen:
            return chosen
        if flags.continue_:
            return await newest(store, flags.backend, flags.workdir and real_directory(flags.workdir), context.notes)
        if starts or not context.settings.session.auto_resume:
            return SessionChoice()
        return await resumed(store, _complete(request, context, flags.detach), context.settings, context.notes)

    fallback = None if flags.fallback is None else fallback_of(split_list([flags.fallback]))
    for each in fallback or ():
        backend_named(each.backend, context.backends)
    request = replace(request, prompt=text, fallback=fallback)
    return run(PromptJob(request, context, flags, imports=flags.continue_), choose)


def _starts(flags: PromptFlags) -> str:
    """Return the flag that asks for a new session, empty without one; refuse flags that exclude each other."""
    if flags.detach:
        refuse_detached(flags)
    starts = next((name for name in ("new", "ephemeral", "worktree") if getattr(flags, name)), "")
    if flags.continue_ and starts:
        raise InvalidRequest(f"--continue and --{starts} exclude each other")
    if flags.continue_with and not flags.continue_:
        raise InvalidRequest("--continue-with needs --continue, or resume", "--continue-with")
    return starts


def run(job: PromptJob, choose: Choose) -> int:
    """Run a prompt in the session that `choose` returns, or print the command in a dry run; return the exit code.

    Raises:
        ClinvkError: the prompt was not run.
    """
    if not job.is_verbose:
        logging.getLogger("clinvk").addHandler(logging.NullHandler())
    return asyncio.run(_run(job, choose))


async def _run(job: PromptJob, choose: Choose) -> int:
    context = job.context
    display = RunDisplay(context.settings.output, context.notes, context.environ, job.is_verbose)
    try:
        async with open_store(context, job.imports) as store:
            return await _run_over(store, job, choose, display)
    except StoreUnavailable as exc:
        if not job.request.ephemeral or display.has_begun:
            raise
        job.context.notes.info(f"{exc.message}; the run is not recorded")
        from clinvk.store.memory import MemoryStore  # an import that only a broken store needs

        local = replace(context, more={"warm.command_line": False})  # a server would record the run in its own store
        return await _run_over(MemoryStore(), job._replace(context=local), choose, display)


async def _run_over(store: SessionStore, job: PromptJob, choose: Choose, display: RunDisplay) -> int:
    if job.flags.on_limit == "wait" and not job.flags.detach:
        raise InvalidRequest("--on-limit wait needs --detach", "--on-limit")
    choice = await choose(store)
    if job.flags.continue_with and choice.session:
        from clinvk.runtime.sessions import with_modes  # an import that only a hand-over needs

        request = await with_modes(store, job.request, choice.session)
        if request.approval_mode == "ask" and not job.flags.approval_mode:  # a terminal may have made it of `default`
            request = replace(request, approval_mode="default")
        job = job._replace(request=request)
    request = job.request_in(choice.session)
    if choice.session and not choice.is_own:
        choice = choice._replace(note=choice.note + await mode_change(store, request))
    if job.context.settings.unified_flags.dry_run:
        return await _describe(request, choice.note, store, job)
    new_session_request = job.request_in(None) if choice.is_own else None
    if job.flags.detach:
        return await _start_in_background(request, choice.note, new_session_request, job)
    runs = ServerOrLocalRuns(job.context, store, job.is_verbose)
    return await display.run(request, choice.note, new_session_request, runs)


async def _start_in_background(
    request: RunRequest, note: str, new_session_request: RunRequest | None, job: PromptJob
) -> int:
    """Start the prompt in the server, in another session if its own one turns out to be busy or gone."""
    from clinvk.cli.prompt import background  # imports that other prompts do not need

    wants_json = job.context.settings.output.format in ("json", "stream-json")
    start = partial(background.start, context=job.context, wants_json=wants_json)
    if note:
        job.context.notes.info(note)
    try:
        return await start(request)
    except SessionError as exc:
        if new_session_request is None:
            raise
        job.context.notes.info(f"{exc.message}; starting another session")
        return await start(new_session_request)


def refuse_detached(flags: ConversationFlags | OrchestrationFlags) -> None:
    """Refuse flags that exclude `--detach`, which was given.

    Raises:
        InvalidRequest: names the flag.
    """
    for name, is_given in (("--ephemeral", flags.ephemeral), ("--no-server", flags.no_server)):
        if is_given:
            raise InvalidRequest(f"--detach and {name} exclude each other", name)


async def _describe(request: RunRequest, note: str, store: SessionStore, job: PromptJob) -> int:
    """Print the command of the agent."""
    from clinvk.backends.base import describe  # imports that a prompt through a server does not need

    async with local_runs(job.context, store) as runs:
        launch = await runs.plan(request)
    if note:
        job.context.notes.info(note)
    print_text(printable(f"{WOULD_EXECUTE}\n{describe(launch, request)}"))
    return 0
