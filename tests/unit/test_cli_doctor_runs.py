"""How `clinvk doctor` reports the number of runs that go at once."""

import pytest

from clinvk.api.server.address import Capacity, Health
from clinvk.cli.admin.doctor.machine import check_runs
from clinvk.config.model import ServerSettings


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (40, "up to 40 runs at once: set by server.max_concurrent_runs"),
        (
            64,
            "the running server allows 64 runs at once: 30,000 MB. A start now would allow "
            "up to 40 runs at once: set by server.max_concurrent_runs",
        ),
    ],
)
def test_limit_of_a_running_server_is_compared_with_the_settings(actual: int, message: str) -> None:
    health = Health(status="ok", version="1", capacity=Capacity(actual, "30,000 MB"))
    assert check_runs(ServerSettings(max_concurrent_runs=40), health).message == message
