"""Notifications of runs, sent to the targets of the settings.

Each delivery is a process of its own: the command of the target, or `http_post`. A target that fails or hangs delays
neither a run nor another target. Webhooks are signed as in https://github.com/standard-webhooks/standard-webhooks. The
interface of ntfy is https://docs.ntfy.sh/publish/.
"""

import asyncio
import base64
import hmac
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.config.model import NotificationEvent, NotificationTarget, Settings
from clinvk.dialects.dialect import copy_as
from clinvk.runtime.process.executables import inherited, needed_variables, run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import AgentRateLimited, AgentUnpaid, ClinvkError, ConfigError, TimedOut
from clinvk.types.interaction import Interaction
from clinvk.types.record import RunRecord
from clinvk.types.redaction import without_secrets
from clinvk.types.text import escape_controls

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 5.0
"""How long the end of clinvk waits for notifications."""

ATTEMPT_TIMEOUT_S = 10.0
PAUSES_S = (1.0, 5.0)
"""The pauses before the second and the third attempt."""

_MAX_QUEUED = 100
_MAX_ANSWER_CHARS = 1000
"""ntfy turns a message of over 4,096 bytes into a file, and a character has up to four bytes."""

_KEY_PREFIX = "whsec_"
_MIN_KEY_BYTES = 24
_POST_PROGRAM = str(Path(__file__).parent / "process" / "http_post.py")
"""Not imported: its imports take longer than those of all other modules."""

_POST_VARIABLES = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_*")
_LATER = {408, 425, 429, *range(500, 600)}
"""The HTTP statuses after which another attempt may succeed."""

_LIMITS = ("max_turns", "max_tokens", "max_budget", AgentRateLimited.code, AgentUnpaid.code, TimedOut.code)
"""The stop reasons and error codes of runs that reached a limit."""

_EVENTS: Mapping[str, NotificationEvent] = {"waiting": "waiting", "finished": "done", "failed": "failed"}
"""The events of states. A cancelled run is none, since somebody cancelled the run."""

_SHOWN_AS = {
    "waiting": ("waits for you", "high", "raised_hand"),
    "done": ("is done", "default", "white_check_mark"),
    "failed": ("has failed", "high", "x"),
    "limit": ("has reached a limit", "high", "hourglass"),
    "test": ("sends a test", "default", "bell"),
}
"""For each event the title after the name of the agent, and the priority and the tag of ntfy."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run of a notification. The title of the session and the answer are its only text of the conversation.

    `answer` is empty unless the target includes the answer. `backend` is empty for an orchestration. If the run waits,
    `interaction_id` is what it waits for, and `tool` the tool to approve, empty for a question.
    """

    run_id: str
    kind: str
    backend: str
    state: str
    session_id: str | None = None
    title: str = ""
    error_code: str | None = None
    duration_s: float | None = None
    cost_usd: float | None = None
    interaction_id: str | None = None
    tool: str = ""
    answer: str = ""


class Notification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A notification, as the body of a webhook. `type` is `run.` and the event; a test has no `data`."""

    id: str
    type: str
    timestamp: datetime
    data: RunSummary | None = None

    @property
    def event(self) -> str:
        """The event."""
        return self.type.partition(".")[2]

    @property
    def title(self) -> str:
        """The title for people, in ASCII."""
        name = (self.data.backend or self.data.kind) if self.data else "clinvk"
        return f"{name} {_SHOWN_AS[self.event][0]}"

    @property
    def text(self) -> str:
        """The text for people, without control characters except tabs and line ends.

        The text begins with a letter, so that no program takes the text for a flag.
        """
        if not (run := self.data):
            return "Notifications of clinvk arrive here."
        facts = [f"run {run.run_id[:8]}", run.title, run.error_code]
        facts += [] if run.duration_s is None else [f"{run.duration_s:.0f} s"]
        facts += [] if run.cost_usd is None else [f"${run.cost_usd:.2f}"]
        how = ""
        if run.interaction_id:
            how = f"clinvk approvals answer {run.interaction_id[:8]}"
            how = f"{run.tool}: {how} allow" if run.tool else how
        return escape_controls("\n\n".join(filter(None, (", ".join(filter(None, facts)), how, run.answer))))


class Fault(NamedTuple):
    """Why a notification was not delivered, without addresses and secrets. A permanent fault is not retried.

    `status` is the HTTP status, 0 without an answer.
    """

    message: str
    is_permanent: bool = True
    status: int = 0


Attempt = Callable[[], Awaitable[Fault | None]]


async def deliver(target: str, id: str, attempt: Attempt) -> Fault | None:
    """Attempt the delivery of a notification with retries; log and return the last fault, None if delivered."""
    fault = await attempted(target, attempt)
    for pause_s in PAUSES_S:
        if fault and not fault.is_permanent:
            await asyncio.sleep(pause_s)
            fault = await attempted(target, attempt)
    if fault:
        values = {"target": target, "why": fault.message, "notification": id}
        logger.warning("notification target %(target)s failed: %(why)s", values)
    return fault


async def post(environ: Mapping[str, str], spawner: Spawner, message: Mapping[str, object]) -> Fault | None:
    """Send a message of `http_post` once.

    Raises:
        ClinvkError, TimeoutError: as `run_tool`.
    """
    argv = (sys.executable, "-I", "-S", _POST_PROGRAM)
    env, stdin = needed_variables(environ, _POST_VARIABLES), msgspec.json.encode(message)
    answer = (await run_tool(spawner, argv, env, ATTEMPT_TIMEOUT_S, stdin=stdin)).stdout.decode().strip()
    if not answer.isdecimal():
        return Fault(answer or "the request could not be sent", is_permanent=False)
    status = int(answer)
    return None if 200 <= status < 300 else Fault(f"HTTP status {status}", status not in _LATER, status)


async def attempted(target: str, attempt: Attempt) -> Fault | None:
    """Attempt a delivery once, and return every error as a fault."""
    try:
        return await attempt()
    except ClinvkError as exc:
        return Fault(exc.message)
    except TimeoutError:
        return Fault(f"not done within {ATTEMPT_TIMEOUT_S:g} s", is_permanent=False)
    except Exception:
        logger.exception("a notification to %r failed inside clinvk", target)
        return Fault("clinvk itself failed")


class Notifier:
    """Sends notifications in the background, each target on its own. A full queue drops the newest notification.

    `counts` has the number of notifications by target and outcome: sent, failed or dropped.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], spawner: Spawner) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._settings = settings
        self._targets = settings.notifications.targets
        self._environ = environ
        self._spawner = spawner
        self._queues = {name: asyncio.Queue[Notification](_MAX_QUEUED) for name in self._targets}

    @asynccontextmanager
    async def sending(self) -> AsyncGenerator[None]:
        """Send notifications inside the context. Leaving waits up to `DRAIN_TIMEOUT_S`, then drops the others."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._send_queued(name, queue)) for name, queue in self._queues.items()]
            yield
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_TIMEOUT_S):
                    for queue in self._queues.values():
                        await queue.join()
            for task in tasks:
                task.cancel()

    def observe(self, run: RunTask) -> Callable[[], None]:
        """Notify at the end of a run; a `RunObserver`. The parts of an orchestration notify together."""
        return lambda: None if run.request.part else self.notify_of(run)

    def notify_of(self, run: RunTask, interaction: Interaction | None = None) -> None:
        """Notify of the end of a run, or that the run awaits the answer to an interaction."""
        record = replace(run.recorder.record, state="waiting") if interaction else run.recorder.record
        title = run.recorder.session.title if run.recorder.session else ""
        self.notify(record, [run.request.notify], title, interaction)

    def notify(
        self,
        record: RunRecord,
        choices: Iterable[tuple[str, ...] | None],
        title: str = "",
        interaction: Interaction | None = None,
    ) -> None:
        """Queue a notification of the run's state, if the state is an event, for the targets of all choices.

        A choice of None stands for the targets of the settings.
        """
        is_limit = (record.error_code or record.stop_reason) in _LIMITS
        if not (event := "limit" if is_limit else _EVENTS.get(record.state)):
            return
        summary = _summary(record, title)
        if interaction:
            summary = replace(summary, interaction_id=interaction.id, tool=interaction.tool)
        default = self._settings.notifications.default
        for name in dict.fromkeys(name for choice in choices for name in (default if choice is None else choice)):
            target = self._targets.get(name)
            if target is None:
                logger.warning("run %s notifies nobody at %r: the settings have no such target", record.id, name)
            elif event in target.on:
                data = summary if target.include_answer else replace(summary, answer="")
                try:
                    self._queues[name].put_nowait(_notification(f"run.{event}", data))
                except asyncio.QueueFull:
                    self._drop(name, 1)

    async def test(self, name: str) -> Fault | None:
        """Try to deliver a test once; return None if it was delivered."""
        return await attempted(name, partial(self._attempt, name, _notification("clinvk.test")))

    async def _send_queued(self, name: str, queue: asyncio.Queue[Notification]) -> None:
        sending = 0
        try:
            while True:
                notification = await queue.get()
                sending = 1
                fault = await deliver(name, notification.id, partial(self._attempt, name, notification))
                self.counts[name, "failed" if fault else "sent"] += 1
                sending = 0
                queue.task_done()
        finally:
            self._drop(name, sending + queue.qsize())

    async def _attempt(self, name: str, notification: Notification) -> Fault | None:
        target = self._targets[name]
        if target.command:
            return await self._start_command(target, notification)
        secret = secret_of(target, self._environ)
        message = _ntfy_message(notification, secret) if target.ntfy else _webhook_message(notification, secret)
        return await post(self._environ, self._spawner, {"url": target.ntfy or target.webhook, **message})

    def _drop(self, name: str, count: int) -> None:
        if count:
            self.counts[name, "dropped"] += count
            logger.warning("dropped notifications to %r: %d", name, count)

    async def _start_command(self, target: NotificationTarget, notification: Notification) -> Fault | None:
        words = {"{title}": notification.title, "{text}": notification.text, "{event}": notification.event}
        pattern = "|".join(map(re.escape, words))
        argv = [re.sub(pattern, lambda match: words[match[0]], argument) for argument in target.command]
        env = without_secrets(inherited(self._settings, self._environ))
        stdin = msgspec.json.encode(notification)
        try:
            done = await run_tool(self._spawner, argv, env, ATTEMPT_TIMEOUT_S, stdin=stdin, keeps_stdout=False)
        except TimeoutError:
            return Fault(f"not done within {ATTEMPT_TIMEOUT_S:g} s")
        return Fault(f"{argv[0]} exited with code {done.exit_code}") if done.exit_code else None


def secret_of(target: NotificationTarget, environ: Mapping[str, str]) -> str:
    """Return the token of ntfy or the secret of a webhook; empty if the target has none.

    Raises:
        ConfigError: the secret is missing or invalid; the message does not contain the secret.
    """
    variable = target.token_env or target.secret_env
    secret = environ.get(variable, "").strip()
    if variable and not secret:
        raise ConfigError(f"the variable {variable} is not set")
    if target.webhook and len(_signing_key(secret)) < _MIN_KEY_BYTES:
        raise ConfigError(
            f"the variable {variable} must have {_KEY_PREFIX} and base64 of at least {_MIN_KEY_BYTES} bytes, as from "
            f"`echo {_KEY_PREFIX}$(openssl rand -base64 32)`"
        )
    return secret


def _signing_key(secret: str) -> bytes:
    """Return the key of a webhook secret; empty if the secret is invalid."""
    if not secret.startswith(_KEY_PREFIX):
        return b""
    try:
        return base64.b64decode(secret.removeprefix(_KEY_PREFIX), validate=True)
    except ValueError:
        return b""


def _notification(type: str, data: RunSummary | None = None) -> Notification:
    return Notification(id=f"msg_{os.urandom(16).hex()}", type=type, timestamp=datetime.now(UTC), data=data)


def _summary(record: RunRecord, title: str) -> RunSummary:
    duration_s = record.ended_at and round(max(0.0, record.ended_at - (record.started_at or record.created_at)), 3)
    answer = record.output[:_MAX_ANSWER_CHARS]
    return copy_as(RunSummary, record, run_id=record.id, title=title, duration_s=duration_s, answer=answer)


def _ntfy_message(notification: Notification, token: str) -> dict[str, object]:
    _, priority, tag = _SHOWN_AS[notification.event]
    headers = {"title": notification.title, "priority": priority, "tags": tag}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return {"body": notification.text, "headers": headers}


def _webhook_message(notification: Notification, secret: str) -> dict[str, object]:
    body, at = msgspec.json.encode(notification).decode(), int(time.time())
    digest = hmac.digest(_signing_key(secret), f"{notification.id}.{at}.{body}".encode(), "sha256")
    headers = {
        "content-type": "application/json",
        "webhook-id": notification.id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    return {"body": body, "headers": headers}
