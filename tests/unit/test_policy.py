"""Which directories an agent is let into."""

import pytest

from clinvk.policy import Directories

CASES = [
    ((), (), "/anywhere", True),
    (("/srv",), (), "/srv", True),
    (("/srv",), (), "/srv/a/b", True),
    (("/srv",), (), "/srvx", False),
    (("/srv",), (), "/", False),
    (("/srv",), (), "/home", False),
    (("/srv", "/home"), (), "/home/a", True),
    (("/",), (), "/srv", True),
    ((), ("/etc",), "/etc", False),
    ((), ("/etc",), "/etc/ssl", False),
    ((), ("/etc",), "/etcetera", True),
    ((), ("/",), "/srv", False),
    (("/srv",), ("/srv/secret",), "/srv/secret/a", False),
    (("/srv",), ("/srv/secret",), "/srv/secrets", True),
    (("/srv/a",), ("/srv",), "/srv/a", False),
]


@pytest.mark.parametrize(("allowed", "blocked", "path", "may"), CASES)
def test_a_directory_must_be_in_an_allowed_one_and_in_no_blocked_one(
    allowed: tuple[str, ...], blocked: tuple[str, ...], path: str, may: bool
) -> None:
    assert (Directories(allowed, blocked).refusal(path) is None) is may


def test_a_refusal_names_the_setting_and_what_is_allowed() -> None:
    lists = Directories(("/srv", "/opt"), ("/srv/x",))
    assert lists.refusal("/home") == "is in none of '/srv', '/opt' (server.allowed_workdir_prefixes)"
    assert lists.refusal("/srv/x/y") == "is in '/srv/x', which server.blocked_workdir_prefixes forbids"


def test_without_lists_there_is_nothing_to_hold_a_path_against() -> None:
    assert not Directories()
    assert Directories(allowed=("/",))
    assert Directories(blocked=("/etc",))
