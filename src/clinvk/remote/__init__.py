"""Runs of other processes: the messages, both of their ends, and the private socket of a running server."""
