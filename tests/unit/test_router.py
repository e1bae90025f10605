"""The router: paths to handlers, and errors to responses."""

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import REST, UNKNOWN
from clinvk.api.openapi.endpoint import Endpoint
from clinvk.api.openapi.endpoint_table import ENDPOINTS
from clinvk.api.server.app import Router
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import RunNotFound
from serving import services_of


def router(prompts: ASGIApp) -> Router:
    def app(_: Services) -> ASGIApp:
        return prompts

    routes = [endpoint.route._replace(app=app) for endpoint in ENDPOINTS]
    services = services_of(LocalRuns(Settings(), MemoryStore(), {}, BACKENDS))
    return Router(map(Endpoint, routes), services)


async def answered(prompts: ASGIApp, method: str = "POST", path: str = "/api/v1/prompt") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    state = {"dialect": REST, "request_id": "id"}
    await router(prompts)({"type": "http", "method": method, "path": path, "state": state}, receive, send)
    return sent


def failing(error: Exception, after_start: bool = False) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def test_path_templates_match_the_route_table() -> None:
    found = router(failing(ValueError()))
    assert found.template_of("/api/v1/runs/abcd/events") == "/api/v1/runs/{id}/events"
    assert found.template_of("/v1/models/claude/opus") == "/v1/models/{id:path}"
    assert found.template_of("/api/v1/runs/{id}") == "/api/v1/runs/{id}"
    assert found.template_of("/v1/models/a\nb") == "/v1/models/{id:path}"
    assert found.template_of("/api/v1/runs/abcd/events\n") == UNKNOWN
    assert found.template_of("/nothing") == UNKNOWN


async def test_braces_in_a_path_match_an_id() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    await answered(app, "GET", "/api/v1/runs/{id}/events")
    assert [scope["path_params"] for scope in scopes] == [{"id": "{id}"}]


async def test_wrong_method_returns_405_with_the_allowed_methods() -> None:
    start, _ = await answered(failing(ValueError()), "PUT", "/api/v1/sessions/abcd")
    assert start["status"] == 405
    assert (b"allow", b"GET, PATCH, DELETE, HEAD") in start["headers"]


async def test_unexpected_errors_return_a_response_and_are_raised_for_the_log() -> None:
    with pytest.raises(ZeroDivisionError):
        await answered(failing(ZeroDivisionError()))


async def test_errors_after_the_response_start_are_raised() -> None:
    with pytest.raises(RunNotFound):
        await answered(failing(RunNotFound("gone"), after_start=True))
