"""Web Push: messages to browsers, also closed ones, about runs that wait, have failed, or have taken long.

The server at which a browser subscribed sends the messages, in a cluster for the runs of all nodes.
"""

import asyncio
import hashlib
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.api.access.keys import ApiKeys
from clinvk.api.observe.live import LiveEvents
from clinvk.config import saving
from clinvk.config.model import NotificationSettings
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import in_background
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError, ConfigError, InvalidRequest, NoSuchPath
from clinvk.types.record import RunRecord
from clinvk.types.text import escape_controls

if TYPE_CHECKING:
    from clinvk.runtime.notifications import Fault

logger = logging.getLogger(__name__)

FILE = "push.json"
LONG_RUN_S = 60.0
"""A run that has taken longer sends a message at its end."""

_TARGET = "Web Push"
_MAX_OF_KEY = 20
_MAX_QUEUED = 100
_WORKERS = 4
_TTL_S = 12 * 3600
_DAY_MIN = 24 * 60
_ENDPOINT = re.compile(r"https://([a-z0-9.-]+(?::\d{1,5})?)/[!-~]*")
_SHOWN_AS = {"waiting": "waits for you", "failed": "has failed", "finished": "is done"}
_TEST = {"title": "clinvk", "body": "Notifications of clinvk arrive here.", "path": "#/notifications", "tag": "test"}

_Minute = Annotated[int, Meta(ge=0, lt=_DAY_MIN)]


class PushSubscription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A subscription of a browser."""

    endpoint: Annotated[str, Meta(max_length=1000, description="The address at the push service of the browser.")]
    p256dh: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{87}=?$", description="The public key of the browser.")]
    auth: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{22}(==)?$", description="The secret of the browser.")]
    quiet: Annotated[
        tuple[_Minute, ...],
        Meta(
            min_length=2, max_length=2, description="No messages from the first to the second minute of the day, UTC."
        ),
    ] = (0, 0)

    @property
    def id(self) -> str:
        """The id, which is made of the endpoint."""
        return hashlib.sha256(self.endpoint.encode()).hexdigest()[:32]

    @property
    def is_quiet(self) -> bool:
        """Whether the browser wants no message at this time."""
        begin, end = self.quiet
        return (time.time() // 60 - begin) % _DAY_MIN < (end - begin) % _DAY_MIN


class _Owned(msgspec.Struct, frozen=True):
    """A subscription of the API key with a name and digest; no name is the user of the machine, None without keys."""

    key_name: str | None
    digest: str
    subscription: PushSubscription


class _Content(msgspec.Struct, frozen=True):
    secret: bytes = b""
    owned: tuple[_Owned, ...] = ()


class _Changed(msgspec.Struct, frozen=True):
    id: str
    state: str


@dataclass
class Push:
    """The messages of a server. `file` keeps the server's secret and the subscriptions."""

    settings: NotificationSettings
    file: Path
    environ: Mapping[str, str]
    spawner: Spawner
    keys: ApiKeys
    store: SessionStore
    live: LiveEvents
    _content: _Content = field(default_factory=_Content)
    _queue: asyncio.Queue[_Changed] = field(default_factory=lambda: asyncio.Queue(_MAX_QUEUED))

    @asynccontextmanager
    async def sending(self) -> AsyncGenerator[None]:
        """Send messages inside the context. Raises `ConfigError` if the file cannot be used."""
        with suppress(NoSuchPath):
            if await asyncio.to_thread(lambda: self.file.exists() and bool(_encryption())):
                await self._change(lambda content: content)
        async with in_background(self._send_queued()):
            yield

    async def public_key(self) -> str:
        """Return the public key of the server, which the first call makes. Raises `NoSuchPath`, `ConfigError`."""
        encryption = await asyncio.to_thread(_encryption)
        if not self._content.secret:
            await self._change(lambda content: replace(content, secret=content.secret or encryption.new_secret()))
        return encryption.encoded(encryption.public_bytes(encryption.key_of(self._content.secret)))

    async def add(self, subscription: PushSubscription, key_name: str) -> None:
        """Add or replace a subscription of a key. Raises `NoSuchPath`, `ConfigError`, `InvalidRequest`."""
        await self.public_key()
        self._request(subscription, _TEST)
        key = self.keys.by_name(key_name) if key_name else None
        owned = _Owned(key_name if self.keys else None, key.digest if key else "", subscription)

        def edit(content: _Content) -> _Content:
            others = [each for each in content.owned if each.subscription.id != subscription.id]
            surplus = [each for each in others if each.key_name == owned.key_name][: 1 - _MAX_OF_KEY]
            return replace(content, owned=(*(each for each in others if each not in surplus), owned))

        await self._change(edit)

    async def remove(self, id: str) -> None:
        """Remove the subscription with an id, if there is one."""

        def edit(content: _Content) -> _Content:
            return replace(content, owned=tuple(each for each in content.owned if each.subscription.id != id))

        await self._change(edit)

    async def test(self, id: str) -> "Fault | None":
        """Send a test once. Raises `NoSuchPath` if there is no such subscription."""
        for subscription in (each.subscription for each in self._content.owned if each.subscription.id == id):
            from clinvk.runtime.notifications import attempted

            return await attempted(_TARGET, partial(self._attempt, subscription, _TEST))
        raise NoSuchPath(f"no push subscription {id!r}: subscribe again")

    async def _change(self, edit: Callable[[_Content], _Content]) -> None:
        def edit_text(text: str) -> str:
            try:
                self._content = edit(msgspec.json.decode(text, type=_Content) if text else _Content())
            except msgspec.DecodeError as exc:
                raise ConfigError(f"{self.file}: is no file of push subscriptions: {exc}") from exc
            return msgspec.json.encode(self._content).decode()

        await asyncio.to_thread(saving.change_file, self.file, edit_text, make_folder=True)
        self.live.watcher = self._watch if self._content.owned else None

    def _watch(self, kind: str, data: bytes) -> None:
        if kind != "run" or not data:
            return
        try:
            if (changed := msgspec.json.decode(data, type=_Changed)).state in _SHOWN_AS:
                self._queue.put_nowait(changed)
        except asyncio.QueueFull:
            logger.warning("dropped the push messages of a run: %d wait", _MAX_QUEUED)

    async def _send_queued(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(_WORKERS)))

    async def _work(self) -> None:
        while True:
            changed = await self._queue.get()
            try:
                run = await self.store.run(changed.id)
                session = await self.store.session(run.session_id) if run.session_id else None
                if message := _message(run, changed.state, session.project if session else ""):
                    await asyncio.gather(*(self._send(each, run, message) for each in self._content.owned))
            except ClinvkError as exc:
                logger.warning("no push messages of run %s: %s", changed.id, exc.message)
            except Exception:
                logger.exception("the push messages of run %s failed inside clinvk", changed.id)

    async def _send(self, owned: _Owned, run: RunRecord, message: Mapping[str, str]) -> None:
        """Send a message if its key may answer the run. Remove the subscription if its key or browser is gone."""
        subscription = owned.subscription
        key = self.keys.by_name(owned.key_name) if owned.key_name else None
        is_valid = not self.keys if owned.key_name is None else (key.digest if key else "") == owned.digest
        may_answer = not key or key.name == run.key_name or "answer" in key.rights
        if is_valid and may_answer and not subscription.is_quiet:
            from clinvk.runtime.notifications import deliver

            fault = await deliver(_TARGET, run.id, partial(self._attempt, subscription, message))
            is_valid = not (fault and fault.status in (404, 410))
        if not is_valid:
            await self.remove(subscription.id)

    async def _attempt(self, subscription: PushSubscription, message: Mapping[str, str]) -> "Fault | None":
        from clinvk.runtime.notifications import post

        return await post(self.environ, self.spawner, self._request(subscription, message))

    def _request(self, subscription: PushSubscription, message: Mapping[str, str]) -> Mapping[str, object]:
        """Return the request to the push service.

        Raises:
            InvalidRequest: the endpoint is at no host of `notifications.push_hosts`, or the public key is invalid.
        """
        encryption, hosts = _encryption(), self.settings.push_hosts
        endpoint, found = subscription.endpoint, _ENDPOINT.fullmatch(subscription.endpoint)
        if not found or not any(fnmatchcase(found[1], host) for host in hosts):
            allowed = ", ".join(hosts)
            raise InvalidRequest(f"endpoint must be https: at one of notifications.push_hosts: {allowed}", "endpoint")
        p256dh, auth = map(encryption.decoded, (subscription.p256dh, subscription.auth))
        sender, salt = encryption.key_of(encryption.new_secret()), os.urandom(16)
        try:
            body = encryption.encrypt(msgspec.json.encode(message), p256dh, auth, sender, salt)
        except ValueError as exc:
            raise InvalidRequest("p256dh is no public key of the curve P-256", "p256dh") from exc
        key = encryption.key_of(self._content.secret)
        headers = {
            "authorization": encryption.authorization(key, endpoint, self.settings.push_contact),
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(_TTL_S),
            "topic": message["tag"],
            "urgency": "high",
        }
        return {"url": endpoint, "headers": headers, "body": body.decode("latin-1"), "charset": "latin-1"}


def _encryption():  # the type of the module itself is more than ModuleType
    """Import what most servers do not need; return the module with the cryptography. The first call blocks.

    Raises:
        NoSuchPath: `clinvk[push]` is not installed.
    """
    import_module("clinvk.runtime.notifications")
    try:
        from clinvk.api.push import encryption
    except ImportError as exc:
        raise NoSuchPath(f"Web Push needs a package ({exc}): pip install 'clinvk[push]'") from exc
    return encryption


def _message(run: RunRecord, state: str, project: str) -> Mapping[str, str] | None:
    """Return the message for a state of a run, without any text of the conversation, or None."""
    took_s = (run.ended_at or 0) - (run.started_at or run.created_at)
    if (state == "finished" and took_s < LONG_RUN_S) or (run.parent_id and state != "waiting"):
        return None
    title = f"{run.backend or run.kind} {_SHOWN_AS[state]}"
    title += f" after {took_s / 60:.0f} min" if state == "finished" else ""
    screen = "compare" if run.kind == "compare" else "run"
    path = f"#/session/{run.session_id}" if run.session_id else f"#/{screen}/{run.id}"
    return {"title": title, "body": escape_controls(Path(project or run.workdir).name), "path": path, "tag": run.id}
