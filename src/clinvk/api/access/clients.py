"""The client of a request: its address behind trusted proxies, and the rate limits of its address and key.

Proxies name clients in `X-Forwarded-For` and `X-Forwarded-Proto`, or `Forwarded` (RFC 7239).
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from operator import itemgetter

from starlette.types import Scope

from clinvk.api.access.key_file import ApiKey
from clinvk.api.http.response import Header, headers_of
from clinvk.config.model import ServerSettings
from clinvk.dialects.dialect import RateLimited

Address = IPv4Address | IPv6Address

_MAX_HOPS = 50
_PAIR = re.compile(r'\s*([a-z]+)=(?:"([^"\\]*)"|([^\s";,]*))\s*', re.IGNORECASE)
_SCHEMES = ("http", "https")


class TrustedProxies:
    """The trusted proxies. Without any, the forwarding headers are ignored."""

    def __init__(self, settings: ServerSettings) -> None:
        self._networks = [ip_network(text, strict=False) for text in settings.trusted_proxies]
        self._is_trusted_cached = lru_cache(maxsize=4096)(self._is_trusted)

    def __bool__(self) -> bool:
        """Return whether any proxy is trusted."""
        return bool(self._networks)

    def apply(self, scope: Scope) -> None:
        """Set the client and the scheme of a request from the headers of a trusted proxy."""
        peer = _address(scope["client"][0]) if scope["client"] else None
        if peer is None or not self._is_trusted_cached(peer):
            return
        headers = headers_of(scope)
        forwarded = list(_elements(_lines(scope["headers"], b"forwarded"))) if "forwarded" in headers else []
        chain = [address.strip() for address in ",".join(_lines(scope["headers"], b"x-forwarded-for")).split(",")]
        clients = [self._client(chain[-_MAX_HOPS:], peer)] if chain != [""] else []
        if forwarded:
            clients.append(self._client([element.get("for", "") for element in forwarded[-_MAX_HOPS:]], peer))
        if len(set(clients)) == 1:  # if the headers differ, the client sent one of them
            scope["state"]["proxy"] = scope["client"]
            scope["client"] = (str(clients[0]), 0)
        proto = headers.get("x-forwarded-proto") or (forwarded[-1].get("proto", "") if forwarded else "")
        if proto.lower() in _SCHEMES:
            scope["scheme"] = proto.lower()

    def _client(self, chain: Sequence[str], peer: Address) -> Address:
        """Return the first untrusted address, from the server's side. An invalid address ends the search."""
        client = peer
        for text in reversed(chain):
            if (address := _address(text)) is None:
                break
            client = address
            if not self._is_trusted_cached(address):
                break
        return client

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def is_network(text: str) -> bool:
    """Return whether a text is an address or a network."""
    try:
        return bool(ip_network(text, strict=False))
    except ValueError:
        return False


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """Parse an address as proxies write addresses: plain, with a port, or in brackets. Return None if invalid."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _lines(headers: Iterable[Header], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _elements(lines: Iterable[str]) -> Iterable[dict[str, str]]:
    """Yield the parameters of each proxy in `Forwarded`, the nearest proxy last."""
    for element in ",".join(lines).split(","):
        if element.strip():
            pairs = (_PAIR.fullmatch(part) for part in element.split(";"))
            yield {pair[1].lower(): pair[2] or pair[3] or "" for pair in pairs if pair}


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
        raise RateLimited(f"too many requests {subject}: {rate_rps:g} a second, {burst} at once", wait_s)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return an IPv4 address unchanged, or the /64 network of an IPv6 address, which one client may own."""
    if ":" not in address:
        return address
    ip = IPv6Address(address.partition("%")[0])
    return str(ip.ipv4_mapped or IPv6Network((ip, _IPV6_NETWORK), strict=False))
