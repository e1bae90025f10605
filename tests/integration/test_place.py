"""Who is at the other end of the private socket."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from clinvk.remote.place import peer_of

ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
ASK = "import socket; from clinvk.remote.place import peer_of; peer_of(socket.socket(fileno=0))"


def test_the_kernel_tells_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == (os.geteuid(), os.getpid())


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], check=False).returncode != 0,
    reason="no namespaces of one's own here",
)
def test_who_is_not_to_be_seen_from_here_is_no_peer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [*ALONE, sys.executable, "-c", ASK], stdin=ours.fileno(), capture_output=True, text=True, check=False
        )
    assert "OSError: the other end is in another namespace of processes" in done.stderr
