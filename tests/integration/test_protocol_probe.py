"""The probe of a program for its long-lived protocol."""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from clinvk.backends.base import PRIVATE, Host, Launch
from clinvk.runtime.pool.warm_agent import probe_protocol
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.request import RunRequest
from lasting_backend import Lasting


async def probe(backend: Lasting, argv: Sequence[str] | None = None, within_s: float = 30) -> str | None:
    launch = backend.launch(RunRequest(prompt=""), None, Host()).warm
    assert launch
    launch = replace(launch, argv=tuple(argv)) if argv else launch
    return await probe_launch(backend, launch, within_s)


async def probe_launch(backend: Lasting, launch: Launch, within_s: float = 30) -> str | None:
    channel = backend.channel(launch, Host())
    env = {"PATH": os.environ["PATH"]}
    return await probe_protocol(Spawner(process_tags.choose_tags()), launch.argv[0], launch, channel, env, within_s)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


async def test_program_that_answers_the_handshake_is_accepted_and_ended(tmp_path: Path) -> None:
    before = children()
    assert await probe(Lasting(tmp_path)) is None
    assert children() == before


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/bin/sh", "-c", "echo usage >&2; exit 64"), "the agent's process exited with code 64"),
        (("/bin/sh", "-c", "echo '{'; echo hello"), "the agent's process exited with code 0"),
        (("/no/where",), "cannot start '/no/where': No such file or directory"),
    ],
    ids=["it ends", "it prints something else", "it is not there"],
)
async def test_program_that_does_not_answer_the_handshake_is_rejected(
    tmp_path: Path, argv: tuple[str, ...], why: str
) -> None:
    assert await probe(Lasting(tmp_path), argv) == why


async def test_silent_program_times_out_and_is_ended(tmp_path: Path) -> None:
    before = children()
    said = await probe(Lasting(tmp_path), ("/bin/sh", "-c", "sleep 77 & exec sleep 77"), within_s=0.3)
    assert said == "it does not answer within 0.3 s"
    assert children() == before


async def test_private_files_exist_during_the_handshake_and_are_removed_after(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f'echo "$FILE" > {seen}; cat "$FILE" >> {seen}'
    launch = Launch(argv=("/bin/sh", "-c", script), env={"FILE": f"{PRIVATE}/x"}, files={"x": b"content"})
    backend = Lasting(tmp_path)
    assert await probe_launch(backend, replace(launch, long_lived=True)) == "the agent's process exited with code 0"
    file, content = seen.read_text().splitlines()
    assert content == "content"
    assert not Path(file).parent.exists()
