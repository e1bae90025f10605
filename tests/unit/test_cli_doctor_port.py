"""How `clinvk doctor` tells where a server would listen."""

import pytest

from clinvk.cli.admin.doctor.machine import check_port
from clinvk.config.model import ServerSettings


@pytest.mark.parametrize(("host", "where"), [("127.0.0.1", "127.0.0.1:0"), ("::1", "[::1]:0"), ("box", "box:0")])
def test_ipv6_address_is_shown_in_brackets(host: str, where: str) -> None:
    assert check_port(ServerSettings(host=host, port=0), None).message == f"{where}: a free port is chosen at the start"
