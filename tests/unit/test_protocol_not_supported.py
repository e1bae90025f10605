"""The message for a program that exits before it speaks the protocol of a warm process."""

import pytest

from clinvk.backends.base import Channel, Host, ProtocolNotSupported
from clinvk.backends.registry import BACKENDS
from clinvk.types.request import RunRequest

HOST = Host()


def channel(name: str) -> Channel:
    """Return the channel of a warm process."""
    backend = BACKENDS[name]
    launch = backend.launch(RunRequest(prompt="", workdir="/", ephemeral=True), None, HOST)
    stays = launch if launch.long_lived else launch.warm
    assert stays
    return backend.channel(stays, HOST)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("stderr", "told"), [(b"", "nothing on stderr"), (b"\n \n", "nothing on stderr"), (b"older\n", "older")]
)
def test_not_spoken_error_reports_stderr_or_its_absence(name: str, stderr: bytes, told: str) -> None:
    with pytest.raises(ProtocolNotSupported, match=f"^it exited with code 2: {told}$"):
        list(channel(name).closed(2, stderr))
