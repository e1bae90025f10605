"""How `clinvk doctor` reports the number of runs that go at once."""

import pytest

from clinvk.api.server.port_owner import Capacity, Health
from clinvk.cli.admin.doctor.machine import check_runs
from clinvk.config.model import ServerSettings

COPIED = {
    ("server", "max_concurrent_runs"): "/home/config.yaml:2",
    ("server", "max_concurrent_per_backend"): "/home/config.yaml:3",
}


@pytest.mark.parametrize(
    ("server", "message", "fix"),
    [
        (
            ServerSettings(max_concurrent_runs=16, max_concurrent_per_backend=16),
            "/home/config.yaml:2: server.max_concurrent_runs: 16 is the default of earlier versions; "
            "without it the limit is 64",
            "clinvk config unset server.max_concurrent_runs",
        ),
        (
            ServerSettings(max_concurrent_runs=40, max_concurrent_per_backend=16),
            "/home/config.yaml:3: server.max_concurrent_per_backend: 16 is the default of earlier versions; "
            "without it the limit is 40",
            "clinvk config unset server.max_concurrent_per_backend",
        ),
    ],
)
def test_limit_copied_from_the_former_example_is_a_warning(server: ServerSettings, message: str, fix: str) -> None:
    check = check_runs(server, COPIED, 64, None)
    assert (check.status, check.message, check.fix) == ("warning", message, fix)


@pytest.mark.parametrize("machine", [16, 64])
def test_limit_from_the_environment_or_on_a_small_machine_is_ok(machine: int) -> None:
    server = ServerSettings(max_concurrent_runs=16, max_concurrent_per_backend=16)
    assert check_runs(server, COPIED if machine == 16 else {}, machine, None).status == "ok"


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (40, "up to 40 runs at once: set by server.max_concurrent_runs"),
        (
            64,
            "the running server allows 64 runs at once; with the current settings, "
            "up to 40 runs at once: set by server.max_concurrent_runs",
        ),
    ],
)
def test_limit_of_a_running_server_is_compared_with_the_settings(actual: int, message: str) -> None:
    health = Health(status="ok", version="1", capacity=Capacity(actual))
    assert check_runs(ServerSettings(max_concurrent_runs=40), {}, 64, health).message == message
