"""How many tokens a request would have, estimated without asking a model."""

from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.reply import headers_of, read_json
from clinvk.config import ServerSettings
from clinvk.dialects.anthropic import Anthropic
from clinvk.runtime.threads import beside_loop


class Counting:
    """The endpoint."""

    def __init__(self, dialect: Anthropic, settings: ServerSettings) -> None:
        self._dialect = dialect
        self._settings = settings

    async def estimate(self, request: Request) -> Response:
        """Answer `POST /anthropic/v1/messages/count_tokens`."""
        body = await read_json(request.scope, request.receive, self._settings)
        count = await beside_loop(len(body), self._dialect.count, body, headers_of(request.scope))
        return Response(count, media_type=self._dialect.result_type)
