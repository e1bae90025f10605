"""What a command tells: text or JSON on stdout, UTF-8 whatever the locale."""

import os
import sys

import msgspec


def tell(text: str) -> None:
    """Print lines."""
    sys.stdout.buffer.write(f"{text}\n".encode(errors="replace"))
    sys.stdout.buffer.flush()


def tell_json(value: object) -> None:
    """Print JSON; indented for people."""
    data = msgspec.json.encode(value)
    tell((msgspec.json.format(data, indent=2) if os.isatty(1) else data).decode())
