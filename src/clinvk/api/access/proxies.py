"""Client addresses behind trusted proxies: `X-Forwarded-For` and `X-Forwarded-Proto`, or `Forwarded` (RFC 7239)."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from clinvk.api.http.response import Header, headers_of
from clinvk.config.model import ServerSettings

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
