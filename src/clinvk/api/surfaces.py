"""Which wire format a path is of, so that an error leaves in it whatever refuses the request."""

from collections.abc import Mapping

from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.base import Dialect
from clinvk.dialects.openai_chat import OpenAIChat
from clinvk.dialects.rest import Rest

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
