"""What is hidden where settings are shown: the values of variables and flags that are keys by their name."""

import re

from clinvk.config.keys import is_variable
from clinvk.config.writing import Value

_HIDDEN = "********"
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|cookie|header|bearer", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+(?=@)")


def hidden(name: tuple[str, ...], value: Value) -> Value:
    """Give a setting as it may be shown; `name` is its key from the top down."""
    if isinstance(value, str):
        if is_variable(name) and value and _SECRET_NAME.search(name[-1]):
            return _HIDDEN
        return _without_password(value)
    if isinstance(value, tuple):
        return tuple(_flag(item) for item in value)
    return value


def _flag(text: str) -> str:
    flag, equals, value = text.partition("=")
    if equals and value and flag.startswith("-") and _SECRET_NAME.search(flag):
        return f"{flag}={_HIDDEN}"
    return _without_password(text)


def _without_password(text: str) -> str:
    return _PASSWORD_IN_URL.sub(rf"\1:{_HIDDEN}", text)
