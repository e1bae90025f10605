"""The options of a prompt: request, REST body, flags, settings and documents agree on each option."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from clinvk.api.openapi.document import document
from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse import arguments
from clinvk.cli.parse.flag import Flag
from clinvk.cli.parse.flags import PromptFlags, ResumeFlags, RunFlags, flags_of
from clinvk.cli.prompt.prompt import request_of
from clinvk.cli.prompt.resume import refuse_prompt_flags
from clinvk.config.model import BackendSettings, Settings, UnifiedFlags, complete
from clinvk.dialects.dialect import Call
from clinvk.dialects.rest.bodies import PromptBody
from clinvk.dialects.rest.rest import Rest
from clinvk.runtime.run.event_log import Autosave
from clinvk.runtime.run.recording import RunRecorder
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import RunRecord
from clinvk.types.request import (
    ClientTool,
    FailedAgent,
    Group,
    Image,
    McpServer,
    PartPosition,
    Placement,
    RunRequest,
    fallback_of,
)

PAGE = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()
PNG = b"\x89PNG\r\n\x1a\n"
BODY: dict[str, object] = {
    **{"prompt": "hi", "images": ["iVBORw0KGgo="], "backend": "claude", "model": "fast", "workdir": "/w"},
    **{"add_dirs": ["/a"], "approval_mode": "none", "sandbox_mode": "read-only", "allowed_tools": ["Read"]},
    **{"ephemeral": True, "max_turns": 3, "max_total_tokens": 4, "max_cost_usd": 0.5, "on_budget": "ask"},
    **{"max_tokens": 100, "effort": "high", "thinking": True, "stop": ["END"], "output_schema": {"type": "object"}},
    **{"system_prompt": "be brief", "timeout_secs": 1.5, "verbose": True, "warm": False, "notify": ["desk"]},
    **{"dry_run": True, "extra": ["--x", "y"], "tags": ["t"], "metadata": {"k": [1, None]}},
    **{"fallback": ["codex/gpt-5"], "on_limit": "wait", "session_id": "abc", "on_busy": "queue", "continue_with": True},
    **{"output_format": "json", "detach": True, "isolation": "worktree", "node": "web", "labels": ["gpu", "x"]},
}
OF_CALL = {"dry_run", "output_format", "detach", "node", "labels"}
"""Fields of the body that say how to answer and where to run."""

OF_CLINVK = {
    *("fell_back", "new_session_id", "client_tools", "own_tools", "literal", "part", "answer_as", "key_name"),
    *("client", "depth", "trace", "mcp_servers", "rules_only"),
}
"""Fields of the request that no field of the body sets."""

RENAMED = {"timeout_secs": "timeout_s", "timeout": "timeout_s", "add_dir": "add_dirs", "image": "images"}
"""The field of the request for each field of the body and each flag with another name."""

FULL = Rest().parse(msgspec.json.encode(BODY), {}).request
OPEN = RunRequest(backend="claude")
SETTINGS = [
    pytest.param(kind, name, id=f"{kind.__name__}-{name}")
    for kind in (BackendSettings, UnifiedFlags)
    for name in kind.__struct_fields__
    if name in RunRequest.__struct_fields__
]
FLAGS = [flag for flag in flags_of(PromptFlags, {}) if flag.heading == RunFlags.heading]
OF_COMMAND = {"detach", "no_server", "no_stdin", "fallback", "print"}
"""Flags for a prompt that the command itself reads."""


def test_request_has_a_field_for_each_field_of_the_body() -> None:
    assert set(BODY) == set(PromptBody.__struct_fields__)
    options = {RENAMED.get(name, name) for name in BODY.keys() - OF_CALL}
    assert options.isdisjoint(OF_CLINVK)
    assert options | OF_CLINVK == set(RunRequest.__struct_fields__)


def test_each_field_of_the_body_reaches_the_request() -> None:
    fields = {RENAMED.get(name, name): value for name, value in BODY.items() if name not in OF_CALL}
    converted = {"images": (Image("image/png", PNG),), "fallback": fallback_of(["codex/gpt-5"])}
    request = replace(msgspec.convert(fields | {"images": [], "fallback": None}, RunRequest), **converted)
    placement = Placement("web", frozenset({"gpu", "x"}))
    expected = Call(request=request, dry_run=True, detach=True, placement=placement)
    assert Rest().parse(msgspec.json.encode(BODY), {}) == expected
    assert not [name for name in fields if getattr(request, name) == getattr(RunRequest(), name)]


def test_openapi_and_the_page_document_each_field_of_the_body() -> None:
    schema = msgspec.json.decode(document(BACKENDS))["components"]["schemas"]["PromptBody"]
    described = [name for name, field in schema["properties"].items() if field["description"]]
    assert described == [*PromptBody.__struct_fields__]
    assert (schema["required"], schema["additionalProperties"]) == (["prompt"], False)
    table = PAGE.partition("\n| field | | |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert sorted(row.split("`")[1] for row in table.splitlines()) == sorted(BODY)


def given(flag: Flag, folder: Path) -> list[str]:
    """Return a flag with a value other than the default."""
    if not flag.metavar:
        return [flag.names[0]] * 2
    file = folder / flag.field
    file.write_bytes(PNG if flag.field == "image" else b"{}")
    values = {"FILE": str(file), "DIR": "/", "N": "3", "SECS": "3"}
    return [flag.names[0], flag.choices[-1] if flag.choices else values.get(flag.metavar, "x")]


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.field)
def test_flag_reaches_the_request(flag: Flag, tmp_path: Path) -> None:
    flags = arguments.read(given(flag, tmp_path)).flags
    assert isinstance(flags, PromptFlags)
    changed, unchanged = request_of(flags, Settings()), request_of(PromptFlags(), Settings())
    different = {name for name in RunRequest.__struct_fields__ if getattr(changed, name) != getattr(unchanged, name)}
    assert different == {RENAMED.get(flag.field, flag.field)} - OF_COMMAND


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.field)
def test_interactive_resume_refuses_what_the_program_of_the_agent_does_not_get(flag: Flag, tmp_path: Path) -> None:
    if flag.field == "fallback":
        return  # not a flag of `resume`
    flags = arguments.read(["resume", "--last", "--interactive", *given(flag, tmp_path)]).flags
    assert isinstance(flags, ResumeFlags)
    if flag.field in ("approval_mode", "sandbox_mode", "no_server", "verbose"):
        refuse_prompt_flags(flags, None)
    else:
        with pytest.raises(InvalidRequest, match=f"^{flag.names[0]} is for a prompt"):
            refuse_prompt_flags(flags, None)


@pytest.mark.parametrize(("kind", "name"), SETTINGS)
def test_setting_completes_a_request_without_the_option(kind: type[BackendSettings | UnifiedFlags], name: str) -> None:
    section = msgspec.convert({name: BODY[name]}, kind)
    is_of_agent = isinstance(section, BackendSettings)
    settings = Settings(backends={"claude": section}) if is_of_agent else Settings(unified_flags=section)
    asked = complete(replace(OPEN, **{name: getattr(FULL, name)}), Settings())
    assert complete(OPEN, settings) == asked
    other = "default" if isinstance(BODY[name], str) else type(getattr(FULL, name))()
    if name != "verbose":
        assert getattr(complete(replace(OPEN, **{name: other}), settings), name) == other
    if is_of_agent and name not in ("model", "fallback"):
        agents = complete(replace(asked, fallback=fallback_of(["codex"])), Settings()).fallback or ()
        assert [getattr(agent, name) for agent in agents] == [getattr(FULL, name)]


async def test_record_lists_each_option_without_a_column_and_no_text_of_an_ephemeral_run() -> None:
    secret: dict[str, object] = {"system_prompt": "secret", "stop": ("secret",), "extra": ("--secret",)}
    secret["output_schema"] = {"secret": 1}
    request = replace(FULL, **secret, prompt="secret", answer_as={"secret": 1}, part=PartPosition("p", 0), depth=1)
    request = replace(request, mcp_servers=(McpServer("m", "http", "https://hidden"),))
    request = replace(request, client_tools=(ClientTool("f"),), own_tools=False, literal=True, new_session_id="s")
    request = replace(request, rules_only=True)
    request = replace(
        request, fell_back=(FailedAgent("codex", "no", "x"),), key_name="k", client="c", trace={"traceparent": "secret"}
    )
    unset = [name for name in RunRequest.__struct_fields__ if getattr(request, name) == getattr(RunRequest(), name)]
    assert not unset
    store = MemoryStore()
    records = [
        RunRecorder(store, Autosave(store), "r", replace(request, ephemeral=ephemeral), None, None, Settings()).record
        for ephemeral in (False, True)
    ]
    not_stored = {"images", "client", "depth", "new_session_id", "ephemeral", "trace", "mcp_servers", "rules_only"}
    columns = {*RunRecord.__struct_fields__}
    assert {*RunRequest.__struct_fields__} <= {*records[0].request} | columns | not_stored
    assert {*records[0].request} - {*records[1].request} == {*secret, "answer_as"}
    assert b"secret" not in msgspec.json.encode(records[1])
    assert b"hidden" not in msgspec.json.encode(records)


def test_prompt_that_steers_differs_in_its_turn_only() -> None:
    begun = replace(OPEN, prompt="one", new_session_id="s1", tags=("t",), workdir="/w", client="c", effort="high")
    steering = replace(OPEN, prompt="two", session_id="s1", on_busy="steer", effort="high")
    assert steering.without(Group.TURN) == begun.without(Group.TURN)
    assert replace(steering, effort="low").without(Group.TURN) != begun.without(Group.TURN)
