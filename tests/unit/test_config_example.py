"""config.example.yaml says what the code says: every key, and the default of each."""

import re
from pathlib import Path

import msgspec
import yaml

from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext, backends_of
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import BackendSettings, Settings

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "config.example.yaml"


def uncommented() -> str:
    """Return the example with every setting in force: `#key: value` is a setting, `# text` a comment."""
    return re.sub(r"(?m)^( *)#(?=[a-z_]+:)", r"\1", EXAMPLE.read_text())


def keys_of(struct: type[msgspec.Struct]) -> set[str]:
    found: set[str] = set()
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= {f"{field.name}.{key}" for key in keys_of(field.type)}
        elif field.name == "backends":
            found |= {f"backends.claude.{key}" for key in keys_of(BackendSettings)}
        else:
            found.add(field.name)
    return found


def keys_in(section: dict[str, object], above: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in section.items():
        if isinstance(value, dict) and value:
            found |= keys_in(msgspec.convert(value, dict[str, object]), f"{above}{key}.")
        else:
            found.add(above + key)
    return found


def test_example_has_every_key() -> None:
    content = msgspec.convert(yaml.safe_load(uncommented()), dict[str, object])
    keys = {re.sub(r"\.(aider|mine)\.", ".claude.", key) for key in keys_in(content)}
    assert keys - {"backends.codex", "backends.gemini"} == keys_of(Settings)


def test_copy_of_the_example_changes_no_setting() -> None:
    defaults = CommandContext(Flags(), {"HOME": "/home/user"}, Notes({}), BACKENDS).trace()
    assert CommandContext(Flags(config=str(EXAMPLE)), {"HOME": "/home/user"}, Notes({}), BACKENDS).trace() == defaults
    assert defaults.places == {}


def test_example_has_the_default_of_every_key(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(uncommented())
    registry = backends_of(str(file), {"HOME": "/home/user"}, BACKENDS)
    settings = CommandContext(Flags(config=str(file)), {"HOME": "/home/user"}, Notes({}), registry).trace().settings
    aider = BackendSettings(command=("aider", "--yes-always", "--no-pretty", "--message", "{prompt}"))
    mine = BackendSettings(acp=("my-agent", "--acp"), folders=("~/.my-agent",))
    assert settings.backends == {"claude": BackendSettings(), "mine": mine, "aider": aider}
    defaults = CommandContext(Flags(), {"HOME": "/home/user"}, Notes({}), BACKENDS).trace().settings
    assert msgspec.structs.replace(settings, backends={}) == defaults


def test_empty_list_of_kept_backends_differs_from_the_default() -> None:
    settings = CommandContext(Flags(), {"HOME": "/home/user"}, Notes({}), BACKENDS).trace().settings
    assert settings.warm.kept_backends == ("claude", "codex")
    none = (
        CommandContext(Flags(), {"HOME": "/home/user", "CLINVK_WARM__KEPT_BACKENDS": "[]"}, Notes({}), BACKENDS)
        .trace()
        .settings
    )
    assert none.warm.kept_backends == ()


def test_configuration_page_lists_every_key() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"`([a-z_.<>]+)`", page))
    missing = {key.replace(".claude.", ".<name>.") for key in keys_of(Settings)} - named
    assert not missing
