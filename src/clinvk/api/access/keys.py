"""API keys: load them, and find the key of a request."""

import asyncio
import hmac
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager

from clinvk.api.access.key_file import PREFIX, ApiKey, KeyFile, digest_of, key_source
from clinvk.config.model import Settings
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import in_background
from clinvk.store.opening import open_store
from clinvk.types.errors import ClinvkError, ConfigError, StoreUnavailable
from clinvk.types.redaction import without_secrets

logger = logging.getLogger(__name__)

VARIABLE = "CLINVK_API_KEYS"

GOPASS_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 2.0
NOTE_INTERVAL_S = 60.0
_KEY = re.compile(r"[!-+\--~]+")
"""The characters of a key: visible ASCII, which a header carries unchanged, except the comma, which separates keys."""

_DIGEST_PREFIX_CHARS = 16
_START = "start"
_NAME_DIGITS = 8


class ApiKeys:
    """The valid keys. A key is required if keys exist, or existed at any time since the server started.

    Only the digests of the keys are kept. A lookup by the beginning of a digest finds a candidate; a comparison of the
    whole digests in constant time decides. The time of the lookup reveals nothing about the keys, only about the digest
    of the sent text.
    """

    def __init__(self, keys: Iterable[ApiKey | str] = (), file_keys: Iterable[ApiKey] | None = None) -> None:
        """Take permanent `keys` (a str is the text of a key) and the keys of the key file, None without a file."""
        self.trusts_gateways = False
        """Whether gateways of a cluster identify the clients: a key that is not in the file is known to its gateway."""
        self.used: dict[str, float] = {}
        """When keys of the file were used, by name, since the last `KeyFile.store_usage`."""
        self._permanent = tuple(_key("key", key, n) if isinstance(key, str) else key for n, key in enumerate(keys, 1))
        self._required = bool(self._permanent)
        self._by_name: dict[str, ApiKey] = {}
        self._by_digest: dict[str, ApiKey] = {}
        self.replace_file_keys(file_keys)

    def __bool__(self) -> bool:
        """Return whether a key is required."""
        return self._required

    def replace_file_keys(self, file_keys: Iterable[ApiKey] | None) -> None:
        """Replace the keys of the file. A server that has required a key keeps requiring one."""
        self._required = self._required or file_keys is not None
        self._file_keys = {key.name: key for key in file_keys or ()}
        self._index()

    def replace_permanent(self, other: "ApiKeys") -> None:
        """Replace the permanent keys by those of `other`. A key created for this start stays if `other` requires none.

        A key is required if `other` requires a key. The keys of the file stay: they follow the file anyway, and may
        be newer than those of `other`.
        """
        self._required = self._required or other._required
        if other or not self.is_temporary:
            self._permanent = other._permanent
            self._index()

    def _index(self) -> None:
        keys = (*self._permanent, *self._file_keys.values())
        self._by_name = {key.name: key for key in keys}
        self._by_digest = {key.digest[:_DIGEST_PREFIX_CHARS]: key for key in keys}

    @property
    def is_temporary(self) -> bool:
        """Whether the key was created for one start of a server without keys."""
        return any(key.name.startswith(f"{_START}:") for key in self._permanent)

    def by_name(self, name: str) -> ApiKey | None:
        """Return the key with a name, or None if the key is unknown, revoked or expired."""
        key = self._by_name.get(name)
        if key is None and self.trusts_gateways and ":" in name:
            return ApiKey(name=name, digest="0" * 64)
        return None if key is None or key.has_expired else key

    def find(self, headers: Mapping[str, str], query_key: str = "") -> ApiKey | None:
        """Return the first valid key in `authorization`, `x-api-key`, `x-goog-api-key` or a query."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else ""
        texts = (bearer, headers.get("x-api-key"), headers.get("x-goog-api-key"), query_key)
        return next((key for text in texts if text and (key := self.by_text(text.strip()))), None)

    def by_text(self, text: str) -> ApiKey | None:
        """Return the valid key with this text, and record its use."""
        return self.by_digest(digest_of(text))

    def by_digest(self, digest: str) -> ApiKey | None:
        """Return the valid key with a digest, and record its use."""
        key = self._by_digest.get(digest[:_DIGEST_PREFIX_CHARS])
        if key is None or not hmac.compare_digest(key.digest, digest) or key.has_expired:
            return None
        if key.name in self._file_keys:
            self.used[key.name] = time.time()
        return key


def start_key() -> tuple[str, ApiKeys]:
    """Create a key for one start of the server. Return its text, and `ApiKeys` with only this key."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, ApiKeys([_key(_START, text)])


async def read_keys(
    settings: Settings, environ: Mapping[str, str], spawner: Spawner, gopass_timeout_s: float = GOPASS_TIMEOUT_S
) -> ApiKeys:
    """Read the keys from `CLINVK_API_KEYS`, else from gopass (`server.api_keys_gopass_path`), and from the key file.

    Raises:
        ConfigError: a source is empty or unreadable, or a key has characters that no header can carry.
    """
    permanent: list[ApiKey] = []
    has_numbers = not (settings.cluster.url or settings.store.url)  # else other servers have other keys
    if (text := environ.get(VARIABLE)) is not None:
        message = f"{VARIABLE} is set, but has no key in it; unset it to serve without keys"
        permanent = _keys(text, "env", VARIABLE, message, has_numbers)
    elif path := settings.server.api_keys_gopass_path:
        source = f"gopass entry {path!r} (server.api_keys_gopass_path)"
        text = await _gopass(path, source, environ, spawner, gopass_timeout_s)
        permanent = _keys(text, "gopass", source, f"{source} has no key in it", has_numbers)
    async with open_store(settings, environ) as store:
        file = key_source(store, environ)
        file_keys = await file.read()
    if file_keys == () and not permanent:
        raise ConfigError(
            f"{file.place} contains no key. Create one: clinvk keys create NAME. To require none: clinvk keys off"
        )
    return ApiKeys(permanent, file_keys)


@asynccontextmanager
async def watch_key_sources(keys: ApiKeys, file: KeyFile) -> AsyncGenerator[None]:
    """Reload the keys of the file at intervals, and store in the file when keys were used, inside this context."""
    async with in_background(_watch(keys, file)):
        yield
    await _store_usage(keys, file)


async def _watch(keys: ApiKeys, file: KeyFile) -> None:
    error, store_usage_at = "", 0.0
    while True:
        previous_error = error
        try:
            keys.replace_file_keys(await file.read())
            error = ""
        except (ConfigError, StoreUnavailable) as exc:
            error = exc.message
        if error not in ("", previous_error):
            logger.warning("the API keys cannot be read, and those already read stay valid: %s", error)
        if keys.used and time.monotonic() >= store_usage_at:
            await _store_usage(keys, file)
            store_usage_at = time.monotonic() + NOTE_INTERVAL_S
        await asyncio.sleep(POLL_INTERVAL_S)


async def _store_usage(keys: ApiKeys, file: KeyFile) -> None:
    """Store in the file when its keys were used. Log a failure instead of raising."""
    used = dict(keys.used)
    if not used:
        return
    try:
        await file.store_usage(used)
    except (ConfigError, StoreUnavailable) as exc:
        logger.warning("the last use of API keys cannot be stored: %s", exc.message)
    else:
        keys.used = {name: at for name, at in keys.used.items() if at != used.get(name)}


def _keys(text: str, source: str, place: str, message: str, has_numbers: bool) -> list[ApiKey]:
    keys = [key for part in re.split(r"[,\n]", text) if (key := part.strip())]
    if not keys:
        raise ConfigError(message)
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{place}: key {number} has characters other than visible ASCII, or spaces inside")
    return [_key(source, key, number if has_numbers else None) for number, key in enumerate(keys, 1)]


def _key(source: str, text: str, number: int | None = None) -> ApiKey:
    """Return a key that is not from the file, named by a number or by its digest.

    The name has a colon, which no name in the file can have.
    """
    digest = digest_of(text)
    return ApiKey(name=f"{source}:{number or digest[:_NAME_DIGITS]}", digest=digest)


async def _gopass(path: str, source: str, environ: Mapping[str, str], spawner: Spawner, timeout_s: float) -> str:
    try:
        answer = await run_tool(spawner, ("gopass", "show", "-o", path), without_secrets(environ), timeout_s)
    except ClinvkError as exc:
        raise ConfigError(f"{source} cannot be read: {exc.message}") from exc
    except TimeoutError:
        raise ConfigError(f"{source} cannot be read: gopass took over {timeout_s:g} s") from None
    if answer.exit_code:
        reason = " ".join(answer.stderr.decode(errors="replace").split()) or "it does not say why"
        raise ConfigError(f"{source} cannot be read: gopass exited with {answer.exit_code}: {reason:.300}")
    return answer.stdout.decode(errors="replace")
