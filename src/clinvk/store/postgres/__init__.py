"""The store of several machines: a PostgreSQL database (`store.url`)."""
