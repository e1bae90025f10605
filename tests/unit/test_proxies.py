"""The client's address behind proxies; only trusted proxies are believed."""

import msgspec
import pytest
from starlette.types import Scope

from clinvk.api.access.auth import check_access
from clinvk.api.access.clients import TrustedProxies
from clinvk.config.model import ServerSettings
from clinvk.types.errors import ConfigError

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")
OUTSIDE = "203.0.113.9"


def seen(peer: str | None, *headers: tuple[str, str], trusted: tuple[str, ...] = TRUSTED) -> tuple[str | None, str]:
    """Return the client and the scheme of a request from `peer`."""
    scope: Scope = {
        "type": "http",
        "client": (peer, 1234) if peer else None,
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "state": {},
    }
    TrustedProxies(ServerSettings(trusted_proxies=trusted)).apply(scope)
    return msgspec.convert(scope["client"][0] if scope["client"] else None, str | None), f"{scope['scheme']}"


def xff(*values: str) -> tuple[tuple[str, str], ...]:
    return tuple(("x-forwarded-for", value) for value in values)


BELIEVED = [
    (xff(OUTSIDE), OUTSIDE),
    (xff(f"{OUTSIDE}, 10.1.1.1"), OUTSIDE),
    (xff(OUTSIDE, "10.1.1.1"), OUTSIDE),
    (xff(f"198.51.100.66, {OUTSIDE}"), OUTSIDE),
    (xff("198.51.100.66", OUTSIDE), OUTSIDE),
    (xff(f"unknown, {OUTSIDE}, 10.1.1.1"), OUTSIDE),
    (xff(f"{OUTSIDE}:4711"), OUTSIDE),
    (xff("[2001:dba::7]:4711"), "2001:dba::7"),
    (xff("2001:dba::7"), "2001:dba::7"),
    (xff(f"::ffff:{OUTSIDE}"), OUTSIDE),
    ((("forwarded", f"for={OUTSIDE};proto=https"),), OUTSIDE),
    ((("forwarded", f'for="{OUTSIDE}:80"'),), OUTSIDE),
    ((("forwarded", 'for="[2001:dba::7]:4711", for=10.0.0.2'),), "2001:dba::7"),
    ((("forwarded", f"For={OUTSIDE}"), ("forwarded", "for=10.0.0.2")), OUTSIDE),
    ((*xff(OUTSIDE), ("forwarded", f"for={OUTSIDE}")), OUTSIDE),
]


@pytest.mark.parametrize(("headers", "client"), BELIEVED)
def test_nearest_untrusted_address_is_the_client(headers: tuple[tuple[str, str], ...], client: str) -> None:
    assert seen("10.0.0.1", *headers)[0] == client


UNTOLD = [
    (),
    xff(""),
    xff("unknown"),
    xff("_hidden"),
    xff("a" * 10_000),
    xff(f"{OUTSIDE}, nonsense"),
    xff(f"{OUTSIDE},"),
    (("forwarded", "for"),),
    (("forwarded", 'for="'),),
    (("forwarded", "for=unknown"),),
    (("forwarded", ";;;,,,"),),
    (*xff(OUTSIDE), ("forwarded", "for=198.51.100.66")),
    (("x-real-ip", OUTSIDE),),
]


@pytest.mark.parametrize("headers", UNTOLD)
def test_proxy_is_the_client_when_it_sends_no_unambiguous_address(headers: tuple[tuple[str, str], ...]) -> None:
    assert seen("10.0.0.1", *headers)[0] == "10.0.0.1"


@pytest.mark.parametrize("peer", [OUTSIDE, "192.0.2.2", "11.0.0.1", None])
def test_headers_from_an_untrusted_peer_are_ignored(peer: str | None) -> None:
    headers = (*xff("127.0.0.1"), ("x-forwarded-proto", "https"), ("forwarded", "for=127.0.0.1;proto=https"))
    assert seen(peer, *headers) == (peer, "http")


def test_no_peer_is_trusted_by_default() -> None:
    assert not TrustedProxies(ServerSettings())
    assert seen("127.0.0.1", *xff(OUTSIDE), trusted=()) == ("127.0.0.1", "http")


def test_farthest_address_is_the_client_when_all_are_trusted() -> None:
    assert seen("10.0.0.1", *xff("10.9.9.9, 10.8.8.8"))[0] == "10.9.9.9"


def test_long_list_of_hops_is_read_from_its_near_end_only() -> None:
    assert seen("10.0.0.1", *xff(", ".join([OUTSIDE, *["10.0.0.2"] * 5000])))[0] == "10.0.0.2"


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ((("x-forwarded-proto", "https"),), "https"),
        ((("x-forwarded-proto", "HTTPS"),), "https"),
        ((("x-forwarded-proto", "ftp"),), "http"),
        ((("x-forwarded-proto", "https, http"),), "http"),
        ((("forwarded", f"proto=https;for={OUTSIDE}"),), "https"),
        ((("forwarded", f"for={OUTSIDE};proto=http, for=10.0.0.2;proto=https"),), "https"),
    ],
)
def test_scheme_is_the_one_reported_by_the_proxy(headers: tuple[tuple[str, str], ...], scheme: str) -> None:
    assert seen("10.0.0.1", *headers)[1] == scheme


def test_ipv4_mapped_ipv6_address_matches_ipv4() -> None:
    assert seen("::ffff:10.0.0.1", *xff(OUTSIDE))[0] == OUTSIDE


@pytest.mark.parametrize("text", ["", "proxy.example", "10.0.0.0/33", "10.0.0", "*"])
def test_invalid_trusted_proxy_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies\[0\]"):
        check_access(ServerSettings(trusted_proxies=(text,)))
