"""The client of a request: its network, and the rate limits of its address and key."""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from operator import itemgetter

from clinvk.api.access.key_file import ApiKey
from clinvk.config.model import ServerSettings
from clinvk.types.errors import RateLimited


def is_network(text: str) -> bool:
    """Return whether a text is an address or a network."""
    try:
        return bool(ip_network(text, strict=False))
    except ValueError:
        return False


_IPV6_NETWORK = 64
"""The prefix length of the IPv6 networks that count as one client: a client usually owns a whole /64."""

_MAX_BUCKETS = 100_000
"""The maximum number of buckets: about ten megabytes."""


class TokenBuckets:
    """Token buckets. A bucket is stored as the time when the bucket is full again; full buckets are not stored."""

    def __init__(self, sweep_every_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._full_at: dict[str, float] = {}
        self._sweep_every_s = sweep_every_s
        self._sweep_at = 0.0
        self._now = now

    def __len__(self) -> int:
        """Return the number of stored buckets."""
        return len(self._full_at)

    def take(self, name: str, rate_rps: float, burst: int) -> float:
        """Take a token and return 0, or return the seconds until the next token if the bucket is empty."""
        now = self._now()
        if now >= self._sweep_at or len(self._full_at) > _MAX_BUCKETS:
            self._sweep(now)
        full_at = max(self._full_at.get(name, 0.0), now) + 1 / rate_rps
        wait_s = full_at - now - burst / rate_rps
        if wait_s > 1e-9:
            return wait_s
        self._full_at[name] = full_at
        return 0.0

    def _sweep(self, now: float) -> None:
        """Drop full buckets. If more than `_MAX_BUCKETS` are left, keep the `_MAX_BUCKETS // 2` emptiest buckets."""
        self._sweep_at = now + self._sweep_every_s
        pending = [(name, full_at) for name, full_at in self._full_at.items() if full_at > now]
        if len(pending) > _MAX_BUCKETS:
            pending = sorted(pending, key=itemgetter(1), reverse=True)[: _MAX_BUCKETS // 2]
        self._full_at = dict(pending)


class RateLimits:
    """The rate limits of the settings for each address and key, and the rate limits of individual keys.

    A request whose key has a rate limit counts only against the key. Any other request counts against its address,
    before the host and the key are checked, and against its key.
    """

    def __init__(self, settings: ServerSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.reset(settings)

    def reset(self, settings: ServerSettings) -> None:
        """Replace the settings, and reset all buckets."""
        self._is_enabled = settings.rate_limit_enabled
        self._rate_rps, self._burst = settings.rate_limit_rps, settings.rate_limit_burst
        # Separate, so that a flood of addresses evicts no key.
        self._addresses = TokenBuckets(settings.rate_limit_cleanup_secs, self._now)
        self._keys = TokenBuckets(settings.rate_limit_cleanup_secs, self._now)

    def take(self, address: str, key: ApiKey | None) -> None:
        """Count a request.

        Raises:
            RateLimited: the request exceeds a rate limit.
        """
        if key and (rate_rps := key.limits.rate_rps):
            burst = key.limits.burst or max(1, math.ceil(rate_rps))
            _take(self._keys, key.name, rate_rps, burst, "of this API key")
        elif self._is_enabled:
            shared = (self._rate_rps, self._burst)
            _take(self._addresses, network_of(address), *shared, "from this address (server.rate_limit_rps)")
            if key:
                _take(self._keys, key.name, *shared, "of this API key (server.rate_limit_rps)")


def _take(buckets: TokenBuckets, name: str, rate_rps: float, burst: int, subject: str) -> None:
    if wait_s := buckets.take(name, rate_rps, burst):
        raise RateLimited(f"too many requests {subject}: {rate_rps:g} a second, {burst} at once", retry_after_s=wait_s)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the /64 network of an IPv6 address, which one client may own; any other text from a proxy unchanged."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv4Address) or ip.ipv4_mapped:
        return str(ip if isinstance(ip, IPv4Address) else ip.ipv4_mapped)
    return str(IPv6Network((ip, _IPV6_NETWORK), strict=False))
