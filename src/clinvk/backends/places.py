"""Where agents look for a project's files: in a directory and in all above it.

As text, since this is asked for each run, and `PurePath` takes as long for it as all else that plans one.
"""

from collections.abc import Iterator


def upwards(directory: str) -> Iterator[str]:
    """Give a directory and those above it, the nearest first, each with a slash at its end."""
    place = f"{directory.rstrip('/')}/"
    while place:
        yield place
        place = place[: place.rfind("/", 0, -1) + 1]
