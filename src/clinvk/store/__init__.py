"""Stores of sessions and runs: the protocol and its implementations."""
