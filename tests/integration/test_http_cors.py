"""Which web pages of other origins may use the server, as browsers ask and obey."""

import pytest

import records
from clinvk.api.access.keys import ApiKeys
from clinvk.api.server.server import serve
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import ServerSettings, Settings
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import ConfigError
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

ASKING = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-api-key,x-goog-api-client,x-goog-api-key",
}
LOCAL = ["http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "http://[::1]:80"]
FOREIGN = [
    *("https://example.com", "null", "http://localhost.example.com", "http://127.0.0.1.example.com:80"),
    *("http://localhost:3000.example.com", "http://xlocalhost", "file://localhost", "http://127.0.0.2"),
]


@pytest.mark.parametrize(
    "path",
    ["/api/v1/prompt", "/openai/v1/chat/completions", "/anthropic/v1/messages", "/gemini/v1beta/models", "/none"],
)
async def test_preflight_from_a_local_page_is_allowed_without_a_key(scripted: Scripted, path: str) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server:
        for origin in LOCAL:
            response = await server.client.options(path, headers={"origin": origin, **ASKING})
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == origin
            assert response.headers["access-control-allow-headers"] == ASKING["access-control-request-headers"]
            assert {"POST", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))
            assert response.headers["access-control-max-age"] == "300"
            assert "access-control-allow-credentials" not in response.headers


async def test_preflight_from_a_foreign_page_is_refused(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        for origin in FOREIGN:
            preflight = await server.client.options("/api/v1/prompt", headers={"origin": origin, **ASKING})
            read = await server.client.get("/api/v1/backends", headers={"origin": origin})
            assert preflight.status_code == 405, origin
            assert not [name for name in (*preflight.headers, *read.headers) if name.startswith("access-control-")]


async def test_page_can_read_answers_headers_and_errors(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    origin = {"origin": "http://localhost:3000"}
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server:
        refused = await server.client.post("/api/v1/prompt", headers=origin, json={})
        answer = await server.client.post(
            "/api/v1/prompt", headers={**origin, "x-api-key": "k"}, json={"backend": "claude", "prompt": "hi"}
        )
    assert (refused.status_code, answer.status_code) == (401, 200)
    for response in (refused, answer):
        assert response.headers["access-control-allow-origin"] == origin["origin"]
        assert response.headers["vary"].lower() == "origin"
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "request-id", "retry-after", "x-should-retry", "x-clinvk-session-id"} <= set(exposed)
        assert {"preference-applied", "x-clinvk-backend", "x-clinvk-fallback"} <= set(exposed)


async def test_request_without_origin_gets_no_cors_headers(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.get("/api/v1/backends")
    assert not [name for name in response.headers if name.startswith("access-control-") or name == "vary"]


async def test_configured_origins_replace_the_default(scripted: Scripted) -> None:
    named = "https://app.example.com"
    async with serving(
        scripted.env, store=MemoryStore(), cors_allowed_origins=(named,), cors_allow_credentials=True, cors_max_age=7
    ) as server:
        preflight = await server.client.options("/api/v1/prompt", headers={"origin": named, **ASKING})
        local = await server.client.options("/api/v1/prompt", headers={"origin": LOCAL[0], **ASKING})
    assert preflight.headers["access-control-allow-origin"] == named
    assert preflight.headers["access-control-max-age"] == "7"
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in local.headers


async def test_wildcard_allows_all_origins(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), cors_allowed_origins=("*",)) as server:
        response = await server.client.get("/api/v1/backends", headers={"origin": FOREIGN[0]})
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(("origins", "status"), [((), 403), (("*",), 403), (("http://localhost:3000",), 201)])
async def test_request_without_preflight_is_accepted_from_named_origins_only(
    scripted: Scripted, origins: tuple[str, ...], status: int
) -> None:
    assert await _forked(scripted, origins, {"origin": "http://localhost:3000"}) == status


async def test_request_without_preflight_from_the_server_itself_is_accepted_in_any_host_case(
    scripted: Scripted,
) -> None:
    own = {"host": "LocalHost:8080", "origin": "http://localhost:8080"}
    assert await _forked(scripted, (), own) == 201


async def _forked(scripted: Scripted, origins: tuple[str, ...], headers: dict[str, str]) -> int:
    """Return the status of a request that changes state and has no body."""
    session = records.session(working_dir="/", backend_session_id="h")
    store = MemoryStore()
    await store.create(session)
    async with serving(scripted.env, store=store, cors_allowed_origins=origins) as server:
        response = await server.client.post(f"/api/v1/sessions/{session.id}/fork", headers=headers)
    return response.status_code


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"cors_allowed_origins": ("localhost:3000",)}, r"cors_allowed_origins\[0\] is 'localhost:3000'"),
        ({"cors_allowed_origins": ("*", "https://a.example/")}, r"cors_allowed_origins\[1\] is 'https://a.example/'"),
        ({"cors_allowed_origins": ("https://A.example",)}, r"cors_allowed_origins\[0\]"),
        ({"cors_allowed_origins": ("*",), "cors_allow_credentials": True}, "name the origins instead"),
    ],
)
def test_invalid_origins_prevent_startup(server: dict[str, object], words: str) -> None:
    settings = Settings(server=ServerSettings(port=0, **server))  # pyright: ignore[reportArgumentType]  # as in a file
    with pytest.raises(ConfigError, match=words):
        serve(settings, {}, BACKENDS, lambda _: pytest.fail("it has started"))


async def test_private_network_preflight_is_allowed_for_configured_origins(scripted: Scripted) -> None:
    """Chromium did until version 141, in the same preflight: https://wicg.github.io/private-network-access/."""
    asks = {**ASKING, "access-control-request-private-network": "true"}
    async with serving(scripted.env, cors_allowed_origins=["https://app.example.com"]) as server:
        for origin, status, allowed in (("https://app.example.com", 200, "true"), ("https://evil.example", 405, None)):
            answer = await server.client.options("/openai/v1/chat/completions", headers={**asks, "origin": origin})
            assert answer.status_code == status
            assert answer.headers.get("access-control-allow-private-network") == allowed
