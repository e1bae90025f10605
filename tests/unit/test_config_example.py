"""config.example.yaml says what the code says: every key, and the default of each."""

import re
from pathlib import Path

import msgspec
import yaml

from clinvk.config.load import load, trace
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
    assert keys_in(content) - {"backends.codex", "backends.gemini"} == keys_of(Settings)


def test_copy_of_the_example_changes_no_setting() -> None:
    found = trace(str(EXAMPLE), {"HOME": "/home/user"}, {}, ("claude", "codex", "gemini"))
    assert (found.settings, found.places) == (Settings(), {})


def test_example_has_the_default_of_every_key(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(uncommented())
    settings = load(str(file), {"HOME": "/home/user"}, {}, ("claude", "codex", "gemini"))
    assert settings.backends == {"claude": BackendSettings()}
    assert msgspec.structs.replace(settings, backends={}) == Settings()


def test_configuration_page_lists_every_key() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"`([a-z_.<>]+)`", page))
    missing = {key.replace(".claude.", ".<name>.") for key in keys_of(Settings)} - named
    assert not missing
