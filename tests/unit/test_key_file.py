"""The file of API keys: stored keys, refused files, and concurrent changes."""

import asyncio
import json
import os
import stat
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from clinvk.api.access.key_file import FILE, KeyFile, KeyLimits, digest_of
from clinvk.api.access.keys import ApiKeys
from clinvk.types.errors import ConfigError, InvalidRequest

LIMITS = KeyLimits(
    backends=("codex",), workdirs=("/srv",), rate_rps=0.5, burst=3, tokens_per_day=1000, cost_usd_per_day=2.5
)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home")


async def names(file: KeyFile) -> list[str]:
    return [key.name for key in await file.read() or ()]


async def test_missing_file_differs_from_an_empty_file(file: KeyFile) -> None:
    assert await file.read() is None
    await file.create("ana", KeyLimits())
    await file.revoke("ana")
    assert await file.read() == ()
    for _ in range(2):
        await file.remove()
        assert await file.read() is None


async def test_file_is_private_and_stores_only_the_digest(file: KeyFile) -> None:
    key = await file.create("ana", LIMITS)
    [kept] = await file.read() or []
    assert (kept.name, kept.digest, kept.limits, kept.last_used) == ("ana", digest_of(key), LIMITS, None)
    assert key not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


async def test_keys_are_long_unique_and_valid_in_headers(file: KeyFile) -> None:
    made = {await file.create(f"k{number}", KeyLimits()) for number in range(20)}
    assert len(made) == 20
    assert all(key.startswith("clinvk_") and len(key) == 50 and key.isascii() and "," not in key for key in made)


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "a:b", "a/b", "a\n", "x" * 65])
async def test_invalid_key_names_are_refused(file: KeyFile, name: str) -> None:
    with pytest.raises(InvalidRequest, match="use 1 to 64 letters"):
        await file.create(name, KeyLimits())
    assert not file.path.exists()


async def test_duplicate_key_name_is_refused_and_keeps_the_key(file: KeyFile) -> None:
    await file.create("ana", LIMITS)
    before = await file.read()
    with pytest.raises(InvalidRequest, match="key 'ana' exists already"):
        await file.create("ana", KeyLimits())
    assert await file.read() == before


async def test_unknown_key_cannot_be_revoked(file: KeyFile) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        await file.revoke("ana")
    await file.create("ben", KeyLimits())
    with pytest.raises(InvalidRequest, match=r"unknown key 'ana' \(available: ben\)"):
        await file.revoke("ana")


async def test_concurrent_changes_are_all_kept(file: KeyFile) -> None:
    await asyncio.gather(*(file.create(f"k{number}", KeyLimits()) for number in range(24)))
    assert sorted(await names(file)) == sorted(f"k{number}" for number in range(24))


async def test_latest_use_is_kept_and_revoked_keys_stay_revoked(file: KeyFile) -> None:
    for name in ("ana", "ben", "eve"):
        await file.create(name, KeyLimits())
    await file.revoke("eve")
    await file.store_usage({"ana": 20.0, "eve": 20.0})
    await file.store_usage({"ana": 10.0, "ben": 5.0})
    assert {key.name: key.last_used for key in await file.read() or ()} == {"ana": 20.0, "ben": 5.0}


DAMAGED = [
    ("", "is no file of API keys"),
    ("[]", "is no file of API keys"),
    ('{"keys": [{"name": "a", "digest": "00"}]}', "is no file of API keys"),
    ('{"keys": [{"name": "a", "digest": "DIGEST", "limit": {}}]}', "is no file of API keys"),
    ('{"keys": [{"name": "a", "digest": "DIGEST", "limits": {"backend": ["x"]}}]}', "is no file of API keys"),
    ('{"keys": [{"name": "a", "digest": "DIGEST", "limits": {"rate_rps": 0}}]}', "is no file of API keys"),
    ('{"keys": [{"name": "a", "digest": "DIGEST", "limits": {"rate_rps": 1e-7}}]}', r"`float` >= 0.0001.*rate_rps"),
    ('{"keys": [{"name": "a", "digest": "DIGEST", "limits": {"rate_rps": 1e300}}]}', r"`float` <= 1000000.0.*rate_rps"),
    ('{"keys": [{"name": "a", "digest": "DIGEST", "limits": {"burst": 1000001}}]}', r"`int` <= 1000000.*burst"),
    ('{"keys": [{"name": "env:1", "digest": "DIGEST"}]}', "invalid key name"),
    ('{"keys": [{"name": "a", "digest": "DIGEST"}, {"name": "a", "digest": "DIGEST"}]}', "the same name"),
]


@pytest.mark.parametrize(("text", "words"), DAMAGED)
async def test_invalid_key_file_is_refused_and_left_unchanged(file: KeyFile, text: str, words: str) -> None:
    text = text.replace("DIGEST", digest_of("k"))
    file.path.parent.mkdir()
    file.path.write_text(text)
    file.path.chmod(0o600)
    for attempt in (file.read, lambda: file.create("b", KeyLimits()), lambda: file.store_usage({"a": 1.0})):
        with pytest.raises(ConfigError, match=words):
            await attempt()
    assert file.path.read_text() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_key_file_of_another_owner_is_refused(file: KeyFile) -> None:
    await file.create("ana", KeyLimits())
    os.chown(file.path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        await file.read()


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602, 0o640, 0o604])
async def test_key_file_accessible_to_others_is_refused(file: KeyFile, mode: int) -> None:
    await file.create("ana", KeyLimits())
    file.path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read or write it; chmod 600 it"):
        await file.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o644, 0o664, 0o646])
async def test_root_owned_key_file_may_be_readable_but_not_writable_by_others(mode: int) -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = KeyFile(Path(folder))
        await file.create("ana", KeyLimits())
        file.path.chmod(mode)
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match="others may write it") if mode & 0o022 else nullcontext():
                assert await names(file) == ["ana"]
        finally:
            os.seteuid(0)


async def test_noting_key_use_does_not_recreate_a_deleted_file(file: KeyFile) -> None:
    await file.create("ana", KeyLimits())
    file.path.unlink()
    await file.store_usage({"ana": 20.0})
    assert not file.path.exists()


async def test_unreadable_key_file_is_an_error(file: KeyFile) -> None:
    file.path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"the API keys cannot be read: Is a directory"):
        await file.read()


async def test_broken_symlink_is_not_a_missing_file(file: KeyFile) -> None:
    file.path.parent.mkdir()
    file.path.symlink_to(file.path.parent / "not" / "mounted")
    for attempt in (file.read, lambda: file.create("b", KeyLimits()), lambda: file.revoke("b")):
        with pytest.raises(ConfigError, match="the API keys cannot be read: the link leads to nothing"):
            await attempt()


async def test_named_pipe_is_refused_without_blocking(file: KeyFile) -> None:
    file.path.parent.mkdir()
    os.mkfifo(file.path, 0o600)
    with pytest.raises(ConfigError, match="the API keys cannot be read: it is not a regular file"):
        await file.read()


async def test_file_keys_and_static_keys_are_both_accepted(file: KeyFile) -> None:
    filed = await file.create("ana", KeyLimits())
    keys = ApiKeys(["k1"], await file.read())
    assert [key.name if (key := keys.find({"x-api-key": text})) else None for text in ("k1", filed, "k2")] == [
        "key:1",
        "ana",
        None,
    ]
    assert list(keys.used) == ["ana"]


async def test_authentication_stays_required_after_the_last_key_is_removed(file: KeyFile) -> None:
    text = await file.create("ana", KeyLimits())
    keys = ApiKeys((), await file.read())
    keys.replace_file_keys(())
    assert keys
    assert not keys.find({"x-api-key": text})
    keys.replace_file_keys(None)
    assert keys
    assert not keys.find({"x-api-key": text})


def test_reload_with_first_keys_requires_authentication(file: KeyFile) -> None:
    keys = ApiKeys()
    keys.replace_permanent(ApiKeys(["k1"]))
    assert keys
    assert keys.find({"x-api-key": "k1"})


async def test_reload_does_not_restore_a_key_revoked_meanwhile(file: KeyFile) -> None:
    text = await file.create("ana", KeyLimits())
    keys, reloaded = ApiKeys(["k1"], await file.read()), ApiKeys(["k2"], await file.read())
    await file.revoke("ana")
    keys.replace_file_keys(await file.read())
    keys.replace_permanent(reloaded)
    assert not keys.find({"x-api-key": text})
    assert not keys.find({"x-api-key": "k1"})
    assert keys.find({"x-api-key": "k2"})


async def test_key_with_the_same_digest_prefix_is_refused(tmp_path: Path) -> None:
    """Keys are looked up by a prefix of the digest; the rest is compared too."""
    file = KeyFile(tmp_path)
    text = await file.create("ana", KeyLimits())
    content = json.loads((tmp_path / FILE).read_text())
    digest: str = content["keys"][0]["digest"]
    content["keys"][0]["digest"] = digest[:16] + "".join("0" if digit != "0" else "1" for digit in digest[16:])
    (tmp_path / FILE).write_text(json.dumps(content))
    assert not ApiKeys((), await file.read()).find({"x-api-key": text})
