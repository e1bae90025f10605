"""The logins of browsers: how long they last, and with what they end."""

from collections.abc import Sequence

import pytest
from starlette.types import Scope

from clinvk.api.access import auth as logins
from clinvk.api.access.auth import LOGIN_S, TOKEN_S, Logins
from clinvk.api.access.key_file import ApiKey, digest_of
from clinvk.api.access.keys import ApiKeys

ANA = ApiKey(name="ana", digest=digest_of("secret"))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def request(cookie: str, path: str = "/api/v1/runs", port: int = 8080) -> Scope:
    headers = [(b"cookie", f"theme=dark; clinvk-login-8080={cookie}".encode())]
    return {"type": "http", "path": path, "server": ("127.0.0.1", port), "headers": headers}


def key_named(found: logins.Login | None) -> str | None:
    return found.key.name if found and found.key else None


def test_login_counts_as_its_key_for_the_rest_api_of_its_port_only() -> None:
    table = Logins(ApiKeys([ANA]))
    cookie = table.log_in(ANA)
    assert key_named(table.find(request(cookie))) == "ana"
    for path in ("/v1/models", "/openai/v1/models", "/metrics", "/api/v1", "/"):
        assert table.find(request(cookie, path)) is None
    assert table.find(request(cookie, port=8081)) is None
    assert table.find(request(cookie[:-1])) is None
    assert table.find(request("")) is None


def test_login_ends_twelve_hours_after_its_last_request() -> None:
    clock = Clock()
    table = Logins(ApiKeys([ANA]), clock)
    cookie = table.log_in(ANA)
    for _ in range(3):
        clock.now_s += LOGIN_S - 1
        assert table.find(request(cookie))
    clock.now_s += LOGIN_S
    assert table.find(request(cookie)) is None
    clock.now_s -= 1
    assert table.find(request(cookie)) is None


REPLACEMENTS: dict[str, Sequence[ApiKey] | None] = {
    "revoked": (),
    "file removed": None,
    "key of the same name": [ApiKey(name="ana", digest=digest_of("another"))],
    "expired": [ApiKey(name="ana", digest=ANA.digest, expires_at=1.0)],
}


@pytest.mark.parametrize("file_keys", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_login_ends_with_its_key(file_keys: Sequence[ApiKey] | None) -> None:
    keys = ApiKeys(file_keys=[ANA])
    table = Logins(keys)
    cookie = table.log_in(ANA)
    assert table.find(request(cookie))
    keys.replace_file_keys(file_keys)
    assert table.find(request(cookie)) is None
    keys.replace_file_keys([ANA])
    assert table.find(request(cookie)) is None


def test_login_uses_its_key() -> None:
    keys = ApiKeys(file_keys=[ANA])
    table = Logins(keys)
    cookie = table.log_in(ANA)
    assert not keys.used
    table.find(request(cookie))
    assert keys.used.keys() == {"ana"}


def test_token_logs_in_once_within_a_minute() -> None:
    clock = Clock()
    table = Logins(ApiKeys([ANA]), clock)
    token, late = table.create_token(), table.create_token()
    cookie = table.redeem(token)
    assert cookie
    assert table.find(request(cookie)) == logins.Login(None, has_cookie=True)
    assert table.redeem(token) is None
    assert table.redeem(cookie) is None
    clock.now_s += TOKEN_S
    assert table.redeem(late) is None


def test_token_is_no_cookie() -> None:
    table = Logins(ApiKeys([ANA]))
    assert table.find(request(table.create_token())) is None


def test_logout_ends_only_its_own_login() -> None:
    table = Logins(ApiKeys([ANA]))
    one, other = table.log_in(ANA), table.log_in(ANA)
    table.log_out(request(one))
    assert table.find(request(one)) is None
    assert table.find(request(other))


def test_logins_by_one_key_end_no_login_by_another() -> None:
    ben = ApiKey(name="ben", digest=digest_of("other"))
    table = Logins(ApiKeys([ANA, ben]))
    first, link = table.log_in(ben), table.redeem(table.create_token())
    assert link
    cookies = [table.log_in(ANA) for _ in range(1000)]
    assert table.find(request(first))
    assert table.find(request(link))
    assert [bool(table.find(request(cookie))) for cookie in cookies] == [False] * 980 + [True] * 20


def test_number_of_logins_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The login without a request for the longest time is dropped."""
    monkeypatch.setattr(logins, "_MAX_SECRETS", 3)
    table = Logins(ApiKeys([ANA]))
    cookies = [table.log_in(ANA) for _ in range(3)]
    assert table.find(request(cookies[0]))
    table.log_in(ANA)
    assert [bool(table.find(request(cookie))) for cookie in cookies] == [True, False, True]
