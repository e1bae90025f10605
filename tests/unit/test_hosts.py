"""The allowed hosts of requests, and the allowed origins of pages."""

import socket

import pytest

from clinvk.api.access import auth, hosts
from clinvk.api.access.hosts import AllowedHosts
from clinvk.config.model import ServerSettings
from clinvk.types.errors import ClinvkError, ConfigError, ForeignOrigin, HostRefused, InvalidRequest

OWN = ("box", "box.local")


def error(
    *host: str,
    allowed: tuple[str, ...] = (),
    method: str = "POST",
    version: str = "1.1",
    origin: str | None = None,
    server: tuple[str, int | None] | None = ("192.0.2.7", 8080),
    **state: object,
) -> type[ClinvkError] | None:
    """Return the error for a request with these headers."""
    headers = [(b"host", name.encode("latin-1")) for name in host]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    scope = {"type": "http", "method": method, "http_version": version, "server": server, "headers": headers}
    try:
        AllowedHosts(ServerSettings(allowed_hosts=allowed), OWN).check({**scope, "state": dict(state)})
    except ClinvkError as exc:
        return type(exc)
    return None


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8080", "LocalHost:3000", "localhost.", "a.localhost:80", "127.0.0.1:8080"),
        *("127.8.9.1", "[::1]:8080", "[::1]", "192.0.2.7:8080", "box", "BOX.local:1"),
    ],
)
def test_local_hosts_are_accepted(host: str) -> None:
    assert error(host) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("notlocalhost", "box.evil.example", "192.0.2.8:8080", "[2001:db8::1]", "[::1", "::1"),
        *("localhost:80:80", "localhost:123456", "localhost:", "user@localhost", "localhost/"),
        *("localhost evil", "localhost, evil.example", "l\xf6calhost", "\x00", "2130706433", "0x7f.1", "."),
        *("..localhost", "[]"),
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    assert error(host) is HostRefused


def test_request_must_have_exactly_one_host_header() -> None:
    assert error() is InvalidRequest
    assert error("") is InvalidRequest
    assert error("localhost", "localhost") is InvalidRequest
    assert error("localhost", "evil.example") is InvalidRequest


def test_http_1_0_host_header_is_optional_but_checked() -> None:
    assert error(version="1.0") is None
    assert error("evil.example", version="1.0") is HostRefused


@pytest.mark.parametrize(
    ("allowed", "host", "is_refused"),
    [
        (("agents.example.com",), "agents.example.com:443", False),
        (("Agents.Example.com",), "agents.example.COM", False),
        (("agents.example.com",), "x.agents.example.com", True),
        (("agents.example.com",), "localhost", False),
        (("*.example.com",), "a.b.example.com", False),
        (("*.example.com",), "example.com", True),
        (("*.example.com",), "evilexample.com", True),
        (("203.0.113.5",), "203.0.113.5:8080", False),
        (("[2001:db8::1]",), "[2001:db8::1]:8080", False),
        (("2001:db8::1",), "[2001:db8::1]", False),
        (("*",), "anything.example", False),
    ],
)
def test_allowed_hosts_setting_adds_hosts(allowed: tuple[str, ...], host: str, is_refused: bool) -> None:
    assert error(host, allowed=allowed) is (HostRefused if is_refused else None)


@pytest.mark.parametrize("name", ["", "a b", "http://a", "a:80", "*.", "*a", "a/b", "a..", "**"])
def test_invalid_allowed_host_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.allowed_hosts\[1\]"):
        auth.check_access(ServerSettings(allowed_hosts=("fine.example", name)))


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "PUT"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "file://", "http://localhost:3000", "localhost"])
def test_cross_origin_writes_are_refused(method: str, origin: str) -> None:
    assert error("localhost:8080", method=method, origin=origin) is ForeignOrigin


def test_same_origin_and_allowed_origins_may_write() -> None:
    assert error("localhost:8080", origin="http://localhost:8080") is None
    assert error("Localhost:8080", origin="https://localhost:8080") is None
    assert error("localhost:8080", origin="http://localhost:3000", origin_named=False) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_cross_origin_reads_are_left_to_the_browser(method: str) -> None:
    assert error("localhost", method=method, origin="http://evil.example") is None


def test_dns_rebinding_is_refused_despite_the_same_origin() -> None:
    assert error("evil.example:8080", origin="http://evil.example:8080") is HostRefused


def test_loopback_server_has_no_machine_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert hosts.names_of_machine([sock]) == ()


def test_reachable_server_accepts_its_machine_names() -> None:
    with socket.socket() as sock:  # bound and not listening: nobody can connect
        sock.bind(("0.0.0.0", 0))
        own = hosts.names_of_machine([sock])
    name = socket.gethostname()
    assert {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"} <= set(own)
