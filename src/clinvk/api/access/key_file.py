"""The file of API keys in the clinvk home: the name, digest and limits of each key, but never the key.

A digest is a plain SHA-256: a key has 256 random bits, so a slow hash would add nothing.
"""

import asyncio
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.config import saving
from clinvk.config.load import home
from clinvk.store.protocol import KeyStore, SessionStore
from clinvk.types.errors import ConfigError, InvalidRequest
from clinvk.types.text import unknown_name

FILE = "keys.json"
PREFIX = "clinvk_"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

RATES_RPS = (0.0001, 1_000_000.0)
"""The bounds of a key's rate limit, in requests a second. Beyond the bounds the token bucket loses precision."""

BURSTS = (1, 1_000_000)

_Rate = Annotated[float, Meta(ge=RATES_RPS[0], le=RATES_RPS[1])]
_Burst = Annotated[int, Meta(ge=BURSTS[0], le=BURSTS[1])]
_Positive = Annotated[float, Meta(gt=0)]
_Whole = Annotated[int, Meta(gt=0)]
_Time = Annotated[float, Meta(ge=0, lt=253_402_300_800)]  # `datetime` ends with the year 9999


Right = Literal["answer"]
"""What a key may do beyond its own runs: `answer` interactions of the runs of other keys."""


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The limits of a key. With None or an empty list, only the limits of the settings apply.

    Attributes:
        backends: the backends that the key may run.
        workdirs: the directories in which, or below which, the agents of the key may work.
        rate_rps: requests a second, within `RATES_RPS`; `burst` requests, within `BURSTS`, may come at once.
        tokens_per_day: input and output tokens of the runs that began on one UTC day; then runs are refused.
        cost_usd_per_day: cost, as reported by the agents, of the runs that began on one UTC day.
        max_runs: concurrent runs; further runs wait in the queue.
        notify: the notification targets of its runs; requests may name only these.
    """

    backends: tuple[str, ...] = ()
    workdirs: tuple[str, ...] = ()
    rate_rps: _Rate | None = None
    burst: _Burst | None = None
    tokens_per_day: _Whole | None = None
    cost_usd_per_day: _Positive | None = None
    max_runs: _Whole | None = None
    notify: tuple[str, ...] = ()


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key. Times are seconds since the epoch; `digest` is hexadecimal."""

    name: str
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created_at: float = 0.0
    last_used: float | None = None
    expires_at: _Time | None = None
    limits: KeyLimits = KeyLimits()
    rights: tuple[Right, ...] = ()

    @property
    def has_expired(self) -> bool:
        """Whether the key has expired."""
        return self.expires_at is not None and time.time() >= self.expires_at


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...]


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


_Change = Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]


class KeyFile:
    """The keys of one clinvk home. Each change replaces the file atomically, and keeps concurrent changes.

    Attributes:
        place: what has the keys, for messages.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self.place = f"{self.path}"

    async def read(self) -> tuple[ApiKey, ...] | None:
        """Return the keys, or None if there is no file.

        Raises:
            ConfigError: the file cannot be read, is invalid, or is accessible to other users.
        """
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[ApiKey, ...] | None:
        try:
            with open(self.path, "rb", opener=_open_nonblocking) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise self._unreadable("it is not a regular file")
                self._check_owner(status)
                return _decoded(file.read().decode(errors="replace"), self.place)
        except FileNotFoundError as exc:
            if self.path.is_symlink():  # as with a secret that is not mounted yet
                raise self._unreadable("the link leads to nothing") from exc
            return None
        except OSError as exc:
            raise self._unreadable(exc.strerror) from exc

    async def create(
        self,
        name: str,
        limits: KeyLimits,
        dry_run: bool = False,
        expires_at: float | None = None,
        rights: tuple[Right, ...] = (),
    ) -> str:
        """Add a key with a unique name, and return the key; the file stores only the digest. `dry_run` stores nothing.

        Raises:
            InvalidRequest: the name is taken or invalid.
            ConfigError: the file cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"invalid key name {name!r}: use 1 to 64 letters, digits and . _ -, the first a letter or a digit"
            )
        key = PREFIX + secrets.token_urlsafe(32)
        new_key = ApiKey(
            name=name,
            digest=digest_of(key),
            created_at=round(time.time(), 3),
            expires_at=expires_at,
            limits=limits,
            rights=rights,
        )

        def add(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
            if any(existing.name == name for existing in keys):
                raise InvalidRequest(f"key {name!r} exists already; `clinvk keys revoke {name}` removes it")
            return (*keys, new_key)

        await self._change(add, dry_run)
        return key

    async def revoke(self, name: str, dry_run: bool = False) -> None:
        """Remove a key; with `dry_run`, only check that the key can be removed.

        Raises:
            InvalidRequest: no key has this name.
            ConfigError: the file cannot be used.
        """

        def remove(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
            remaining = tuple(key for key in keys if key.name != name)
            if len(remaining) == len(keys):
                raise InvalidRequest(unknown_name("key", name, [key.name for key in keys]))
            return remaining

        if await self.read() is None:
            raise InvalidRequest(f"unknown key {name!r}: there is no file {self.path}")
        await self._change(remove, dry_run)

    async def remove(self) -> None:
        """Remove all keys with the file, so that no key is required.

        Raises:
            ConfigError: the file cannot be removed.
        """
        try:
            await asyncio.to_thread(self.path.unlink, missing_ok=True)
        except OSError as exc:
            raise ConfigError(f"{self.path}: cannot be removed: {exc.strerror}") from exc

    async def store_usage(self, used: Mapping[str, float]) -> None:
        """Store when keys were last used; without a file, store nothing.

        Raises:
            ConfigError: the file cannot be used.
        """
        await self._change(
            lambda keys: tuple(
                replace(key, last_used=max(key.last_used or 0.0, used[key.name])) if key.name in used else key
                for key in keys
            )
        )

    async def _change(self, change: _Change, dry_run: bool = False) -> None:
        def edit(text: str) -> str:
            keys = change(_decoded(text, self.place) if text else ())
            return _encoded(keys) if text or keys else ""

        await self.read()
        await asyncio.to_thread(saving.change_file, self.path, edit, make_folder=True, dry_run=dry_run)

    def _unreadable(self, why: str | None) -> ConfigError:
        return ConfigError(f"{self.path}: the API keys cannot be read: {why}")

    def _check_owner(self, status: os.stat_result) -> None:
        """Refuse a file to which another user could add a key, or in which another user could list the keys.

        Other users may read a file of root: without the permission this user could not read the file either.
        """
        is_own = status.st_uid == os.geteuid()
        if not is_own and status.st_uid != 0:
            raise ConfigError(f"{self.path}: belongs to another user; it must belong to the user of clinvk")
        if is_own and status.st_mode & _OTHERS:
            raise ConfigError(f"{self.path}: others may read or write it; chmod 600 it")
        if status.st_mode & _WRITABLE_BY_OTHERS:
            raise ConfigError(f"{self.path}: others may write it; chmod go-w it")


class KeyTable(KeyFile):
    """The keys in the database of `store.url`. Until the first change there, the keys of the file count."""

    def __init__(self, home: Path, store: KeyStore) -> None:
        super().__init__(home)
        self.place = "the database of store.url"
        self._store = store

    async def read(self) -> tuple[ApiKey, ...] | None:
        """Return the keys, or None if there are none yet. Raises `ConfigError`, `StoreUnavailable`."""
        text = await self._store.keys()
        return await super().read() if text is None else _decoded(text, self.place)

    async def remove(self) -> None:
        """Remove all keys, also of the file, which would count again. Raises `ConfigError`, `StoreUnavailable`."""
        await self._store.change_keys(lambda _: None, dry_run=False)
        await super().remove()

    async def _change(self, change: _Change, dry_run: bool = False) -> None:
        of_file = await super().read() or ()

        def edit(text: str | None) -> str:
            return _encoded(change(of_file if text is None else _decoded(text, self.place)))

        await self._store.change_keys(edit, dry_run)


def key_source(store: SessionStore, environ: Mapping[str, str]) -> KeyFile:
    """Return the keys of the store, else of the clinvk home."""
    return KeyTable(home(environ), store) if isinstance(store, KeyStore) else KeyFile(home(environ))


def _encoded(keys: tuple[ApiKey, ...]) -> str:
    return msgspec.json.format(msgspec.json.encode(_Content(keys)), indent=2).decode() + "\n"


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file without blocking, even if the path is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _decoded(text: str, place: str) -> tuple[ApiKey, ...]:
    try:
        keys = msgspec.json.decode(text, type=_Content).keys
    except msgspec.DecodeError as exc:
        raise ConfigError(f"{place}: is no file of API keys: {exc}") from exc
    for key in keys:
        if not _NAME.fullmatch(key.name):
            raise ConfigError(f"{place}: invalid key name {key.name!r}")
    if len({key.name for key in keys}) < len(keys):
        raise ConfigError(f"{place}: two keys have the same name")
    return keys
