"""Settings of notifications: addresses, combinations of keys, and names."""

from pathlib import Path

import pytest

from clinvk.backends.registry import BACKENDS
from clinvk.config.edit import SettingsText, setting_change
from clinvk.config.load import load
from clinvk.config.model import NotificationTarget, Settings, complete
from clinvk.types.errors import ConfigError, InvalidRequest
from clinvk.types.request import RunRequest

ENVIRON = {"HOME": "/home/ana"}
TARGETS = """
notifications:
  default: [phone]
  targets:
    phone: {ntfy: "https://ntfy.example/topic", token_env: NTFY_TOKEN, on: [waiting, failed]}
    ops: {webhook: "http://127.0.0.1:9000/hook?a=b", secret_env: OPS_SECRET, include_answer: true}
    desk: {command: [notify-send, "{title}"]}
"""


def loaded(folder: Path, text: str) -> Settings:
    file = folder / "config.yaml"
    file.write_text(text)
    return load(str(file), ENVIRON, {}, BACKENDS)


def target(text: str) -> str:
    return f"notifications: {{targets: {{it: {{{text}}}}}}}"


def test_targets_are_read_from_the_file(tmp_path: Path) -> None:
    settings = loaded(tmp_path, TARGETS).notifications
    settings.check()
    assert settings.targets == {
        "phone": NotificationTarget(
            ntfy="https://ntfy.example/topic", token_env="NTFY_TOKEN", on=("waiting", "failed")
        ),
        "ops": NotificationTarget(
            webhook="http://127.0.0.1:9000/hook?a=b", secret_env="OPS_SECRET", include_answer=True
        ),
        "desk": NotificationTarget(command=("notify-send", "{title}")),
    }
    assert settings.secret_variables == {"NTFY_TOKEN", "OPS_SECRET"}


def test_variable_of_the_environment_sets_a_key_of_a_target() -> None:
    environ = {**ENVIRON, "CLINVK_NOTIFICATIONS__TARGETS__DESK__COMMAND": "true,x"}
    settings = load(None, environ, {}, BACKENDS)
    assert settings.notifications.targets["desk"].command == ("true", "x")


@pytest.mark.parametrize(
    "address",
    [
        *("http://ntfy.example/topic", "http://127.0.0.1.evil.example/topic"),
        *("http://localhost@evil.example/topic", "https://ana:secret@ntfy.example/topic", "https:///topic"),
        *("file:///etc/passwd", "https://ntfy.example/a b", "https://ntfy.example/a\\nb", "ntfy.example"),
    ],
)
@pytest.mark.parametrize("kind", ["ntfy", "webhook"])
def test_address_must_be_https_or_on_this_machine(tmp_path: Path, kind: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"notifications.targets.it.{kind} = .* must be an address with https"):
        loaded(tmp_path, target(f'{kind}: "{address}"'))


@pytest.mark.parametrize(
    "address", ["https://h", "http://[::1]:1/x", "http://localhost/x#y", "https://[2001:db8::1]/x"]
)
def test_address_is_accepted(tmp_path: Path, address: str) -> None:
    loaded(tmp_path, target(f'ntfy: "{address}"')).notifications.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on: [done]", "notifications.targets.it must have exactly one of ntfy, webhook and command"),
        ('ntfy: "https://h/t", command: [x]', "must have exactly one of ntfy, webhook and command"),
        ('webhook: "https://h/t"', "notifications.targets.it: a webhook needs secret_env"),
        ('ntfy: "https://h/t", secret_env: X', "a webhook needs secret_env"),
        ("command: [x], token_env: X", "ntfy may have token_env"),
    ],
)
def test_target_with_keys_that_do_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, target(text)).notifications.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on: [done, begun]", "on = .* must be a list, each item one of done, failed, limit, waiting"),
        ("url: x", "unknown key 'notifications.targets.it.url'"),
    ],
)
def test_unknown_event_or_key_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, target(text))


def test_unknown_default_target_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"default: unknown notification target 'phon' .* did you mean 'phone'"):
        loaded(tmp_path, TARGETS.replace("[phone]", "[phon]")).notifications.check()


def test_request_with_an_unknown_target_is_refused(tmp_path: Path) -> None:
    settings = loaded(tmp_path, TARGETS)
    assert complete(RunRequest(prompt="x", backend="claude", notify=("desk",)), settings).notify == ("desk",)
    with pytest.raises(InvalidRequest, match="unknown notification target 'x'") as caught:
        complete(RunRequest(prompt="x", backend="claude", notify=("desk", "x")), settings)
    assert caught.value.field == "notify"


def test_command_line_changes_a_target() -> None:
    change = setting_change("notifications.targets.phone.ntfy", "https://ntfy.example/t", BACKENDS, ENVIRON)
    text = SettingsText("", Path("config.yaml"), BACKENDS, ENVIRON).with_setting(change)
    settings = SettingsText(text, Path("config.yaml"), BACKENDS, ENVIRON).settings()
    assert settings.notifications.targets["phone"].ntfy == "https://ntfy.example/t"
