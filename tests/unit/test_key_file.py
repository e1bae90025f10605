"""The file of API keys: what is kept, what is refused, and that no change gets lost."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from clinvk.api.access.key_file import FILE, KeyFile, Limits, digest_of
from clinvk.api.access.keys import Keys
from clinvk.types.errors import ConfigError, InvalidRequest

LIMITS = Limits(
    backends=("codex",), workdirs=("/srv",), rate_rps=0.5, burst=3, tokens_per_day=1000, cost_usd_per_day=2.5
)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home")


def names(file: KeyFile) -> list[str]:
    return [key.name for key in file.read() or ()]


def test_without_a_file_there_are_no_keys_which_is_not_the_same_as_an_empty_one(file: KeyFile) -> None:
    assert file.read() is None
    file.create("ana", Limits())
    file.revoke("ana")
    assert file.read() == ()


def test_a_key_is_kept_as_its_digest_alone_in_a_file_for_its_owner(file: KeyFile) -> None:
    key = file.create("ana", LIMITS)
    [kept] = file.read() or []
    assert (kept.name, kept.digest, kept.limits, kept.last_used) == ("ana", digest_of(key), LIMITS, None)
    assert key not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_keys_are_long_differ_and_fit_into_a_header(file: KeyFile) -> None:
    made = {file.create(f"k{number}", Limits()) for number in range(20)}
    assert len(made) == 20
    assert all(key.startswith("clinvk_") and len(key) == 50 and key.isascii() and "," not in key for key in made)


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "a:b", "a/b", "a\n", "x" * 65])
def test_a_name_that_would_be_hard_to_tell_is_refused(file: KeyFile, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be the name of a key: have 1 to 64 of a-z"):
        file.create(name, Limits())
    assert not file.path.exists()


def test_a_name_that_is_taken_is_refused_and_its_key_stays(file: KeyFile) -> None:
    file.create("ana", LIMITS)
    before = file.read()
    with pytest.raises(InvalidRequest, match="there is a key 'ana' already"):
        file.create("ana", Limits())
    assert file.read() == before


def test_a_key_that_is_not_there_cannot_be_revoked(file: KeyFile) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        file.revoke("ana")
    file.create("ben", Limits())
    with pytest.raises(InvalidRequest, match="no key 'ana'; have ben"):
        file.revoke("ana")


def test_changes_at_the_same_time_lose_none(file: KeyFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(file.create, [f"k{number}" for number in range(24)], [Limits()] * 24))
    assert sorted(names(file)) == sorted(f"k{number}" for number in range(24))


def test_the_latest_use_is_kept_whoever_tells_it_first_and_a_revoked_key_does_not_come_back(file: KeyFile) -> None:
    for name in ("ana", "ben", "eve"):
        file.create(name, Limits())
    file.revoke("eve")
    file.note({"ana": 20.0, "eve": 20.0})
    file.note({"ana": 10.0, "ben": 5.0})
    assert {key.name: key.last_used for key in file.read() or ()} == {"ana": 20.0, "ben": 5.0}


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
    ('{"keys": [{"name": "env:1", "digest": "DIGEST"}]}', "cannot be the name of a key"),
    ('{"keys": [{"name": "a", "digest": "DIGEST"}, {"name": "a", "digest": "DIGEST"}]}', "the same name"),
]


@pytest.mark.parametrize(("text", "words"), DAMAGED)
def test_what_is_no_file_of_keys_is_refused_and_left_as_it_is(file: KeyFile, text: str, words: str) -> None:
    text = text.replace("DIGEST", digest_of("k"))
    file.path.parent.mkdir()
    file.path.write_text(text)
    file.path.chmod(0o600)
    for attempt in (file.read, lambda: file.create("b", Limits()), lambda: file.note({"a": 1.0})):
        with pytest.raises(ConfigError, match=words):
            attempt()
    assert file.path.read_text() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_others_could_have_written_is_refused(file: KeyFile) -> None:
    file.create("ana", Limits())
    os.chown(file.path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        file.read()


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602, 0o640, 0o604])
def test_a_file_that_others_may_write_or_read_is_refused(file: KeyFile, mode: int) -> None:
    file.create("ana", Limits())
    file.path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read or write it; chmod 600 it"):
        file.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o644, 0o664, 0o646])
def test_what_root_has_put_there_may_be_read_by_others_but_not_written(mode: int) -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = KeyFile(Path(folder))
        file.create("ana", Limits())
        file.path.chmod(mode)
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match="others may write it") if mode & 0o022 else nullcontext():
                assert names(file) == ["ana"]
        finally:
            os.seteuid(0)


def test_a_file_that_is_gone_is_not_made_anew_to_keep_when_its_keys_were_used(file: KeyFile) -> None:
    file.create("ana", Limits())
    file.path.unlink()
    file.note({"ana": 20.0})
    assert not file.path.exists()


def test_a_file_that_cannot_be_read_is_refused(file: KeyFile) -> None:
    file.path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"the API keys cannot be read: Is a directory"):
        file.read()


def test_a_link_that_leads_nowhere_is_no_missing_file(file: KeyFile) -> None:
    file.path.parent.mkdir()
    file.path.symlink_to(file.path.parent / "not" / "mounted")
    for attempt in (file.read, lambda: file.create("b", Limits()), lambda: file.revoke("b")):
        with pytest.raises(ConfigError, match="the API keys cannot be read: the link leads to nothing"):
            attempt()


def test_a_pipe_is_not_waited_for(file: KeyFile) -> None:
    file.path.parent.mkdir()
    os.mkfifo(file.path, 0o600)
    with pytest.raises(ConfigError, match="the API keys cannot be read: it is no regular file"):
        file.read()


def test_the_keys_of_the_file_and_those_that_stay_are_all_taken(file: KeyFile) -> None:
    filed = file.create("ana", Limits())
    keys = Keys(["k1"], file.read())
    assert [key.name if (key := keys.find({"x-api-key": text})) else None for text in ("k1", filed, "k2")] == [
        "key:1",
        "ana",
        None,
    ]
    assert list(keys.used) == ["ana"]


def test_a_door_that_was_locked_stays_so_when_the_last_key_and_the_file_are_gone(file: KeyFile) -> None:
    text = file.create("ana", Limits())
    keys = Keys((), file.read())
    keys.take_filed(())
    assert keys
    assert not keys.find({"x-api-key": text})
    keys.take_filed(None)
    assert keys
    assert not keys.find({"x-api-key": text})


def test_a_door_that_stood_open_is_locked_by_the_first_keys_of_a_reload(file: KeyFile) -> None:
    keys = Keys()
    keys.take(Keys(["k1"]))
    assert keys
    assert keys.find({"x-api-key": "k1"})


def test_a_reload_does_not_bring_back_a_key_that_was_revoked_while_it_was_read(file: KeyFile) -> None:
    text = file.create("ana", Limits())
    keys, reloaded = Keys(["k1"], file.read()), Keys(["k2"], file.read())
    file.revoke("ana")
    keys.take_filed(file.read())
    keys.take(reloaded)
    assert not keys.find({"x-api-key": text})
    assert not keys.find({"x-api-key": "k1"})
    assert keys.find({"x-api-key": "k2"})


def test_a_digest_that_begins_like_another_is_another(tmp_path: Path) -> None:
    """A key is looked up by the beginning of its digest."""
    file = KeyFile(tmp_path)
    text = file.create("ana", Limits())
    content = json.loads((tmp_path / FILE).read_text())
    digest: str = content["keys"][0]["digest"]
    content["keys"][0]["digest"] = digest[:16] + "".join("0" if digit != "0" else "1" for digit in digest[16:])
    (tmp_path / FILE).write_text(json.dumps(content))
    assert not Keys((), file.read()).find({"x-api-key": text})
