"""Every setting from every source: valid values apply, and invalid values are reported."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from clinvk.backends.registry import BACKENDS
from clinvk.config import setting_values
from clinvk.config.edit import SettingsText, setting_change
from clinvk.config.load import load
from clinvk.config.model import BackendSettings, Settings
from clinvk.types.errors import ConfigError

Name = tuple[str, ...]
KEYS = [(name, kind) for name, kind in setting_values.all_keys(("claude",)) if not setting_values.is_section(kind)]
IDS = [".".join(name) for name, _ in KEYS]
PATHS = ("default_workdir", "allowed_workdir_prefixes", "blocked_workdir_prefixes")

OF_BACKENDS: dict[Name, tuple[tuple[str, object], tuple[str, object]]] = {
    ("default_backend",): (("codex", "codex"), ("gemini", "gemini")),
    ("backends", "claude", "fallback"): (("codex/gpt-5,gemini", ("codex/gpt-5", "gemini")), ('["codex"]', ("codex",))),
    ("policy", "allowed_backends"): (("claude,gemini", ("claude", "gemini")), ('["codex"]', ("codex",))),
    ("warm", "kept_backends"): (("claude,gemini", ("claude", "gemini")), ('["codex"]', ("codex",))),
    ("warm", "prestart"): (("claude,gemini", ("claude", "gemini")), ('["codex"]', ("codex",))),
}
OF_COMMANDS: dict[Name, tuple[tuple[str, object], tuple[str, object]]] = {
    ("backends", "claude", "acp"): (("a 'b c'", ("a", "b c")), ('["a b"]', ("a b",))),
    ("backends", "claude", "command"): (("a 'b c'", ("a", "b c")), ('["a b"]', ("a b",))),
    ("backends", "claude", "output"): (("text", "text"), ("text", "text")),
}
OF_VARIABLES: dict[Name, tuple[tuple[str, object], tuple[str, object]]] = {
    ("agents", "env_allow"): (("A,B_*", ("A", "B_*")), ('["npm_config_x-y"]', ("npm_config_x-y",)))
}
OF_ADDRESSES: dict[Name, tuple[tuple[str, object], tuple[str, object]]] = {
    ("cluster", "node"): (("build-1", "build-1"), ("ana_2", "ana_2")),
    ("store", "url"): (("postgresql://h/d", "postgresql://h/d"), ("postgres://u:p@h:1/d", "postgres://u:p@h:1/d")),
    ("cluster", "url"): (("nats://h:4222", "nats://h:4222"), ("tls://u:p@h:1", "tls://u:p@h:1")),
    ("notifications", "push_hosts"): (("a.de,*.b.de", ("a.de", "*.b.de")), ('["a.de:8443"]', ("a.de:8443",))),
    ("notifications", "push_contact"): (("mailto:a@b.de", "mailto:a@b.de"), ("https://a.de", "https://a.de")),
}


def samples(name: Name, kind: object) -> tuple[tuple[str, object], tuple[str, object]]:
    """Return two values other than the default, each as text and parsed."""
    words = setting_values.allowed_words(kind)
    if special := (OF_BACKENDS | OF_COMMANDS | OF_VARIABLES | OF_ADDRESSES).get(name):
        return special
    if words == ("true", "false"):
        other = not value_of(Settings(), name)
        return (str(other).lower(), other), ("yes" if other else "off", other)
    if words:
        others = [word for word in words if word != value_of(Settings(), name)]
        one, two = others[0], others[-1]
        return (one, one), (two, two)
    if setting_values.is_list(kind):
        return ("/a,/b", ("/a", "/b")), ('["/c,d"]', ("/c,d",))
    if kind is str:
        return ("/one", "/one"), ("/two", "/two")
    return ("7", 7), ("11", 11)


def wrong(name: Name, kind: object) -> str:
    if name in OF_BACKENDS or setting_values.allowed_words(kind):
        return "nonsense"
    if name in OF_VARIABLES or name in OF_ADDRESSES:
        return "A B"
    if kind is str or setting_values.is_list(kind):
        return "relative" if name[-1] in PATHS else ""
    return "-1"


def value_of(settings: Settings, name: Name) -> object:
    value: object = settings
    if name[0] == "backends":
        value, name = settings.backends.get(name[1], BackendSettings()), name[2:]
    for key in name:
        value = getattr(value, key)
    return value


def variable(name: Name) -> str:
    return "CLINVK_BACKEND" if len(name) == 1 else f"CLINVK_{'__'.join(name).upper()}"


def loaded(folder: Path, file: str, env: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    path = folder / "config.yaml"
    path.write_text(file)
    return load(str(path), {"HOME": "/home/ana", **env}, flags, BACKENDS)


def in_file(name: Name, text: str) -> str:
    change = setting_change(".".join(name), text, BACKENDS, {"HOME": "/home/ana"})
    return SettingsText("", Path("config.yaml"), BACKENDS, {"HOME": "/home/ana"}).with_setting(change)


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=IDS)
def test_flag_overrides_environment_and_environment_overrides_file(tmp_path: Path, name: Name, kind: object) -> None:
    (one, meant), (two, meant_too) = samples(name, kind)
    assert value_of(Settings(), name) not in (meant, meant_too) or setting_values.allowed_words(kind) == ("text",)
    file, env = in_file(name, one), {variable(name): two}
    assert value_of(loaded(tmp_path, file, {}, {}), name) == meant
    assert value_of(loaded(tmp_path, "", {variable(name): one}, {}), name) == meant
    assert value_of(loaded(tmp_path, file, env, {}), name) == meant_too
    assert value_of(loaded(tmp_path, in_file(name, two), env, {".".join(name): meant}), name) == meant


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=IDS)
def test_invalid_value_is_reported_with_its_location(tmp_path: Path, name: Name, kind: object) -> None:
    bad = wrong(name, kind)
    if not bad:
        return
    lines = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(name[:-1]))
    for text in (bad, f"[{bad}, [x]]", "{a: b}"):
        file = f"{lines}{'  ' * (len(name) - 1)}{name[-1]}: {text}\n"
        with pytest.raises(ConfigError) as caught:
            loaded(tmp_path, file, {}, {})
        assert caught.value.message.startswith(f"{tmp_path}/config.yaml:{len(name)}: ")
        assert ".".join(name) in caught.value.message
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "", {variable(name): bad}, {})
    assert caught.value.message.startswith(f"{variable(name)}: {'.'.join(name)} = {bad!r}")


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=IDS)
def test_mistyped_key_gets_a_suggestion(tmp_path: Path, name: Name, kind: object) -> None:
    *above, last = name
    typed = (*above, last[:-2] + last[-1] + last[-2])
    said = f"unknown key '{'.'.join(typed)}'.* did you mean '{last}'"
    if above:
        with pytest.raises(ConfigError, match=said):
            loaded(tmp_path, "", {variable(typed): "1"}, {})
    with pytest.raises(ConfigError, match=said):
        setting_change(".".join(typed), "1", BACKENDS, {"HOME": "/home/ana"})


def test_every_key_type_has_a_description() -> None:
    """Without a description, error messages would call a new type a text."""
    kinds = {kind for _, kind in KEYS}
    texts = {kind for kind in kinds if setting_values.allowed(kind).startswith("a text")}
    assert texts == {str}
