"""Logs, metrics and traces of requests and runs."""
