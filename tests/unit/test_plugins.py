"""Plug-ins are found by their entry points, and a broken one is reported without disturbing the others."""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from clinvk import plugin
from clinvk.backends.registry import BUILT_IN, Backends, Definition, backend_named, with_definitions
from plugin_site import ERRORS, EXAMPLES, install_broken, install_examples


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder of sys.path with the templates and with broken plug-ins."""
    install_examples(tmp_path)
    install_broken(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in ("clinvk_shout", "clinvk_parrot", "broken"):
        sys.modules.pop(name, None)


def problems(registry: Backends) -> dict[str, str]:
    return {name: backend.error for name, backend in registry.items() if backend.error}


def test_plugins_are_backends_after_those_of_clinvk(site: Path) -> None:
    registry = with_definitions({"own": Definition(command=("tr",))})
    assert [*registry][:4] == [*BUILT_IN, "own"]
    assert {name for name, backend in registry.items() if not backend.error} == {
        *BUILT_IN,
        "own",
        "parrot",
        "shout",
        "unhealthy",
    }
    assert len(registry) == len([*registry]) == 7 + len(ERRORS)
    assert backend_named("shout", registry) is registry["shout"]


def test_package_with_broken_metadata_leaves_the_others_alone(site: Path) -> None:
    folder = site / "worse-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[clinvk.backends]\nno value\n")
    assert not with_definitions({})["shout"].error


def test_settings_keep_a_name_that_a_plugin_has(site: Path) -> None:
    registry = with_definitions({"shout": Definition(command=("tr",))})
    assert registry["shout"].install == "see backends.shout.command in the settings"
    assert {"a-shout:shout", "bad:shout"} <= problems(registry).keys()


def test_public_names_are_those_of_version_1() -> None:
    names = {name for name in vars(plugin) if not name.startswith("_")}
    assert plugin.API_VERSION == 1
    assert names == set(PUBLIC.split())


@pytest.mark.parametrize("folder", sorted(path.name for path in EXAMPLES.iterdir()))
def test_template_is_short(folder: str) -> None:
    modules = [path for path in (EXAMPLES / folder).rglob("*.py") if path.name != "program.py"]
    assert sum(len(path.read_text().splitlines()) for path in modules) < 100


PUBLIC = """
API_VERSION AgentFailed AgentOverloaded AgentRateLimited AgentRejected AgentUnauthenticated
AwaitingTools Backend Capabilities Channel Checkup ClientTool Decoder Delivery Ending Event FieldOption
FlagProbe Host Image Interaction InteractionAnswer InteractionRequested InvalidRequest Launch LimitWindow
LoginProbe LoginStatus NotResumable OneShotChannel PRIVATE ProbeOutput Progress ProtocolNotSupported QuestionField
Remark Report Resume RunFailed RunFinished RunRequest RunStarted SessionNotFound SteerReply TextDecoder TextDelta
ThinkingDelta ToolCall ToolCallDelta ToolOutput ToolResult Unsupported Usage crash_ending decode_line plain_prompt
refuse_options with_schema
"""
