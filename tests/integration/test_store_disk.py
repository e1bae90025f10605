"""A full disk and a read-only disk: a small file system that only the test's child process sees."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size="$4" tmpfs "$1" && exec "$2" -c "$3" "$1"'

COMMON = """if True:
    import asyncio, os, random, subprocess, sys
    import pytest
    from msgspec.structs import replace
    from clinvk.types.errors import StoreUnavailable
    from clinvk.types.events import TextDelta
    from clinvk.store.sqlite.sqlite import SqliteStore
    from records import ANSWER, log, run, session, turn

    home = sys.argv[1]

    def fill():
        with open(f"{home}/ballast", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    def long(size):
        return log(TextDelta(random.Random(1).randbytes(size).hex()))
"""

FULL = """
    async def main():
        async with SqliteStore(home) as store:
            first = await turn(store, session())
            given = session(status="active")
            record = run(given)
            await store.begin(record, given)
            fill()
            for ask in (
                store.end(replace(record, state="finished"), replace(given, status="completed"), long(200_000)),
                turn(store, session(initial_prompt="x" * 200_000)),
                store.count(),
            ):
                with pytest.raises(StoreUnavailable, match=f"^{home}/clinvk.db: its disk is full$"):
                    await ask
            assert await store.run(first.id) == first
            assert await store.events(first.id) == ANSWER
            assert (await store.run(record.id)).state == "queued"

            os.remove(f"{home}/ballast")
            assert await store.count() == 2
            assert (await store.run(record.id)).state == "finished"
            assert await store.events(record.id) == long(200_000)
            await turn(store, given)

    asyncio.run(main())
"""

READ_ONLY = """
    def mount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", home], check=True)

    async def main():
        async with SqliteStore(home) as store:
            await turn(store, session())
        mount("ro")
        async with SqliteStore(home) as store:
            for ask in (store.count(), turn(store, session())):
                with pytest.raises(StoreUnavailable, match=f"^{home}/clinvk.db: cannot be written to$"):
                    await ask
            mount("rw")
            assert await store.count() == 1
            await turn(store, session())
            assert await store.count() == 2

    asyncio.run(main())
"""


def can_mount() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*ALONE, "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs user namespaces to mount a small disk")
@pytest.mark.parametrize(("code", "size"), [(FULL, "2m"), (READ_ONLY, "1m")], ids=["full", "read-only"])
def test_disk_errors_are_reported_and_the_store_recovers(tmp_path: Path, code: str, size: str) -> None:
    """Stored records stay readable; an end that found no space is stored later."""
    done = subprocess.run(
        [*ALONE, "sh", "-c", MOUNT, "sh", str(tmp_path), sys.executable, COMMON + code, size],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
