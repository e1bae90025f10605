"""The only package that knows ASGI."""
