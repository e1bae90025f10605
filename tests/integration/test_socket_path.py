"""The private socket: its path, its owner, and its peer."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clinvk.remote.socket_path import SocketClaim, connected, peer_pid

ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
ASK = "import socket; from clinvk.remote.socket_path import peer_pid; print(peer_pid(socket.socket(fileno=0)))"


def test_peer_pid_returns_the_process_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_pid(ours) == os.getpid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_peer_of_another_user_is_rejected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.seteuid(65534)
        try:
            assert peer_pid(ours) is None
        finally:
            os.seteuid(0)


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], check=False).returncode != 0,
    reason="no namespaces of one's own here",
)
def test_peer_in_another_pid_namespace_is_rejected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [*ALONE, sys.executable, "-c", ASK], stdin=ours.fileno(), capture_output=True, text=True, check=False
        )
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_claim_that_lost_its_socket_does_not_remove_the_new_holders_socket(tmp_path: Path) -> None:
    """Cleaners of /tmp and owners of homes remove files that are in use."""
    first, second = SocketClaim(tmp_path), SocketClaim(tmp_path)
    with first.listen() or pytest.fail("the first has it"):
        assert first.is_held()
        for file in tmp_path.iterdir():
            file.unlink()
        assert not first.is_held()
        with second.listen() or pytest.fail("nobody has it"):
            first.leave()
            assert second.is_held()
            with connected(tmp_path) or pytest.fail("the second is there"):
                pass
            assert first.listen() is None
    second.leave()
    assert list(tmp_path.iterdir()) == []
