"""Which endpoint gets a request, and what is answered where none does, or where one fails."""

import httpx
import pytest

from clinvk.api.asgi import Receive, Request, Response, Scope, Send
from clinvk.api.routing import Route, Router, answering
from clinvk.dialects.base import Dialect
from clinvk.dialects.openai_chat import OpenAIChat
from clinvk.dialects.rest import Rest
from clinvk.errors import InvalidRequest


async def _told(request: Request) -> Response:
    return Response(f"{request.method} {request.path_params}".encode(), media_type="text/plain; charset=utf-8")


async def _refused(_: Request) -> Response:
    raise InvalidRequest("no", "field")


async def _failed(_: Request) -> Response:
    raise RuntimeError("a fault")


async def _bare(_: Scope, __: Receive, send: Send) -> None:
    await Response(b"bare", 201, {"x-name": "value"})({}, _never, send)


async def _never() -> dict[str, object]:
    raise AssertionError


ROUTES = Router(
    [
        answering("/part/{id}/all", _told),
        answering("/part/{id}", _told, "GET", "PATCH"),
        answering("/rest/{id:path}", _told),
        answering("/rest.of", _failed),
        answering("/refused", _refused, "POST"),
        Route("/bare", _bare, "POST"),
    ]
)


async def ask(method: str, path: str, dialect: Dialect | None = None) -> httpx.Response:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        state = {"request_id": "q", "dialect": dialect or Rest(), "key_name": ""}
        await ROUTES({**scope, "state": state}, receive, send)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://clinvk") as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/part/a-b.c", {"id": "a-b.c"}),
        ("/part/a/all", {"id": "a"}),
        ("/part/%0A", {"id": "\n"}),
        ("/rest/a/b", {"id": "a/b"}),
        ("/rest/", {"id": ""}),
    ],
)
async def test_a_path_has_its_parameters(path: str, parameters: dict[str, str]) -> None:
    response = await ask("GET", path)
    assert (response.status_code, response.text) == (200, f"GET {parameters}")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.parametrize("path", ["/part/", "/part/a/b", "/part", "/rest", "/restxof", "/bare/", "/", "/rest/%0A"])
async def test_a_path_of_no_route_is_not_found(path: str) -> None:
    response = await ask("GET", path)
    assert response.status_code == 404
    assert response.json()["detail"].endswith("there is nothing here; GET /docs lists what there is")


async def test_a_client_of_a_model_api_is_told_of_its_base_url() -> None:
    response = await ask("GET", "/none", OpenAIChat())
    assert response.status_code == 404
    assert "ends in /openai/v1" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("POST", "/part/a", "GET, PATCH, HEAD"), ("GET", "/bare", "POST")]
)
async def test_the_methods_of_a_path_are_told_where_another_is_asked_for(method: str, path: str, allowed: str) -> None:
    response = await ask(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json()["detail"] == f"{method} {path}: the methods of this path are {allowed}"


async def test_what_may_be_got_may_be_looked_for() -> None:
    assert (await ask("HEAD", "/part/a")).status_code == 200


async def test_an_application_answers_by_itself() -> None:
    response = await ask("POST", "/bare")
    assert (response.status_code, response.headers["x-name"], response.text) == (201, "value", "bare")
    assert "content-type" not in response.headers


async def test_an_error_is_answered_in_the_format_of_the_request() -> None:
    assert (await ask("POST", "/refused")).json()["detail"] == "no"
    assert (await ask("POST", "/refused", OpenAIChat())).json()["error"]["message"] == "no"


@pytest.mark.parametrize(("dialect", "retry"), [(Rest(), None), (OpenAIChat(), "false")])
async def test_an_error_inside_clinvk_is_answered_without_what_it_is(dialect: Dialect, retry: str | None) -> None:
    response = await ask("GET", "/rest.of", dialect)
    assert (response.status_code, response.headers.get("x-should-retry")) == (500, retry)
    assert "clinvk itself failed" in response.text
    assert "a fault" not in response.text
