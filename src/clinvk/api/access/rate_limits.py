"""How often a client may ask: a token bucket for each address and each key."""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from operator import itemgetter

from clinvk.api.access.key_file import Key
from clinvk.config.model import ServerSettings
from clinvk.dialects.dialect import RateLimited

_IPV6_NETWORK = 64
"""The bits of an IPv6 address that tell clients apart: who has one address has all that share these."""

_MOST = 100_000
"""Buckets that are kept at most: some ten megabytes."""


class Buckets:
    """Token buckets, each kept as the moment at which it will be full again; one that is full is not kept."""

    def __init__(self, sweep_every_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._full_at: dict[str, float] = {}
        self._sweep_every_s = sweep_every_s
        self._sweep_at = 0.0
        self._now = now

    def __len__(self) -> int:
        """Return the number of buckets that are kept."""
        return len(self._full_at)

    def take(self, name: str, rate_rps: float, burst: int) -> float:
        """Take a token; give 0, or if there is none the seconds until there is."""
        now = self._now()
        if now >= self._sweep_at or len(self._full_at) > _MOST:
            self._sweep(now)
        full_at = max(self._full_at.get(name, 0.0), now) + 1 / rate_rps
        wait_s = full_at - now - burst / rate_rps
        if wait_s > 1e-9:
            return wait_s
        self._full_at[name] = full_at
        return 0.0

    def _sweep(self, now: float) -> None:
        """Forget those that are full; of too many the half that is the fullest, which is nearest to being forgotten."""
        self._sweep_at = now + self._sweep_every_s
        kept = [(name, full_at) for name, full_at in self._full_at.items() if full_at > now]
        if len(kept) > _MOST:
            kept = sorted(kept, key=itemgetter(1), reverse=True)[: _MOST // 2]
        self._full_at = dict(kept)


class Limits:
    """The limits of the settings for each address and key, and those of keys that have one of their own.

    A key with a rate of its own is held to that alone, from wherever it comes; any other request counts for its
    address, before it is looked at, and for its key.
    """

    def __init__(self, settings: ServerSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.renew(settings)

    def renew(self, settings: ServerSettings) -> None:
        """Take other settings, and begin anew."""
        self._is_on = settings.rate_limit_enabled
        self._rate_rps, self._burst = settings.rate_limit_rps, settings.rate_limit_burst
        # Apart, so that however many addresses there are, no key is forgotten.
        self._addresses = Buckets(settings.rate_limit_cleanup_secs, self._now)
        self._keys = Buckets(settings.rate_limit_cleanup_secs, self._now)

    def take(self, address: str, key: Key | None) -> None:
        """Count a request.

        Raises:
            RateLimited: it is one too many.
        """
        if key and (rate_rps := key.limits.rate_rps):
            burst = key.limits.burst or max(1, math.ceil(rate_rps))
            _take(self._keys, key.name, rate_rps, burst, "of this API key")
        elif self._is_on:
            shared = (self._rate_rps, self._burst)
            _take(self._addresses, network_of(address), *shared, "from this address (server.rate_limit_rps)")
            if key:
                _take(self._keys, key.name, *shared, "of this API key (server.rate_limit_rps)")


def _take(buckets: Buckets, name: str, rate_rps: float, burst: int, whose: str) -> None:
    if wait_s := buckets.take(name, rate_rps, burst):
        raise RateLimited(f"too many requests {whose}: {rate_rps:g} a second, {burst} at once", wait_s)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the address of a client, or the network of an IPv6 address, which one client may own."""
    if ":" not in address:
        return address
    whole = IPv6Address(address.partition("%")[0])
    return str(whole.ipv4_mapped or IPv6Network((whole, _IPV6_NETWORK), strict=False))
