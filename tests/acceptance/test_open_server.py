"""A server on a public address, in a network namespace without other machines."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest

from acceptance.command import TIMEOUT_S, Clinvk
from scripted import Scripted

ALONE = ("unshare", "--net", "--map-root-user")
VISIT = """
import fcntl, json, pathlib, re, socket, struct, subprocess, sys, time, urllib.error, urllib.request

with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running

def status(path, key=""):
    request = urllib.request.Request(url + path, headers={"x-api-key": key})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

out, err = pathlib.Path("out"), pathlib.Path("err")
server = subprocess.Popen(sys.argv[1:], stdout=out.open("w"), stderr=err.open("w"))
while not (found := re.search(r"http://0\\.0\\.0\\.0:(\\d+)", out.read_text())):
    time.sleep(0.01)
url = "http://127.0.0.1:" + found[1]
while status("/health") == 503:  # a busy machine opens the store late
    time.sleep(0.1)
health = json.load(urllib.request.urlopen(url + "/health", timeout=30))
key = (err.read_text().splitlines() or [""])[-1]
answers = [status("/api/v1/sessions"), status("/api/v1/sessions", key)]
server.terminate()
server.wait(30)
print(json.dumps([*answers, key, health.get("warnings", []), out.read_text(), err.read_text()]))
"""


class Visited(msgspec.Struct, array_like=True):
    """The answers to a visitor, without a key and with the key on the last line of stderr, and the output."""

    without: int
    with_key: int
    key: str
    warnings: list[str]
    out: str
    err: str


def can_be_alone() -> bool:
    if not shutil.which(ALONE[0]):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, timeout=TIMEOUT_S).returncode == 0


pytestmark = pytest.mark.skipif(not can_be_alone(), reason="no network of one's own can be made here")


def visited(agent: Scripted, flags: Sequence[str] = ()) -> Visited:
    serve = (Clinvk.command, "serve", "--host", "0.0.0.0", "--port", "0", *flags)
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", VISIT, *serve],
        capture_output=True,
        text=True,
        cwd=agent.folder,
        env=agent.env,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.convert(json.loads(done.stdout), Visited)


def test_publicly_reachable_server_creates_a_key_and_prints_it_once_on_stderr(scripted: Scripted) -> None:
    seen = visited(scripted)
    assert (seen.without, seen.with_key, seen.warnings) == (401, 200, [])
    assert seen.key.startswith("clinvk_")
    assert (seen.out + seen.err).count(seen.key) == seen.err.count(seen.key) == 1


def test_insecure_disables_authentication_and_health_warns(scripted: Scripted) -> None:
    seen = visited(scripted, ["--insecure"])
    assert (seen.without, seen.with_key, seen.err) == (200, 200, "")
    assert ["no API key is required" in warning for warning in seen.warnings] == [True]
    assert "warning: 0.0.0.0 is open to other machines" in seen.out


def test_server_with_a_key_creates_none(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.run("keys", "create", "ana")
    seen = visited(scripted)
    assert (seen.without, seen.with_key, seen.warnings, seen.err) == (401, 401, [], "")
