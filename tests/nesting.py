"""JSON in JSON. How deeply depends on the version of Python, and up to 3.11 on who asks."""

import msgspec


def deepest() -> int:
    """Return the maximum depth of nested lists that can be decoded here."""
    read, unread = 1, 10_000_000
    while unread - read > 1:
        depth = (read + unread) // 2
        try:
            msgspec.json.decode(b"[" * depth + b"]" * depth)
        except RecursionError:
            unread = depth
        else:
            read = depth
    return read


def too_deep() -> dict[str, object]:
    """Return an object that no version of Python can encode."""
    inside: object = 1
    for _ in range(1_000_000):
        inside = [inside]
    return {"a": inside}
