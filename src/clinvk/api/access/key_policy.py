"""The policy of an API key: backends, directories, and usage per day."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from msgspec.structs import replace

from clinvk.api.access.key_file import ApiKey, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.policy.directories import DirectoryLists
from clinvk.runtime.process.waiting import Lookups
from clinvk.store.protocol import SessionStore
from clinvk.types import errors
from clinvk.types.record import Session
from clinvk.types.request import RunRequest

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 2.0
_DAY_S = 86_400


class _KeyUsage(msgspec.Struct, frozen=True):
    """The usage of a key on one day, as of the last query."""

    day: str
    tokens: int
    cost_usd: float


class KeyPolicy:
    """Checks requests against the limits of their keys (`RunRequest.key_name`). A request without a key has no limits.

    The daily usage of a key is the usage of ended runs in the store. The usage is queried for each request, and every
    few seconds for queued requests. Runs under way continue when the daily usage reaches the limit.
    """

    def __init__(self, keys: ApiKeys, store: SessionStore, lookups: Lookups | None = None) -> None:
        self._keys = keys
        self._store = store
        self._usage: dict[str, _KeyUsage] = {}
        self._lookups = lookups or Lookups()

    async def admit(self, request: RunRequest, key_name: str) -> RunRequest:
        """Check a completed request against the policy of its key.

        Return the request with the name of the key and, unless the request names some, its notification targets.

        Raises:
            KeyRefused, BackendNotAllowed, DirectoryNotAllowed, BudgetSpent: as `check`.
            BeyondPolicy: the key does not allow a notification target.
            StoreUnavailable: the usage of the key is unknown.
        """
        if not key_name:
            return request
        request = replace(request, key_name=key_name)
        key = self._key(key_name)
        if targets := key.limits.notify:
            if not set(request.notify or ()).issubset(targets):
                raise errors.BeyondPolicy(f"notify: this API key may notify only {', '.join(targets)}", "notify")
            request = replace(request, notify=targets if request.notify is None else request.notify)
        if key.limits.tokens_per_day or key.limits.cost_usd_per_day:
            await self._query_usage(key.name)
        if key.limits.workdirs:
            await self._lookups.run(partial(self.check, request), request.workdir, *request.add_dirs)
        else:
            self.check(request)
        return request

    def check(self, request: RunRequest, workdir: str = "") -> None:
        """Check a request again, right before its agent starts; `workdir` is the resolved working directory.

        Raises:
            KeyRefused: the key was revoked or has expired.
            BackendNotAllowed: the key may not run this backend.
            DirectoryNotAllowed: agents of the key may not work in a directory of the request.
            BudgetSpent: the key has reached a daily limit.
        """
        if not request.key_name:
            return
        key = self._key(request.key_name)
        limits = key.limits
        _check_limits(request.backends, workdir or request.workdir, request.add_dirs, limits)
        usage = self._usage.get(key.name)
        if usage is None or usage.day != today():
            return
        if limits.tokens_per_day and usage.tokens >= limits.tokens_per_day:
            raise _budget_spent(f"{limits.tokens_per_day} tokens")
        if limits.cost_usd_per_day and usage.cost_usd >= limits.cost_usd_per_day:
            raise _budget_spent(f"{limits.cost_usd_per_day:g} US dollars")

    async def check_session(self, session: Session, key_name: str) -> None:
        """Refuse to change or fork a session that a key may not continue.

        Raises:
            KeyRefused, BackendNotAllowed, DirectoryNotAllowed: as `check`.
        """
        if key_name:
            limits, workdir = self._key(key_name).limits, session.project
            await self._lookups.run(partial(_check_limits, (session.backend,), workdir, (), limits))

    def check_directory(self, path: str, key_name: str) -> None:
        """Refuse a directory in which agents of a key may not work. Blocks.

        Raises:
            KeyRefused, DirectoryNotAllowed: as `check`.
        """
        if key_name:
            _check_limits((), path, (), self._key(key_name).limits)

    def check_answer(self, key_name: str, run_key_name: str) -> None:
        """Refuse an answer to an agent whose run began with another key, unless the key has the right `answer`.

        Raises:
            KeyRefused: the key was revoked or has expired.
            BeyondPolicy: the key may not answer.
        """
        if key_name and key_name != run_key_name and "answer" not in self._key(key_name).rights:
            raise errors.BeyondPolicy(
                "this API key may answer only the agents of its own runs; it lacks the right 'answer'"
            )

    def has_backend(self, key_name: str, backend: str) -> bool:
        """Return whether requests with a key may run a backend.

        Raises:
            KeyRefused: the key was revoked.
        """
        return not key_name or _has_backend(self._key(key_name).limits, backend)

    def max_runs(self, client: str) -> int | None:
        """Return how many runs of a client may run at once, as its key limits; None if unlimited."""
        key = self._keys.by_name(client)
        return key.limits.max_runs if key else None

    def check_command(self, key_name: str) -> None:
        """Refuse a shell command if the key has limits, because a command would bypass the limits.

        Raises:
            KeyRefused: the key was revoked or has expired.
            BeyondPolicy: the key has limits.
        """
        if not key_name:
            return
        limits = self._key(key_name).limits
        if limits.workdirs or limits.backends or limits.tokens_per_day or limits.cost_usd_per_day:
            raise errors.BeyondPolicy(
                "check is a shell command, which could exceed the limits of this API key: only keys without backends, "
                "workdirs and daily limits may use it",
                "check",
            )

    async def refresh(self, interval_s: float = REFRESH_INTERVAL_S) -> None:
        """Refresh the daily usage for `check` at intervals until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            self._usage = {name: usage for name, usage in self._usage.items() if self._keys.by_name(name)}
            for name in tuple(self._usage):
                try:
                    await self._query_usage(name)
                except errors.StoreUnavailable:
                    break  # the next request gets the error; the usage stays unknown until then
                except Exception:
                    logger.exception("the usage of key %r cannot be read", name)

    async def _query_usage(self, name: str) -> None:
        day = today()
        rows = await self._store.usage(day, name)
        tokens = sum(item.usage.total_tokens for item in rows)
        self._usage[name] = _KeyUsage(day, tokens, sum(item.cost_usd for item in rows))

    def _key(self, name: str) -> ApiKey:
        if not (key := self._keys.by_name(name)):
            raise errors.KeyRefused("the API key of this request has been revoked or has expired")
        return key


def today() -> str:
    """Return the day, UTC, as `2026-11-25`."""
    return datetime.now(UTC).date().isoformat()


def _has_backend(limits: KeyLimits, backend: str) -> bool:
    return not limits.backends or backend in limits.backends


def _check_limits(backends: Sequence[str], workdir: str | None, add_dirs: Sequence[str], limits: KeyLimits) -> None:
    """Check the backends and the directories of a request."""
    for backend in (name for name in backends if not _has_backend(limits, name)):
        raise errors.BackendNotAllowed(
            f"this API key may not run backend {backend!r} (allowed: {', '.join(limits.backends)})", "backend"
        )
    if not limits.workdirs:
        return
    allowed = DirectoryLists(allowed=tuple(map(os.path.realpath, limits.workdirs)))
    others = ((f"add_dirs[{index}]", path) for index, path in enumerate(add_dirs))
    for field, path in (("workdir", workdir or "/"), *others):
        if allowed.refusal(os.path.realpath(path)):
            raise errors.DirectoryNotAllowed(
                f"{field} {path!r} is in no directory that this API key may work in: {', '.join(limits.workdirs)}",
                field,
            )


def _budget_spent(budget: str) -> errors.BudgetSpent:
    return errors.BudgetSpent(
        f"this API key has used up its {budget} of the day; the next day begins at midnight, UTC",
        retry_after_s=_DAY_S - time.time() % _DAY_S,
    )
