"""API keys: how they are read from the environment and from gopass, and which requests carry one."""

from pathlib import Path

import pytest

from clinvk.api.access import keys
from clinvk.api.access.keys import ApiKeys
from clinvk.config.model import ClusterSettings, ServerSettings, Settings
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ConfigError

GOPASS = Settings(server=ServerSettings(api_keys_gopass_path="work/clinvk"))


async def read(environ: dict[str, str], settings: Settings | None = None) -> ApiKeys:
    return await keys.read_keys(settings or Settings(), environ, Spawner(process_tags.choose_tags()))


def gopass(folder: Path, script: str) -> dict[str, str]:
    """Install a gopass that runs this script."""
    program = folder / "gopass"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


async def test_no_key_is_required_if_none_is_configured() -> None:
    assert not await read({})


async def test_keys_are_comma_separated_and_stripped() -> None:
    api_keys = await read({"CLINVK_API_KEYS": " k1 ,k2,,\tk3 "})
    for key in ("k1", "k2", "k3"):
        assert api_keys.find({"x-api-key": key})
    assert not api_keys.find({"x-api-key": ""})


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (Settings(), ["env:1", "env:2"]),
        (Settings(cluster=ClusterSettings(url="nats://broker")), ["env:6ab9f1eb", "env:015f7e6b"]),
    ],
)
async def test_names_of_keys_in_a_cluster_do_not_depend_on_the_order(settings: Settings, names: list[str]) -> None:
    """On one machine they are numbers, by which usage is recorded."""
    api_keys = await read({"CLINVK_API_KEYS": "k1,k2"}, settings)
    found = [api_keys.by_text(text) for text in ("k1", "k2")]
    assert [key.name for key in found if key] == names
    others = await read({"CLINVK_API_KEYS": "k2,k1"}, settings)
    assert (others.by_text("k1") == api_keys.by_text("k1")) == bool(settings.cluster.url)


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
async def test_variable_without_keys_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="CLINVK_API_KEYS is set, but has no key in it"):
        await read({"CLINVK_API_KEYS": text})


@pytest.mark.parametrize("key", ["a b", "schlüssel", "a\x00b", "a\x7f"])
async def test_key_invalid_in_headers_is_an_error_without_the_key(key: str) -> None:
    with pytest.raises(ConfigError, match="key 2 has characters") as raised:
        await read({"CLINVK_API_KEYS": f"fine,{key}"})
    assert key not in raised.value.message


ADMITTED: list[tuple[dict[str, str], bool]] = [
    ({"authorization": "Bearer secret"}, True),
    ({"authorization": "bearer  secret "}, True),
    ({"x-api-key": "secret"}, True),
    ({"x-api-key": "other"}, True),
    ({"authorization": "Bearer wrong", "x-api-key": "secret"}, True),
    ({"authorization": "Bearer secret", "x-api-key": "wrong"}, True),
    ({}, False),
    ({"authorization": "secret"}, False),
    ({"authorization": "Basic secret"}, False),
    ({"authorization": "Bearer"}, False),
    ({"authorization": "Bearer "}, False),
    ({"authorization": "Bearer secre"}, False),
    ({"authorization": "Bearer secret,other"}, False),
    ({"x-api-key": "Secret"}, False),
    ({"x-api-key": "schl\xfcssel"}, False),
]


@pytest.mark.parametrize(("headers", "may"), ADMITTED)
def test_one_valid_key_in_either_header_is_enough(headers: dict[str, str], may: bool) -> None:
    assert bool(ApiKeys(["secret", "other"]).find(headers)) is may


async def test_gopass_is_called_with_the_configured_path(tmp_path: Path) -> None:
    env = gopass(tmp_path, f'echo "$*" >{tmp_path}/asked; echo k1,k2; echo k3')
    api_keys = await read(env, GOPASS)
    assert (tmp_path / "asked").read_text() == "show -o work/clinvk\n"
    assert all(api_keys.find({"x-api-key": key}) for key in ("k1", "k2", "k3"))


async def test_gopass_gets_the_environment_of_agents(tmp_path: Path) -> None:
    env = gopass(tmp_path, f"env >{tmp_path}/env; echo k1")
    await read({**env, "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/n", "GNUPGHOME": "/g"}, GOPASS)
    given = (tmp_path / "env").read_text()
    assert "GNUPGHOME=/g" in given
    assert "LISTEN_FDS" not in given
    assert "NOTIFY_SOCKET" not in given


async def test_variable_takes_precedence_over_gopass(tmp_path: Path) -> None:
    env = gopass(tmp_path, f"touch {tmp_path}/asked; echo k1")
    api_keys = await read({**env, "CLINVK_API_KEYS": "k9"}, GOPASS)
    assert api_keys.find({"x-api-key": "k9"})
    assert not api_keys.find({"x-api-key": "k1"})
    assert not (tmp_path / "asked").exists()


FAILURES = [
    ("echo no such entry >&2; exit 11", "gopass exited with 11: no such entry"),
    ("exit 1", "gopass exited with 1: it does not say why"),
    ("true", "has no key in it"),
    ("echo ' , '", "has no key in it"),
    ("echo 'two words'", "key 1 has characters"),
]


@pytest.mark.parametrize(("script", "words"), FAILURES)
async def test_gopass_failure_is_an_error(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        await read(gopass(tmp_path, script), GOPASS)
    assert "'work/clinvk' (server.api_keys_gopass_path)" in raised.value.message


async def test_missing_gopass_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot start 'gopass'"):
        await read({"PATH": str(tmp_path)}, GOPASS)


async def test_gopass_times_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gopass took over 0\.3 s"):
        await keys.read_keys(
            GOPASS, gopass(tmp_path, "exec sleep 60"), Spawner(process_tags.choose_tags()), gopass_timeout_s=0.3
        )
