"""The HTTP server: the only package with ASGI code."""
