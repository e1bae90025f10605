"""Which wire format the errors of a path have."""

from collections.abc import Mapping

from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.openai.chat import OpenAIChat
from clinvk.dialects.rest.rest import Rest

UNKNOWN = "none"
"""The template for a path without an endpoint."""


REST: Dialect = Rest()
OPENAI = OpenAIChat()
ANTHROPIC = Anthropic()

_OF_OPENAI = ("/v1/chat/", "/v1/completions", "/v1/responses")


def dialect_of(path: str, headers: Mapping[str, str]) -> Dialect:
    """Return the format of a normalized path, or of `*`. Two vendors share `/v1`: there path or header decides."""
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
