"""Programs that print text, as backends of the settings."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Host
from clinvk.backends.registry import BACKENDS
from clinvk.backends.text import MAX_ARGUMENT_BYTES, TextBackend
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext, backends_of
from clinvk.cli.terminal.output import Notes
from clinvk.types.errors import ConfigError, InvalidRequest, Unsupported
from clinvk.types.events import RunFailed, RunFinished, TextDelta
from clinvk.types.request import Image, RunRequest

PLAIN = TextBackend("upper", ("tr", "a-z", "A-Z"))
WITH_ARGUMENT = TextBackend("say", ("say", "{prompt}", "--text={prompt}"))


def request(prompt: str = "hello", **options: object) -> RunRequest:
    return replace(RunRequest(prompt=prompt), **options)


def output(backend: TextBackend, lines: list[bytes], exit_code: int = 0, stderr: bytes = b"") -> list[object]:
    channel = backend.channel(backend.launch(request(), None, Host()), Host())
    channel.start("run", request(), None)
    delivered = [each for line in lines for each in channel.receive(line)]
    return [each[1] for each in [*delivered, *channel.closed(exit_code, stderr)] if isinstance(each, tuple)]


def test_prompt_goes_to_stdin() -> None:
    launch = PLAIN.launch(request(system_prompt="Be brief."), None, Host())
    assert launch.argv == ("tr", "a-z", "A-Z")
    stdin = PLAIN.channel(launch, Host()).start("run", request(system_prompt="Be brief."), None)
    assert stdin.startswith(b"<system_prompt>")
    assert stdin.endswith(b"hello")


def test_prompt_goes_into_the_arguments_that_name_it() -> None:
    launch = WITH_ARGUMENT.launch(request("a {prompt} $HOME"), None, Host())
    assert launch.argv == ("say", "a {prompt} $HOME", "--text=a {prompt} $HOME")
    assert WITH_ARGUMENT.channel(launch, Host()).start("run", request(), None) == b""


def test_prompt_in_an_argument_is_not_read_as_a_flag() -> None:
    assert WITH_ARGUMENT.launch(request("--help"), None, Host()).argv == ("say", " --help", "--text=--help")


def test_long_prompt_is_refused_as_an_argument_only() -> None:
    longest = "x" * MAX_ARGUMENT_BYTES
    WITH_ARGUMENT.launch(request(longest), None, Host())
    with pytest.raises(InvalidRequest, match="100001"):
        WITH_ARGUMENT.launch(request(longest + "x"), None, Host())
    with pytest.raises(InvalidRequest, match="NUL"):
        WITH_ARGUMENT.launch(request("\0"), None, Host())
    PLAIN.launch(request(longest * 2), None, Host())


@pytest.mark.parametrize(
    ("field", "value"), [("model", "gpt"), ("max_turns", 1), ("images", (Image("image/png", b""),))]
)
def test_option_that_a_program_cannot_honour_is_refused(field: str, value: object) -> None:
    with pytest.raises(Unsupported):
        PLAIN.launch(replace(request(), **{field: value}), None, Host())


def test_schema_is_part_of_the_prompt() -> None:
    channel = PLAIN.channel(PLAIN.launch(request(), None, Host()), Host())
    assert b"json_schema" in channel.start("run", request(output_schema={"type": "object"}), None)


def test_answer_is_the_printed_text_without_blank_lines_around_it() -> None:
    events = output(PLAIN, [b"", b"one", b"", b"  two \xff", b""])
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == "one\n\n  two \ufffd"
    assert isinstance(events[-1], RunFinished)


def test_failure_has_the_last_line_of_stderr() -> None:
    assert output(PLAIN, [b"part"], 3, b"one\ntwo\n")[-1] == RunFailed("agent_failed", "two", 3)
    assert output(PLAIN, [], 3)[-1] == RunFailed("agent_failed", "upper exited with code 3", 3)


def settings(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the commands of the backends that a settings file defines."""
    file = folder / "config.yaml"
    file.write_text(text)
    environ = {"HOME": str(folder), **(environ or {})}
    registry = backends_of(str(file), environ, BACKENDS)
    found = CommandContext(Flags(config=str(file)), environ, Notes({}), registry).trace().settings
    assert [name for name in registry if name not in BACKENDS] == sorted(found.backends.keys() - BACKENDS.keys())
    return {name: own.command for name, own in found.backends.items()}


def test_settings_define_backends(tmp_path: Path) -> None:
    text = "backends: {up: {command: [tr, 'a b']}, b2-x: {command: say 'a b'}, claude: {model: opus}}\n"
    assert settings(tmp_path, text) == {"up": ("tr", "a b"), "b2-x": ("say", "a b"), "claude": ()}


def test_variable_defines_a_backend(tmp_path: Path) -> None:
    assert settings(tmp_path, "", {"CLINVK_BACKENDS__UP__COMMAND": "tr a-z A-Z"}) == {"up": ("tr", "a-z", "A-Z")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backends: {Up: {command: [tr]}}", "lower-case"),
        ("backends: {claude: {command: [tr]}}", "config.yaml:1: backends.claude.command: claude is built in"),
        ("backends: {codex: {folders: [/x]}}", "config.yaml:1: backends.codex.folders: codex is built in"),
        ("backends: {up: {model: x}}", "unknown backend"),
        ("backends: {up: {command: [tr], output: json}}", "must be text"),
        ("backends: {up: {command: tr 'a}}", "must be a command line"),
    ],
)
def test_invalid_definition_is_reported(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, text)


def test_preset_and_acp_agent_are_backends(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("backends: {opencode: {}, mine: {acp: mine --acp}, kimi: {acp: [k2]}}\n")
    registry = backends_of(str(tmp_path / "config.yaml"), {"HOME": str(tmp_path)}, BACKENDS)
    launches = {name: registry[name].launch(request(), None, Host()).argv for name in ("opencode", "mine", "kimi")}
    assert launches == {"opencode": ("opencode", "acp"), "mine": ("mine", "--acp"), "kimi": ("k2",)}
    assert "qwen" not in registry
