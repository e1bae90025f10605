"""API keys and lists of directories, over real sockets."""

import asyncio
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import records
from clinvk.api.access.keys import ApiKeys
from clinvk.api.server.server import serve
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import ServerSettings, Settings
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import ConfigError
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, wait_for
from serving import LiveServer, serving

KEYS = ApiKeys(["k1", "k2"])
GUARDED = [
    ("POST", "/api/v1/prompt"),
    ("GET", "/api/v1/backends"),
    ("GET", "/api/v1/sessions"),
    ("DELETE", f"/api/v1/sessions/{'0' * 32}"),
    ("GET", "/api/v1/runs"),
    ("GET", f"/api/v1/runs/{'0' * 32}/events"),
    ("HEAD", "/api/v1/sessions"),
    ("GET", "/nothing/here"),
    ("OPTIONS", "/api/v1/sessions"),
    ("GET", "/metrics"),
    ("GET", "/health/other"),
    ("GET", "/console"),
    ("GET", "//api//v1/sessions/"),
]
OPEN = [
    ("GET", "/health"),
    ("GET", "/health/"),
    ("HEAD", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs/"),
    ("GET", "/docs/docs.js"),
    ("GET", "/console/index.html"),
    ("GET", "/openapi.json"),
]


async def test_request_without_a_key_is_unauthorized(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=KEYS) as server:
        for method, path in GUARDED:
            response = await server.client.request(method, f"http://127.0.0.1:{server.port}{path}")
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["x-request-id"]
            if method != "HEAD":
                assert response.json()["code"] == "unauthorized"


async def test_health_and_docs_need_no_key(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=KEYS) as server:
        for method, path in OPEN:
            assert (await server.client.request(method, path)).status_code == 200, path


async def test_preflight_from_a_foreign_page_needs_no_key_and_reveals_nothing(scripted: Scripted) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    async with serving(scripted.env, store=MemoryStore(), keys=KEYS) as server:
        response = await server.client.options("/api/v1/prompt", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer k1"},
        {"x-api-key": "k2"},
        {"authorization": "Bearer nonsense", "x-api-key": "k1"},
        {"authorization": "Bearer k2", "x-api-key": "nonsense"},
    ],
)
async def test_valid_key_is_accepted_and_hidden_from_agents(scripted: Scripted, headers: dict[str, str]) -> None:
    scripted.play(claude_says("x"))
    env = {**scripted.env, "CLINVK_API_KEYS": "k1,k2"}
    async with serving(env, keys=KEYS) as server:
        response = await server.client.post(
            "/api/v1/prompt", json={"backend": "claude", "prompt": "hi"}, headers=headers
        )
    assert (response.status_code, response.json()["output"]) == (200, "x")
    (call,) = scripted.calls()
    assert not [name for name, value in call.env.items() if "k1,k2" in value or name == "CLINVK_API_KEYS"]


async def test_any_key_is_accepted_when_none_is_configured(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.get("/api/v1/sessions", headers={"authorization": "Bearer not-needed"})
    assert response.status_code == 200


async def test_large_body_without_a_key_is_refused_before_it_is_read(scripted: Scripted) -> None:
    head = (
        "POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\n"
        "content-type: application/json\r\ncontent-length: 9999999\r\n\r\n{"
    )
    async with serving(scripted.env, store=MemoryStore(), keys=KEYS) as server:
        reader, writer = await server.raw(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


@pytest.mark.parametrize(
    ("environ", "server", "words"),
    [
        ({"CLINVK_API_KEYS": ""}, {}, "CLINVK_API_KEYS is set, but has no key in it"),
        ({"CLINVK_API_KEYS": ", "}, {}, "CLINVK_API_KEYS is set, but has no key in it"),
        ({"PATH": "/nowhere"}, {"api_keys_gopass_path": "p"}, "cannot start 'gopass'"),
    ],
)
def test_required_but_missing_keys_prevent_startup(
    environ: dict[str, str], server: dict[str, object], words: str
) -> None:
    settings = Settings(server=ServerSettings(port=0, **server))  # pyright: ignore[reportArgumentType]  # as in a file
    with pytest.raises(ConfigError, match=words):
        serve(settings, environ, BACKENDS, lambda _: pytest.fail("it has started"))


class Folders:
    """Directories below a scratch directory, some of them disguised."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        for name in ("home/a/in", "home/ab", "home/a/secret/deep", "links"):
            (self.root / name).mkdir(parents=True)
        (self.root / "links" / "out").symlink_to(self.root / "home" / "ab")
        (self.root / "links" / "in").symlink_to(self.root / "home" / "a" / "in")
        (self.root / "home" / "a" / "escape").symlink_to(self.root / "home" / "ab")

    def __truediv__(self, name: str) -> str:
        return f"{self.root}/{name}"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


ALLOWED = ["home/a", "home/a/", "home/a/in", "home/a/in/../in", "home//a/./in", "links/in", "links/in/"]
FORBIDDEN = [
    *("home/ab", "home", "home/a/../ab", "home/a/in/../../ab", "home/a/escape", "links/out", "home/a/secret"),
    *("home/a/secret/deep", "home/a/in/../secret", "home/nothing", ""),
]


def limited(scripted: Scripted, folders: Folders) -> AbstractAsyncContextManager[LiveServer]:
    return serving(
        scripted.env,
        default_workdir=folders / "home/a",
        allowed_workdir_prefixes=(folders / "home/a/",),
        blocked_workdir_prefixes=(folders / "home/a/secret",),
    )


async def test_directory_inside_an_allowed_directory_is_accepted(scripted: Scripted, folders: Folders) -> None:
    scripted.play(claude_says("x"))
    async with limited(scripted, folders) as server:
        for name in ALLOWED:
            path, real = folders / name, os.path.realpath(folders / name)
            for fields, cwd in (({"workdir": path}, real), ({"add_dirs": [path]}, folders / "home/a")):
                response = await server.prompt(**fields)
                assert response.status_code == 200, response.text
                call = scripted.calls()[-1]
                assert call.cwd == cwd
                assert cwd == real or any(word.endswith(real) for word in call.argv)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_directory_outside_allowed_or_inside_blocked_is_refused_through_any_path(
    scripted: Scripted, folders: Folders, dry_run: bool
) -> None:
    lists = ("server.allowed_workdir_prefixes", "server.blocked_workdir_prefixes", "is never allowed")
    async with limited(scripted, folders) as server:
        for name in FORBIDDEN:
            path = folders / name if name else "/"
            for fields, field in (({"workdir": path}, "workdir"), ({"add_dirs": [path]}, "add_dirs[0]")):
                response = await server.prompt(**fields, dry_run=dry_run)
                answer = response.json()
                assert (response.status_code, answer["code"]) == (403, "directory_not_allowed"), path
                assert answer["field"] == field
                assert any(words in answer["detail"] for words in lists)
    assert scripted.calls() == []


async def test_link_in_a_list_is_resolved_to_its_target(scripted: Scripted, folders: Folders) -> None:
    scripted.play(claude_says("x"))
    link = folders / "links/in"
    async with serving(scripted.env, default_workdir=link, allowed_workdir_prefixes=(link,)) as server:
        inside = await server.prompt(workdir=folders / "home/a/in")
        outside = await server.prompt(workdir=folders / "links")
    assert (inside.status_code, outside.status_code) == (200, 403)


async def test_default_directory_of_the_server_is_checked_against_the_lists(
    scripted: Scripted, folders: Folders
) -> None:
    async with serving(scripted.env, store=MemoryStore(), allowed_workdir_prefixes=(folders / "home",)) as server:
        response = await server.prompt()
    assert (response.status_code, response.json()["field"]) == (403, "workdir")


async def test_replaced_default_directory_is_checked_by_its_target(scripted: Scripted, folders: Folders) -> None:
    secrets = folders.root / ".ssh"
    secrets.mkdir()
    async with serving(scripted.env, store=MemoryStore(), default_workdir=folders / "home/a/in") as server:
        os.rename(folders / "home/a/in", folders / "home/a/before")
        os.symlink(secrets, folders / "home/a/in")
        response = await server.prompt()
    assert (response.status_code, response.json()["code"]) == (403, "directory_not_allowed")
    assert scripted.calls() == []


async def test_session_in_a_forbidden_directory_is_not_resumed(scripted: Scripted, folders: Folders) -> None:
    store = MemoryStore()
    session = records.session(working_dir=folders / "links/out", backend_session_id="h")
    await store.create(session)
    async with serving(scripted.env, store=store, allowed_workdir_prefixes=(folders / "home/a",)) as server:
        response = await server.prompt(session_id=session.id)
    assert (response.status_code, response.json()["field"]) == (403, "session_id")
    assert "the session's directory" in response.json()["detail"]
    assert scripted.calls() == []


@pytest.mark.parametrize("field", ["workdir", "add_dirs[0]", "session_id"])
async def test_directory_that_resolves_elsewhere_after_queueing_is_refused(
    scripted: Scripted, folders: Folders, field: str
) -> None:
    scripted.play([wait_for(folders.root / "go"), *claude_says("x")])
    store = MemoryStore()
    session = records.session(
        working_dir=folders / "home/a/in", backend_session_id="00000000-0000-4000-8000-000000000001"
    )
    await store.create(session)
    path = folders / "links/in"
    body = {"workdir": {"workdir": path}, "add_dirs[0]": {"add_dirs": [path]}, "session_id": {"session_id": session.id}}
    async with serving(
        scripted.env,
        store=store,
        default_workdir=folders / "home/a",
        allowed_workdir_prefixes=(folders / "home/a",),
        max_concurrent_runs=1,
    ) as server:
        first = asyncio.create_task(server.prompt())
        await until(scripted.calls)
        queued = asyncio.create_task(server.prompt(**body[field]))
        await until(lambda: server.runs.queued == 1)
        os.rename(folders / "home/a/in", folders / "home/a/before")
        os.symlink(folders / "home/ab", folders / "home/a/in")
        (folders.root / "go").touch()
        response, before = await queued, await first
    assert (before.status_code, response.status_code) == (200, 403), response.text
    assert (response.json()["code"], response.json()["field"]) == ("directory_not_allowed", field)
    assert len(scripted.calls()) == 1


def test_forbidden_default_directory_prevents_startup(folders: Folders) -> None:
    server = ServerSettings(default_workdir=folders / "home/ab", allowed_workdir_prefixes=(folders / "home/a",))
    with pytest.raises(ConfigError, match=r"server\.default_workdir .* is in none of"):
        serve(Settings(server=server), {}, BACKENDS, print)
