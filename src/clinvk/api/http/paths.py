"""Paths: the template of a path, as `/api/v1/runs/{id}`, for counts and traces, and the wire format for its errors."""

import re
from collections.abc import Iterable, Mapping

from starlette.routing import Route

from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.openai.chat import OpenAIChat
from clinvk.dialects.rest.rest import Rest

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


REST: Dialect = Rest()
OPENAI = OpenAIChat()
ANTHROPIC = Anthropic()

_OF_OPENAI = ("/v1/chat/", "/v1/completions", "/v1/responses")


def dialect_of(path: str, headers: Mapping[str, str]) -> Dialect:
    """Give the format of a tidied path, or of `*`; below `/v1`, which two vendors share, path or header tells."""
    match path.partition("/")[2].partition("/")[0]:
        case "openai":
            return OPENAI
        case "anthropic":
            return ANTHROPIC
        case "v1":
            is_other = "anthropic-version" in headers and not path.startswith(_OF_OPENAI)
            return ANTHROPIC if is_other or path.startswith("/v1/messages") else OPENAI
        case _:
            return REST
