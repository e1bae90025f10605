"""The MCP servers of an editor in the launches of the agents."""

import msgspec
import pytest

from clinvk.backends.acp import AcpBackend
from clinvk.backends.base import Backend, Host, Launch
from clinvk.backends.claude import Claude
from clinvk.backends.codex import Codex
from clinvk.backends.gemini import Gemini
from clinvk.backends.refusals import refuse_incapable
from clinvk.backends.text import TextBackend
from clinvk.types.errors import Unsupported
from clinvk.types.request import McpServer, NamedValue, RunRequest

HTTP = McpServer("remote", "http", "https://mcp.example/x", (NamedValue("Authorization", "Bearer secret-1"),))
PROGRAM = McpServer("files", command="/bin/files", args=("--all",), env=(NamedValue("TOKEN", "secret-2"),))
SERVERS = (HTTP, PROGRAM)
ACP = AcpBackend("fake", ("fake", "--acp"), ())
HOST = Host(env={"HOME": "/home/me", "IS_SANDBOX": "1"}, commands=frozenset({"bwrap", "socat"}))


def launch(backend: Backend, **options: object) -> Launch:
    fields = {"workdir": "/w", "approval_mode": "none", "mcp_servers": SERVERS, **options}
    request = msgspec.convert({"prompt": "hi", "backend": backend.name}, RunRequest)
    return backend.launch(msgspec.structs.replace(request, **fields), None, HOST)


def secrets_of(value: object) -> set[str]:
    text = msgspec.json.encode(value).decode()
    return {secret for secret in ("secret-1", "secret-2") if secret in text}


@pytest.mark.parametrize("backend", [Claude(), Codex(), Gemini(), ACP], ids=lambda backend: backend.name)
def test_servers_reach_the_agent_and_no_secret_is_an_argument(backend: Backend) -> None:
    found = launch(backend)
    for each in filter(None, (found, found.warm)):
        assert not secrets_of([each.argv, each.wrapper, each.env])
        files = [data.decode() for name, data in each.files.items() if not name.endswith(".toml")]
        assert secrets_of([files, each.session_params]) == {"secret-1", "secret-2"}


def test_servers_have_the_form_of_each_agent() -> None:
    headers, env = {"Authorization": "Bearer secret-1"}, {"TOKEN": "secret-2"}
    program = {"command": "/bin/files", "args": ["--all"], "env": env}
    by_name = {"remote": {"type": "http", "url": HTTP.url, "headers": headers}, "files": program}
    claude, gemini = launch(Claude()), launch(Gemini())
    assert msgspec.json.decode(claude.files["mcp-servers.json"]) == {"mcpServers": by_name}
    assert msgspec.json.decode(gemini.files["home/.gemini/settings.json"])["mcpServers"] == by_name
    config = msgspec.json.decode(msgspec.json.encode(launch(Codex()).session_params["config"]))
    assert config == {"mcp_servers": {"remote": {"url": HTTP.url, "http_headers": headers}, "files": program}}
    assert msgspec.json.decode(msgspec.json.encode(launch(ACP).session_params["mcpServers"])) == [
        {
            "type": "http",
            "name": "remote",
            "url": HTTP.url,
            "headers": [{"name": "Authorization", "value": "Bearer secret-1"}],
        },
        {**program, "name": "files", "env": [{"name": "TOKEN", "value": "secret-2"}]},
    ]


@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
def test_sandbox_holds_the_programs_of_an_acp_agent_and_other_agents_refuse_them(sandbox: str) -> None:
    assert launch(ACP, sandbox_mode=sandbox).wrapper[0] == "bwrap"
    for backend in (Claude(), Codex(), Gemini()):
        with pytest.raises(Unsupported, match=r"the MCP server 'files' of the editor cannot be used: .*(sandbox)"):
            launch(backend, sandbox_mode=sandbox, mcp_servers=(PROGRAM,))


def test_agent_that_starts_no_server_refuses_it_by_name() -> None:
    with pytest.raises(Unsupported, match=r"'files' .* gemini starts one only with approval_mode none"):
        launch(Gemini(), approval_mode="ask", mcp_servers=(PROGRAM,))
    with pytest.raises(Unsupported, match=r"'remote' .* claude starts none with a sandbox or with allowed_tools"):
        launch(Claude(), approval_mode="default", allowed_tools=("Read",))
    with pytest.raises(Unsupported, match=r"'remote' .* aider takes no MCP servers"):
        refuse_incapable(TextBackend("aider", ("aider",)), RunRequest(prompt="", mcp_servers=SERVERS), None)
