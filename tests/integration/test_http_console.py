"""The console's files, and the login of browsers."""

from functools import partial
from pathlib import Path

import httpx
import pytest

from clinvk.api import console
from clinvk.api.access import clients
from clinvk.api.access.auth import LOGIN_S, TOKEN_S, Logins
from clinvk.api.access.key_file import ApiKey, digest_of
from clinvk.api.access.keys import ApiKeys
from clinvk.store.memory import MemoryStore
from scripted import Scripted
from scripted.steps import claude_says
from serving import LiveServer, serving

ASSETS = Path(console.__file__).parent / "assets"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
FILES = [path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*") if path.suffix in TYPES]
POLICY = {
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'"),
    *("worker-src 'self'", "manifest-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
}

ALL_MODES = {
    "may_ask": True,
    "approval_modes": ["always", "default", "auto", "ask", "none"],
    "sandbox_modes": ["read-only", "workspace", "default", "full"],
}


async def test_console_files_are_served_with_a_strict_policy(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        for name in FILES:
            answer = await server.client.get(f"/console/{name}")
            assert (answer.status_code, answer.content) == (200, (ASSETS / name).read_bytes()), name
            assert answer.headers["content-type"] == TYPES[Path(name).suffix]
            assert set(answer.headers["content-security-policy"].split("; ")) == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
        index = await server.client.get("/")
    assert index.content == (ASSETS / "index.html").read_bytes()
    assert set(index.headers["content-security-policy"].split("; ")) == POLICY


async def test_console_is_compressed_for_clients_that_accept_gzip(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        compressed = await server.client.get("/", headers={"accept-encoding": "gzip, br"})
        plain = await server.client.get("/", headers={"accept-encoding": "identity"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert compressed.content == plain.content
    assert compressed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


async def test_unchanged_console_file_is_not_sent_again(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        first = await server.client.get("/")
        again = await server.client.get("/", headers={"if-none-match": first.headers["etag"]})
        other = await server.client.get("/", headers={"if-none-match": '"other"'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert other.content == first.content


async def test_only_packaged_console_files_are_served(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        for name in ("nothing.js", "../files.py", "..%2ffiles.py", "%2e%2e/files.py", ".", "vendor"):
            reader, writer = await server.raw(f"GET /console/{name} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 404 "), name
            writer.close()


async def test_console_files_are_not_served_when_the_console_is_off(scripted: Scripted) -> None:
    async with serving(scripted.env, console=False) as server:
        file = await server.client.get("/console/index.html")
        root = await server.client.get("/")
        docs = await server.client.get("/docs")
    assert file.status_code == 404
    assert root.content == docs.content


def test_console_files_link_relatively() -> None:
    """A link that begins with a slash would leave the path prefix of a proxy."""
    index = (ASSETS / "index.html").read_text()
    for attribute in ("href", "src"):
        assert f'{attribute}="/' not in index
        assert f'{attribute}="http' not in index


def keys_of(*names: str) -> ApiKeys:
    """Return keys whose text is their name."""
    return ApiKeys([ApiKey(name=name, digest=digest_of(name)) for name in names])


async def log_in(server: LiveServer, key: str = "ana", **headers: str) -> httpx.Response:
    """Log in. The client keeps the cookie."""
    return await server.client.post("/api/v1/login", json={"key": key}, headers=headers)


def origin(server: LiveServer) -> dict[str, str]:
    """Return the header that a page of the server sends."""
    return {"origin": f"http://127.0.0.1:{server.port}"}


async def test_key_logs_in_with_a_cookie_that_scripts_cannot_read(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        before = await server.client.get("/api/v1/me")
        refused = await server.client.get("/api/v1/runs")
        response = await log_in(server)
        after = await server.client.get("/api/v1/me")
        listed = await server.client.get("/api/v1/runs")
    assert before.json() == {
        "authenticated": False,
        "login_required": True,
        "key": None,
        "may_answer": False,
        **ALL_MODES,
        "limits": {},
    }
    assert refused.status_code == 401
    me: dict[str, object] = {
        "authenticated": True,
        "login_required": True,
        "key": "ana",
        "may_answer": False,
        **ALL_MODES,
        "limits": {},
    }
    assert (response.status_code, response.json(), after.json()) == (200, me, me)
    assert listed.status_code == 200
    name, _, attributes = response.headers["set-cookie"].partition("; ")
    assert name.startswith(f"clinvk-login-{server.port}=")
    assert set(attributes.split("; ")) == {"HttpOnly", "Max-Age=2592000", "SameSite=strict"}
    assert "ana" not in name


async def test_cookie_runs_prompts_with_the_limits_of_its_key(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env, keys=keys_of("ana")) as server:
        await log_in(server)
        body = {"backend": "claude", "prompt": "hi"}
        answer = await server.client.post("/api/v1/prompt", json=body, headers=origin(server))
        usage = await server.client.get("/api/v1/usage")
    assert answer.json()["output"] == "x"
    assert [row["key"] for row in usage.json()["usage"]] == ["ana"]


@pytest.mark.parametrize("cors_origins", [(), ("http://localhost:3000",)])
async def test_write_with_the_cookie_needs_the_own_origin(scripted: Scripted, cors_origins: tuple[str, ...]) -> None:
    foreign = ({"origin": origin} for origin in ("http://evil.example", "http://localhost:3000", "null"))
    async with serving(
        scripted.env,
        store=MemoryStore(),
        keys=keys_of("ana"),
        cors_allowed_origins=cors_origins,
        cors_allow_credentials=bool(cors_origins),
    ) as server:
        await log_in(server)
        for headers in ({}, *foreign):
            for path in ("/api/v1/prompt", "/api/v1/logout", f"/api/v1/runs/{'0' * 32}/cancel"):
                refused = await server.client.post(path, json={"backend": "claude", "prompt": "hi"}, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin"), path
        cancelled = await server.client.post(f"/api/v1/runs/{'0' * 32}/cancel", headers=origin(server))
    assert cancelled.status_code == 404
    assert scripted.calls() == []


async def test_read_with_the_cookie_from_a_page_of_another_port_is_refused(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        await log_in(server)
        refused = await server.client.get("/api/v1/runs", headers={"origin": "http://127.0.0.1:3000"})
        with_key = {"origin": "http://127.0.0.1:3000", "authorization": "Bearer ana"}
        allowed = await server.client.get("/api/v1/runs", headers=with_key)
    assert (refused.status_code, allowed.status_code) == (403, 200)


async def test_cookie_is_accepted_by_the_rest_api_only(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana"), metrics_enabled=True) as server:
        response = await log_in(server)
        cookie = {"cookie": response.headers["set-cookie"].partition(";")[0]}
        for path in ("/v1/models", "/openai/v1/models", "/anthropic/v1/models", "/metrics", "/nothing"):
            assert (await server.client.get(path, headers=cookie)).status_code == 401, path
        assert (await server.client.get("/api/v1/backends", headers=cookie)).status_code == 200


async def test_login_ends_with_a_logout(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        cookie = (await log_in(server)).headers["set-cookie"].partition(";")[0]
        logout = await server.client.post("/api/v1/logout", headers=origin(server))
        assert not server.client.cookies
        listed = await server.client.get("/api/v1/runs", headers={"cookie": cookie})
    assert (logout.status_code, listed.status_code) == (204, 401)


async def test_login_ends_when_its_key_is_revoked(scripted: Scripted) -> None:
    keys = keys_of("ana", "ben")
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        await log_in(server)
        keys.replace_permanent(keys_of("ben"))
        listed = await server.client.get("/api/v1/runs")
        me = await server.client.get("/api/v1/me")
    assert listed.status_code == 401
    assert me.json()["authenticated"] is False


async def test_login_token_works_once(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        token = {"token": server.logins.create_token()}
        first = await server.client.post("/api/v1/login", json=token)
        listed = await server.client.get("/api/v1/runs")
        again = await server.client.post("/api/v1/login", json=token, headers=origin(server))
    assert (first.status_code, listed.status_code, again.status_code) == (200, 200, 401)
    assert first.json() == {
        "authenticated": True,
        "login_required": True,
        "key": None,
        "may_answer": True,
        **ALL_MODES,
        "limits": {},
    }
    assert "used before" in again.json()["detail"]


async def test_token_and_login_expire(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("clinvk.api.access.auth.Logins", partial(Logins, now=lambda: now_s))
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        token = server.logins.create_token()
        await log_in(server)
        now_s = TOKEN_S
        late = await server.client.post("/api/v1/login", json={"token": token}, headers=origin(server))
        now_s += LOGIN_S
        expired = await server.client.get("/api/v1/runs")
    assert (late.status_code, expired.status_code) == (401, 401)


BAD_LOGINS: list[tuple[object, int]] = [
    ({"key": "nope"}, 401),
    ({"token": "nope"}, 401),
    ({"key": "ключ"}, 401),
    ({}, 400),
    ({"key": "ana", "token": "x"}, 400),
    ({"key": ""}, 400),
    ({"key": 1}, 400),
    ({"password": "ana"}, 400),
    ([], 400),
]


async def test_invalid_login_is_refused(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        for body, status in BAD_LOGINS:
            refused = await server.client.post("/api/v1/login", json=body)
            assert refused.status_code == status, body
            assert "set-cookie" not in refused.headers


async def test_long_login_body_is_refused_without_reading_it(scripted: Scripted) -> None:
    body, headers = b'{"key": "' + b"x" * 20_000 + b'"}', {"content-type": "application/json"}
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        refused = await server.client.post("/api/v1/login", content=body, headers=headers)
    assert (refused.status_code, refused.json()["detail"]) == (413, "the body has more than 16384 bytes")


async def test_login_from_a_foreign_page_is_refused(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server:
        foreign = await log_in(server, origin="http://localhost:3000")
        form = await server.client.post("/api/v1/login", content=b'{"key": "ana"}')
    assert (foreign.status_code, form.status_code) == (403, 415)


async def test_failed_logins_are_limited_like_other_requests_of_an_address(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.api.access.auth.RateLimits", partial(clients.RateLimits, now=lambda: 1.0))
    async with serving(
        scripted.env,
        store=MemoryStore(),
        keys=keys_of("ana"),
        rate_limit_enabled=True,
        rate_limit_rps=1,
        rate_limit_burst=2,
    ) as server:
        answers = [await log_in(server, "nope") for _ in range(3)]
        right = await log_in(server)
    assert [answer.status_code for answer in (*answers, right)] == [401, 401, 429, 429]


async def test_console_files_count_towards_no_rate_limit(scripted: Scripted) -> None:
    async with serving(
        scripted.env, store=MemoryStore(), rate_limit_enabled=True, rate_limit_rps=1, rate_limit_burst=1
    ) as server:
        answers = [await server.client.get("/console/index.html") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}


async def test_server_without_keys_needs_no_login(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        me = await server.client.get("/api/v1/me")
        response = await log_in(server, "anything")
        logout = await server.client.post("/api/v1/logout")
        rebound = await server.client.get("/api/v1/me", headers={"host": "evil.example"})
    expected: dict[str, object] = {"authenticated": True, "login_required": False, "key": None}
    assert me.json() == response.json() == {**expected, "may_answer": True, **ALL_MODES, "limits": {}}
    assert "set-cookie" not in response.headers
    assert (logout.status_code, rebound.status_code) == (204, 403)


@pytest.mark.parametrize(("proxies", "is_secure"), [(("127.0.0.1",), True), ((), False)])
async def test_cookie_is_secure_behind_a_trusted_proxy_with_tls(
    scripted: Scripted, proxies: tuple[str, ...], is_secure: bool
) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys_of("ana"), trusted_proxies=proxies) as server:
        response = await log_in(server, **{"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1"})
    assert ("Secure" in response.headers["set-cookie"].split("; ")) is is_secure


class PrefixProxy(httpx.AsyncHTTPTransport):
    """Passes requests below `/agents` on, without the prefix and with the host of the client."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        prefix, _, path = request.url.raw_path.partition(b"/agents")
        assert prefix == b""
        url = request.url.copy_with(port=self._port, raw_path=path)
        return await super().handle_async_request(
            httpx.Request(request.method, url, headers=request.headers, stream=request.stream)
        )


async def test_cookie_keeps_to_the_prefix_of_a_proxy(scripted: Scripted) -> None:
    async with (
        serving(scripted.env, store=MemoryStore(), keys=keys_of("ana")) as server,
        httpx.AsyncClient(base_url="http://127.0.0.1/agents/", transport=PrefixProxy(server.port)) as client,
    ):
        page = await client.get("")
        await client.post("api/v1/login", json={"key": "ana"})
        listed = await client.get("api/v1/runs")
        logout = await client.post("api/v1/logout", headers={"origin": "http://127.0.0.1"})
        paths = {cookie.path for cookie in client.cookies.jar}
    assert (page.status_code, listed.status_code, logout.status_code) == (200, 200, 204)
    assert paths == set()
