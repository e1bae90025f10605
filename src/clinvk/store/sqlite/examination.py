"""The examination of a database for `clinvk doctor`."""

import os
from contextlib import closing

from clinvk.store.rows import INTERACTIONS, RUNS, SESSIONS, Unreadable
from clinvk.store.sqlite import lists
from clinvk.store.sqlite.database import Database, skipping
from clinvk.store.sqlite.owners import OwnerLocks
from clinvk.store.sqlite.turns import SqliteTurns, blocking, rehearse
from clinvk.types.errors import StoreUnavailable


def examine(home: str | os.PathLike[str], lock_timeout_s: float) -> tuple[int, str]:
    """Return the number of sessions, and the damage of the database; empty if undamaged. Blocks.

    The whole file is read, and nothing is changed in it.

    Raises:
        StoreUnavailable: the next prompt could not be stored.
    """
    database, damage = Database(home, lock_timeout_s), list[str]()
    if database.identity() is None:
        return 0, ""
    with closing(database.open_unchanged()) as db, database.translated():
        with skipping(damage.append):
            (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise Unreadable(result)
        version = database.version(db)
        if damage and version < database.latest:
            raise StoreUnavailable(f"{database.path}: {damage[0]}")
        if version < database.latest:
            return (db.execute("SELECT count(*) FROM sessions").fetchone()[0] if version else 0), ""
        count = lists.count(db, SESSIONS, damage.append)
        lists.examine(db, SESSIONS, damage.append)
        lists.examine(db, RUNS, damage.append)
        lists.examine(db, INTERACTIONS, damage.append)
        if damage:
            turns = SqliteTurns(OwnerLocks(database.home))
            blocking(lambda connection: rehearse(connection, turns))(db)
    return count, damage[0] if damage else ""
