"""The policy for requests in every API, over real sockets; errors reveal no keys."""

import os
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from clinvk.config.model import BackendSettings, PolicySettings
from clinvk.store.memory import MemoryStore
from scripted import Scripted
from scripted.steps import claude_says, exits, stderr
from serving import LiveServer, serving
from standin.document import JSON

ASKED: dict[str, JSON] = {"backend": "claude", "prompt": "hi"}
STRICT = PolicySettings(
    max_approval_mode="auto", max_sandbox_mode="workspace", allowed_backends=("claude",), allowed_models=("haiku",)
)
SECRET = "sk-ant-api03-0123456789abcdefghij"
REFUSED: list[tuple[dict[str, JSON], str]] = [
    ({"approval_mode": "none"}, "approval_mode"),
    ({"sandbox_mode": "full"}, "sandbox_mode"),
    ({"sandbox_mode": "default"}, "sandbox_mode"),
    ({"model": "opus"}, "model"),
    ({"backend": "codex"}, "backend"),
    ({"extra": ["--effort=low", "--add-dir=/"]}, "extra[1]"),
    ({"workdir": "/etc"}, "workdir"),
    ({"add_dirs": ["/tmp", "/"]}, "add_dirs[1]"),
]


async def sent(server: LiveServer, path: str, body: JSON, headers: Mapping[str, str] | None = None) -> httpx.Response:
    return await server.client.post(path, json=body, headers=headers)


async def test_request_beyond_the_policy_is_refused_in_single_and_multi_agent_requests(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), policy=STRICT) as server:
        for fields, field in REFUSED:
            part: JSON = {**ASKED, **fields}
            answers = {
                field: await sent(server, "/api/v1/prompt", part),
                f"tasks[1].{field}": await sent(server, "/api/v1/parallel", {"tasks": [ASKED, part]}),
                f"steps[1].{field}": await sent(server, "/api/v1/chain", {"steps": [ASKED, part], "dry_run": True}),
            }
            for place, answer in answers.items():
                body = answer.json()
                assert (answer.status_code, body["field"]) == (403, place), body
                assert "allowed" in body["detail"]
    assert scripted.calls() == []


MODEL_APIS: list[tuple[str, dict[str, JSON]]] = [
    ("/openai/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/openai/v1/responses", {"input": "hi"}),
    ("/openai/v1/completions", {"prompt": "hi"}),
    ("/anthropic/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
]


FORBIDDEN: list[tuple[str, dict[str, str], str]] = [
    ("claude", {"x-clinvk-approval-mode": "none"}, "x-clinvk-approval-mode"),
    ("claude", {"x-clinvk-sandbox-mode": "full"}, "x-clinvk-sandbox-mode"),
    ("claude", {"x-clinvk-workdir": "/etc"}, "x-clinvk-workdir"),
    ("claude", {"x-clinvk-workdir": "/proc/self/root/usr/bin"}, "x-clinvk-workdir"),
    ("claude/opus", {}, "model"),
    ("codex", {}, "backend"),
]


@pytest.mark.parametrize(("path", "body"), MODEL_APIS)
async def test_vendor_apis_refuse_requests_beyond_the_policy_in_their_own_format(
    scripted: Scripted, path: str, body: dict[str, JSON]
) -> None:
    async with serving(scripted.env, store=MemoryStore(), policy=STRICT) as server:
        for model, headers, field in FORBIDDEN:
            answer = await sent(server, path, {**body, "model": model}, headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (403, "permission_error"), error
            place = "model" if field == "backend" else field
            assert error.get("param", place) == place
            assert field in error["message"]
    assert scripted.calls() == []


async def test_lists_omit_what_the_policy_forbids(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), policy=STRICT) as server:
        backends = (await server.client.get("/api/v1/backends")).json()["backends"]
        health = (await server.client.get("/health")).json()["backends"]
        listed = [
            [model["id"] for model in (await server.client.get(path)).json()["data"]]
            for path in ("/openai/v1/models", "/anthropic/v1/models", "/v1/models")
        ]
        found = [
            (await server.client.get(f"{base}/models/{name}")).status_code
            for base in ("/openai/v1", "/anthropic/v1")
            for name in ("claude", "claude/haiku", "haiku", "claude/opus", "opus", "codex", "codex/gpt-5.5")
        ]
    assert [(each["name"], each["models"]) for each in backends] == [("claude", ["haiku"])]
    assert [each["name"] for each in health] == ["claude"]
    assert listed == [["claude", "claude/haiku"]] * 3
    assert found == [200, 200, 200, 404, 404, 404, 404] * 2


async def test_policy_limits_the_defaults_too(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    loose = {"claude": BackendSettings(approval_mode="none", sandbox_mode="full")}
    policy = PolicySettings(max_approval_mode="default", max_sandbox_mode="read-only")
    async with serving(scripted.env, backends=loose, policy=policy) as server:
        assert (await server.prompt()).status_code == 200
        assert (await server.prompt(extra=["--effort", "low"])).status_code == 200
    strict, with_flag = (call.argv for call in scripted.calls())
    assert "--permission-mode=default" in strict
    assert "--tools=Read,Grep,Glob" in strict
    assert "--effort=low" in with_flag


async def test_judge_that_the_policy_prevents_from_answering_is_refused_before_any_agent_starts(
    scripted: Scripted,
) -> None:
    """Claude Code answers a schema by a tool call. Nothing is said of a word that no client can choose."""
    body: dict[str, JSON] = {"prompt": "hi", "backends": ["claude", "claude"], "judge": {"backend": "claude"}}
    async with serving(scripted.env, policy=PolicySettings(max_approval_mode="always")) as server:
        answer = await sent(server, "/api/v1/compare", body)
        other = await sent(server, "/api/v1/compare", {**body, "judge": {"backend": "gemini"}})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "unsupported_option", "judge")
    assert "claude answers a schema by a tool call" in answer.json()["detail"]
    assert other.status_code == 200, other.text


@pytest.mark.parametrize("joined", [True, False])
async def test_flags_from_the_settings_are_shown_without_their_values(scripted: Scripted, joined: bool) -> None:
    flags = {"codex": ("--config", "mcp_servers.x.env.T=TOPSECRET"), "claude": ("--mcp-config", "TOPSECRET")}
    backends = {
        name: BackendSettings(extra_flags=("=".join(pair),) if joined else pair) for name, pair in flags.items()
    }
    step: dict[str, JSON] = {"backend": "codex", "prompt": "x", "approval_mode": "none"}
    async with serving(scripted.env, backends=backends) as server:
        shown = await sent(server, "/api/v1/prompt", {**step, "dry_run": True})
        reported = await sent(server, "/api/v1/chain", {"steps": [{**step}], "dry_run": True})
        refused = [await server.prompt(backend=name, sandbox_mode="read-only") for name in flags]
    for command in (shown.json()["output"], reported.json()["results"][0]["output"]):
        assert f"--config{'=...' if joined else ' ...'}" in command
    for name, answer in zip(flags, refused, strict=True):
        assert answer.status_code == 400
        assert f"backends.{name}.extra_flags: extra " in answer.json()["detail"]
        assert answer.json().get("field") is None
    assert "TOPSECRET" not in "".join(answer.text for answer in (shown, reported, *refused))


async def test_check_over_http_requires_an_unrestricted_policy(scripted: Scripted) -> None:
    body: JSON = {"prompt": "hi", "backends": ["claude"], "isolation": "worktree", "check": "true"}
    async with serving(scripted.env, store=MemoryStore(), policy=STRICT) as server:
        answer = await sent(server, "/api/v1/compare", body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (403, "beyond_policy", "check")


@pytest.mark.parametrize(("allowed", "blocked"), [((), ()), ((), ("/srv/mine",)), (("/",), ())])
async def test_allowlist_does_not_open_built_in_blocked_directories(
    scripted: Scripted, tmp_path: Path, allowed: tuple[str, ...], blocked: tuple[str, ...]
) -> None:
    async with serving(
        scripted.env, store=MemoryStore(), allowed_workdir_prefixes=allowed, blocked_workdir_prefixes=blocked
    ) as server:
        for place in (".ssh", ".aws/x", ".gnupg", ".clinvk", ".clinvk/keys", ".claude", ".codex/sessions"):
            folder, link = Path(scripted.env["HOME"], place), tmp_path / place.replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)
            for path in (str(folder), str(link), f"{tmp_path}/../{tmp_path.name}/{link.name}/"):
                for fields in ({"workdir": path}, {"add_dirs": [path]}):
                    answer = await server.prompt(**fields)
                    assert (answer.status_code, answer.json()["code"]) == (403, "directory_not_allowed"), answer.text
    assert scripted.calls() == []


async def test_temporary_directory_and_workspace_are_allowed(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x"))
    workspace = Path(scripted.env["HOME"], ".clinvk/workspace")
    workspace.mkdir(parents=True)
    async with serving(scripted.env) as server:
        for path in (tmp_path, workspace):
            assert (await server.prompt(workdir=str(path))).status_code == 200
    assert [call.cwd for call in scripted.calls()] == [os.path.realpath(tmp_path), os.path.realpath(workspace)]


async def test_agent_gets_the_resolved_path_that_was_checked(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x"))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with serving(scripted.env) as server:
        await server.prompt(workdir=str(tmp_path / "link"), add_dirs=[str(tmp_path / "link")])
    (call,) = scripted.calls()
    real = os.path.realpath(tmp_path / "real")
    assert call.cwd == real
    assert f"--add-dir={real}" in call.argv


@pytest.mark.parametrize("backend", ["claude", "codex"])
@pytest.mark.parametrize("field", ["workdir", "add_dirs[0]", "here"])
async def test_directory_with_a_non_utf8_name_is_refused_even_behind_a_link(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, field: str
) -> None:
    """Neither the protocols of the agents nor the store could name it."""
    folder, link = tmp_path / os.fsdecode(b"\xff"), str(tmp_path / "link")
    folder.mkdir()
    os.symlink(folder, link)
    body: dict[str, JSON] = {"backend": backend, "prompt": "hi"}
    match field:
        case "workdir":
            body["workdir"] = link
        case "add_dirs[0]":
            body["add_dirs"] = [link]
        case _:
            monkeypatch.chdir(folder)
            field = "workdir"
    async with serving(scripted.env) as server:
        for more in ({}, {"ephemeral": True}, {"dry_run": True}):
            answer = await server.client.post("/api/v1/prompt", json={**body, **more})
            assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
            assert answer.json()["detail"].endswith("is not UTF-8")
        answer = await server.client.post("/api/v1/parallel", json={"tasks": [body]})
        assert (answer.status_code, answer.json()["field"]) == (400, f"tasks[0].{field}")
    assert scripted.calls() == []


async def test_errors_redact_keys_sent_by_clients_or_printed_by_agents(scripted: Scripted) -> None:
    own = {"claude": BackendSettings(env={"GATEWAY_TOKEN": "plain-looking-words"})}
    scripted.play([stderr(f"401 for {SECRET}, Bearer abcdefgh12345678, plain-looking-words"), exits(3)])
    async with serving(scripted.env, backends=own) as server:
        answers = [
            await server.prompt(workdir=f"relative/{SECRET}"),
            await server.prompt(extra=[f"--api-key={SECRET}"]),
            await sent(server, "/openai/v1/chat/completions", {"model": f"{SECRET}/x", "messages": []}),
            await server.prompt(),
            await server.prompt(output_format="stream-json", verbose=True),
            await sent(server, MODEL_APIS[0][0], {"model": "claude", **MODEL_APIS[0][1]}),
            await sent(server, MODEL_APIS[3][0], {"model": "claude", **MODEL_APIS[3][1]}),
            await server.client.get("/api/v1/runs"),
            await server.client.get("/api/v1/sessions"),
        ]
    for answer in answers:
        for secret in (SECRET, "abcdefgh12345678", "plain-looking-words"):
            assert secret not in answer.text, answer.url
    assert "401 for [redacted], Bearer [redacted], [redacted]" in answers[3].json()["error"]
    assert "[redacted]" in answers[0].json()["detail"]


async def test_agents_inherit_provider_keys_but_no_server_variables(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    environ = {**scripted.env, "CLINVK_API_KEYS": "k", "LISTEN_FDS": "1", "ANTHROPIC_API_KEY": "fake"}
    async with serving(environ) as server:
        await server.prompt()
    (call,) = scripted.calls()
    assert "CLINVK_API_KEYS" not in call.env
    assert "LISTEN_FDS" not in call.env
    assert call.env["ANTHROPIC_API_KEY"] == "fake"
