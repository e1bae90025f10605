"""The store of a machine: one SQLite database in the clinvk home."""
