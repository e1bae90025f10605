"""How many tokens a request would have, estimated without asking a model."""

from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.reply import headers_of, read_body, require_json
from clinvk.config import ServerSettings
from clinvk.dialects.anthropic import Anthropic


class Counting:
    """The endpoint."""

    def __init__(self, dialect: Anthropic, settings: ServerSettings) -> None:
        self._dialect = dialect
        self._settings = settings

    async def estimate(self, request: Request) -> Response:
        """Answer `POST /anthropic/v1/messages/count_tokens`."""
        headers = headers_of(request.scope)
        require_json(headers)
        limits = self._settings
        body = await read_body(headers, request.receive, limits.max_request_body_bytes, limits.read_timeout_secs)
        return Response(self._dialect.count(body, headers), media_type=self._dialect.result_type)
