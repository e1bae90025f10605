"""The settings of proxies, and the networks that count as one client."""

import pytest

from clinvk.api.access.auth import check_access
from clinvk.api.access.clients import network_of
from clinvk.config.model import ServerSettings
from clinvk.types.errors import ConfigError


@pytest.mark.parametrize("text", ["", "proxy.example", "10.0.0.0/33", "10.0.0", "*"])
def test_invalid_trusted_proxy_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies\[0\]"):
        check_access(ServerSettings(trusted_proxies=(text,)))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("_hidden", "_hidden"),
        ("::::", "::::"),
    ],
)
def test_network_of_an_address_counts_as_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
