"""What `clinvk serve` shows on a terminal: a startup banner, and a line for each run with the beginning of its prompt.

Lines are written to `sys.stderr`, which never blocks while a server runs (`logs.on_stderr`). They bypass the log, so
that no prompt gets into a log.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from clinvk import __version__
from clinvk.api.observe.observers import user_agent
from clinvk.api.server.address import local_host
from clinvk.api.server.server import Startup
from clinvk.backends.base import Backend
from clinvk.backends.checkup_base import LoginStatus
from clinvk.backends.registry import Backends
from clinvk.cli.sessions.session_text import short_id, short_tokens
from clinvk.cli.terminal.output import DIM, GREEN, RED, STDERR, YELLOW, duration, paint, terminal_size, wrap
from clinvk.cli.terminal.table import cut, one_line, width
from clinvk.config.model import Settings
from clinvk.runtime.process import executables
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import Cancelled
from clinvk.types.events import RunFailed
from clinvk.types.interaction import Interaction
from clinvk.types.text import visible

_AGENT_COLUMN = 6
_OTHER_COLUMNS = 59
"""The width of a line without the prompt, with a client of 13 characters."""
_PROMPT_COLUMN = (20, 60)
_CLIENT_CHARS = 20
_BASES = (
    *(("OpenAI", "/openai/v1"), ("Anthropic", "/anthropic"), ("Google", "/gemini")),
    *(("MCP", "/mcp"), ("REST", "/api/v1"), ("API docs", "/docs")),
)
"""The base URLs for clients of each API."""


def startup_banner(ready: Startup, settings: Settings, environ: Mapping[str, str], backends: Backends) -> str:
    """Return the addresses, which agents are ready, and whether a key is needed. No agent is started."""
    agents = {name: _obstacle(each, settings, environ) for name, each in backends.items()}
    parts = [", ".join(name for name, why in agents.items() if not why) or "no agent"]
    parts[0] += " ready"
    parts += [f"{name} {why}" for name, why in agents.items() if why]
    host = settings.server.host
    parts.append("API key needed" if ready.has_keys else f"no API keys needed on {host}")
    url = ready.address.replace(host, local_host(host), 1)
    page = f"console: {url} (clinvk open)" if ready.has_console else url
    lines = [
        f"clinvk {__version__} · {page}",
        *(f"  {name:9}  {url}{path}" for name, path in _BASES),
        " · ".join(parts),
    ]
    return wrap("\n".join([*lines, *([f"warning: {ready.warning}"] if ready.warning else []), ""]), 1, 2)


def _obstacle(backend: Backend, settings: Settings, environ: Mapping[str, str]) -> str:
    """Return why an agent is not ready, as far as known without starting the agent; empty if ready."""
    if not settings.backend(backend.name).enabled:
        return "disabled"
    if backend.error:
        return "unusable (run `clinvk doctor`)"
    if not executables.find(backend, settings, environ):
        return "not installed"
    login = backend.checkup(executables.host(executables.environment(backend.name, settings, environ))).login
    if isinstance(login, LoginStatus) and login.is_logged_in is False:
        return f"{login.detail.partition(';')[0]}{f' (run `{login.fix}`)' if login.fix else ''}"
    return ""


class RunLines(NamedTuple):
    """Writes a line to stderr when a run ends, or waits for an answer."""

    has_color: bool

    def watch(self, run: RunTask) -> Callable[[], None]:
        """Record the client of a run. Return the callback for the end of the run."""
        return partial(self._write, run, client_name(user_agent.get()))

    def ask(self, interaction: Interaction) -> None:
        """Write what an agent asks, and the command that answers."""
        sys.stderr.write(question_lines(interaction, terminal_size(STDERR).columns, self.has_color))

    def _write(self, run: RunTask, client: str) -> None:
        columns = terminal_size(STDERR).columns
        sys.stderr.write("".join(f"{line}\n" for line in run_lines(run, client, columns, self.has_color)))


def client_name(agent: str | None) -> str:
    """Return the product of a User-Agent, such as `curl` or `openai-python`; `clinvk` for the command line."""
    if agent is None:
        return "clinvk"
    product, _, version = one_line(agent.partition(" ")[0], _CLIENT_CHARS * 2).partition("/")
    name = f"{product}-{version.partition('/')[0]}" if version[:1].isalpha() else product
    return "browser" if name == "Mozilla" else name[:_CLIENT_CHARS].lower()


def question_lines(interaction: Interaction, columns: int, has_color: bool) -> str:
    """Return the lines about a run that begins to wait: what its agent asks, and the command that answers."""
    subject = one_line(interaction.command or interaction.title or interaction.tool)
    dim, color = (DIM, YELLOW) if has_color else ("", "")
    head = f"{paint(time.strftime('%H:%M:%S'), dim)}  {interaction.backend:<{_AGENT_COLUMN}}  {paint('waits', color)}"
    answer = f"to answer: clinvk approvals answer {short_id(interaction.id)}"
    return f"{head}  {cut(visible(subject), max(columns - 28, 20))}\n{' ' * 10}{answer}\n"


def run_lines(run: RunTask, client: str, columns: int, has_color: bool) -> Iterator[str]:
    """Yield the line of a run that has ended, and the reason if it failed."""
    ending = run.log.ending
    outcome, color, reason = "done", GREEN, ""
    if isinstance(ending, RunFailed) and ending.code == Cancelled.code:
        outcome, color = "cancelled", YELLOW
    elif isinstance(ending, RunFailed):
        outcome, color, reason = "failed", RED, one_line(ending.message)
    dim, color = (DIM, color) if has_color else ("", "")
    unit = " tokens" if columns >= _OTHER_COLUMNS + _PROMPT_COLUMN[0] + len(" tokens") else ""
    room = min(max(columns - _OTHER_COLUMNS - len(unit), _PROMPT_COLUMN[0]), _PROMPT_COLUMN[1])
    prompt = f"“{cut(one_line(run.request.prompt), room - 2)}”"
    cells = (
        paint(time.strftime("%H:%M:%S"), dim),
        f"{run.request.backend:<{_AGENT_COLUMN}}",
        prompt + " " * (room - width(prompt)),
        run_time(run.created_at, run.started_at, run.ended_at or run.created_at),
        f"{short_tokens(ending.usage) + unit if ending and ending.usage else '':>{5 + len(unit)}}",
        paint(f"{outcome:<6}", color),
        paint(client, dim),
    )
    yield "  ".join(cells)
    if reason:
        indent = 10
        yield paint(wrap(" " * indent + reason, STDERR, indent), color)


def run_time(created_at: float, started_at: float | None, ended_at: float) -> str:
    """Return the time that a run took after its time in the queue, and that time if it was long."""
    started_at = started_at or ended_at
    queued_s = started_at - created_at
    queued = f" ({duration(queued_s)} queued)" if queued_s >= 1 else ""
    return f"{duration(ended_at - started_at):>9}{queued}"
