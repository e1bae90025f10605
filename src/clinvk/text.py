"""Text that comes from outside, as others may have it."""


def readable(text: str) -> str:
    """Put a question mark in the place of what is no Unicode: bytes of an argument or a path that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
