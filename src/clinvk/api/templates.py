"""Templates of paths, as `/api/v1/runs/{id}`: what requests are counted and traced by, so that ids are no labels."""

import re
from collections.abc import Iterable

from starlette.routing import Route

UNKNOWN = "none"
"""The template of a path that leads nowhere."""


class Templates:
    """Finds the template of a path among those of the routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._whole: set[str] = set()
        self._with_parameters: list[tuple[re.Pattern[str], str]] = []
        for route in routes:
            if route.param_convertors:
                self._with_parameters.append((route.path_regex, route.path))
            else:
                self._whole.add(route.path)

    def of(self, path: str) -> str:
        """Give the template of a path."""
        if path in self._whole:
            return path
        return next((template for pattern, template in self._with_parameters if pattern.match(path)), UNKNOWN)
