"""Times for people: how long ago, how long, and durations as users type them."""

import re
import time

from clinvk.types.errors import InvalidRequest

_STEPS = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (60 * 86400, 86400, "d"))
"""The limit in seconds, the seconds of the unit, and the name of the unit."""

_AGE = re.compile(r"([0-9]{1,6}) *([hdw]?)")
_HOURS = {"h": 1, "d": 24, "": 24, "w": 7 * 24}


def time_ago(at: float, now: float) -> str:
    """Return how long ago a time was, or its date if that says more. Both are seconds since the epoch."""
    seconds = now - at
    if seconds < 1:
        return "just now"
    for limit, unit, name in _STEPS:
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return time.strftime("%Y-%m-%d", time.localtime(at))


def date_and_time(at: float) -> str:
    """Return the local date and time of seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def duration(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def age_s(text: str, flag: str) -> float:
    """Parse a duration, `12h`, `30d`, `2w`, or a number of days, and return its seconds.

    Raises:
        InvalidRequest: the text is not a duration, or is 0.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if not match:
        raise InvalidRequest(f"{flag}: {text!r} is not a duration; use 12h, 30d, 2w, or a number of days", flag)
    seconds = int(match[1]) * _HOURS[match[2]] * 3600.0
    if not seconds:
        raise InvalidRequest(f"{flag}: {text!r} is too short; the least is 1h", flag)
    return seconds
