"""API keys: where they come from, and whether a request carries one."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from clinvk.config import Settings
from clinvk.errors import ClinvkError, ConfigError
from clinvk.runtime.process import Spawner, run_tool

VARIABLE = "CLINVK_API_KEYS"

GOPASS_WITHIN_S = 30.0
_KEY = re.compile(r"[!-+\--~]+")
"""Visible ASCII without the comma that stands between two keys: what a header can carry as it is."""


class Keys:
    """The keys that are taken; without any, everybody is let in. Only their digests are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple({_digest(key.encode()) for key in keys})

    def take(self, other: "Keys") -> None:
        """Take the keys of another in place of these."""
        self._digests = other._digests

    def __bool__(self) -> bool:
        """Say whether a key is asked for."""
        return bool(self._digests)

    def admit(self, headers: Mapping[str, str]) -> bool:
        """Say whether one of the keys is in `authorization` or `x-api-key`.

        Every key that is given is held against every key that there is, so that the time tells nothing.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = [token.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "").strip()]
        digests = [_digest(key.encode("latin-1")) for key in given]
        return bool(sum(hmac.compare_digest(one, other) for one in digests for other in self._digests))


async def read(
    settings: Settings, environ: Mapping[str, str], spawner: Spawner, gopass_within_s: float = GOPASS_WITHIN_S
) -> Keys:
    """Read the keys: `CLINVK_API_KEYS`, else what gopass keeps under `server.api_keys_gopass_path`.

    Raises:
        ConfigError: there are none where there should be, or one that no header could carry.
    """
    if (text := environ.get(VARIABLE)) is not None:
        return _keys(text, VARIABLE, f"{VARIABLE} is set, but has no key in it; unset it to serve without keys")
    if path := settings.server.api_keys_gopass_path:
        place = f"gopass entry {path!r} (server.api_keys_gopass_path)"
        text = await _gopass(path, place, environ, spawner, gopass_within_s)
        return _keys(text, place, f"{place} has no key in it")
    return Keys()


async def _gopass(path: str, place: str, environ: Mapping[str, str], spawner: Spawner, within_s: float) -> str:
    try:
        answer = await run_tool(spawner, ("gopass", "show", "-o", path), environ, within_s)
    except ClinvkError as exc:
        raise ConfigError(f"{place} cannot be read: {exc.message}") from exc
    except TimeoutError:
        raise ConfigError(f"{place} cannot be read: gopass took over {within_s:g} s") from None
    if answer.exit_code:
        said = " ".join(answer.stderr.decode(errors="replace").split()) or "it does not say why"
        raise ConfigError(f"{place} cannot be read: gopass exited with {answer.exit_code}: {said:.300}")
    return answer.stdout.decode(errors="replace")


def _keys(text: str, place: str, if_none: str) -> Keys:
    keys = [key for part in re.split(r"[,\n]", text) if (key := part.strip())]
    if not keys:
        raise ConfigError(if_none)
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{place}: key {number} has characters other than visible ASCII, or spaces inside")
    return Keys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
