"""The API keys of several machines: the text of the key file of one machine, in one row. All functions block."""

import asyncio
from collections.abc import Callable

from clinvk.store.postgres.database import Connection, connected, execute, fetch

_LOCK = "LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE"
_INSERT = "INSERT INTO keys VALUES (1, %s)"
_UPDATE = "UPDATE keys SET version = version + 1, content = %s"


def read_keys(url: str) -> tuple[int, str | None]:
    """Return the text, None before the first change, and a number that each change increases. Change nothing."""

    async def read() -> tuple[int, str | None]:
        async with connected(url, migrates=False) as db:
            ((has_table,),) = await fetch(db, "SELECT to_regclass('keys') IS NOT NULL")
            return await _row(db) if has_table else (0, None)

    return asyncio.run(read())


def change_keys(url: str, edit: Callable[[str | None], str], dry_run: bool) -> None:
    """Replace the text by what `edit` returns for it; with `dry_run`, only call `edit`."""

    async def change() -> None:
        async with connected(url) as db, db.transaction():
            await execute(db, _LOCK)
            version, text = await _row(db)
            new = edit(text)
            if not dry_run:
                await execute(db, _UPDATE if version else _INSERT, new)

    asyncio.run(change())


async def _row(db: Connection) -> tuple[int, str | None]:
    found = await fetch(db, "SELECT version, content FROM keys")
    return (found[0][0], found[0][1]) if found else (0, None)
