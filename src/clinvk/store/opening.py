"""Open the store that the settings choose."""

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.store.protocol import SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import extra_required


def open_store(settings: Settings, environ: Mapping[str, str]) -> AbstractAsyncContextManager[SessionStore]:
    """Return the database of `store.url`, else that of the clinvk home.

    Raises:
        ConfigError: the URL cannot be used, or there is no home directory.
    """
    if not settings.store.url:
        return SqliteStore(home(environ))
    with extra_required("cluster", "store.url"):
        from clinvk.store.postgres.postgres import PostgresStore  # slow import
    return PostgresStore(settings.store.url)


async def store_name(settings: Settings, environ: Mapping[str, str], timeout_s: float) -> str:
    """Return a name for the store, which is equal for all processes that share the store.

    Raises:
        ConfigError: the URL cannot be used.
        StoreUnavailable: the database of `store.url` cannot be used, or does not answer in time.
    """
    if not settings.store.url:
        return f"{socket.gethostname()}:{home(environ)}"
    with extra_required("cluster", "store.url"):
        from clinvk.store.postgres import database
    return await database.identity(settings.store.url, timeout_s)
