"""Token buckets, and whose bucket a request is taken from."""

import pytest

from clinvk.api.access.clients import RateLimits, TokenBuckets
from clinvk.api.access.key_file import ApiKey, KeyLimits
from clinvk.config.model import ServerSettings
from clinvk.types.errors import RateLimited

ON = ServerSettings(rate_limit_enabled=True, rate_limit_rps=2, rate_limit_burst=3)


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def passes(limits: RateLimits, address: str = "192.0.2.1", key: ApiKey | None = None) -> bool:
    try:
        limits.take(address, key)
    except RateLimited:
        return False
    return True


def key(name: str = "ana", **limits: object) -> ApiKey:
    return ApiKey(name=name, digest="0" * 64, limits=KeyLimits(**limits))  # pyright: ignore[reportArgumentType]


def test_requests_pass_up_to_the_burst_then_at_the_rate(clock: Clock) -> None:
    buckets = TokenBuckets(180, clock)
    assert [buckets.take("a", 2, 3) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", 2, 3) == pytest.approx(0.5)
    clock.now += 0.5
    assert buckets.take("a", 2, 3) == 0
    assert buckets.take("a", 2, 3) == pytest.approx(0.5)


def test_busy_client_gets_the_rate_plus_one_burst_in_an_hour(clock: Clock) -> None:
    buckets = TokenBuckets(180, clock)
    passed = 0
    for _ in range(36_000):
        passed += not buckets.take("a", 2, 3)
        clock.now += 0.1
    assert 7200 <= passed <= 7203


def test_refused_requests_take_no_tokens(clock: Clock) -> None:
    buckets = TokenBuckets(180, clock)
    for _ in range(1000):
        buckets.take("a", 2, 3)
    clock.now += 0.5
    assert buckets.take("a", 2, 3) == 0


def test_only_idle_clients_are_evicted(clock: Clock) -> None:
    buckets = TokenBuckets(180, clock)
    for number in range(1000):
        buckets.take(f"c{number}", 10, 20)
    clock.now += 181
    assert [buckets.take("busy", 0.001, 1) for _ in range(1)] == [0]
    assert len(buckets) == 1
    clock.now += 181
    assert buckets.take("other", 10, 20) == 0
    assert buckets.take("busy", 0.001, 1) > 0


def test_eviction_keeps_clients_with_the_longest_wait(clock: Clock) -> None:
    buckets = TokenBuckets(180, clock)
    for _ in range(3):
        buckets.take("busy", 0.001, 3)
    for number in range(100_001):
        buckets.take(f"c{number}", 0.001, 3)
    assert len(buckets) < 60_000
    assert buckets.take("busy", 0.001, 3) > 0


def test_address_buckets_never_evict_key_buckets(clock: Clock) -> None:
    limits = RateLimits(ServerSettings(rate_limit_enabled=True, rate_limit_rps=1, rate_limit_burst=1), clock)
    assert passes(limits, key=key(rate_rps=0.001, burst=1))
    for number in range(100_002):
        passes(limits, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert not passes(limits, key=key(rate_rps=0.001, burst=1))


def test_disabled_limits_refuse_nothing(clock: Clock) -> None:
    assert all(passes(RateLimits(ServerSettings(), clock)) for _ in range(100))


def test_each_ipv4_address_and_ipv6_network_has_a_bucket(clock: Clock) -> None:
    limits = RateLimits(ON, clock)
    assert [passes(limits) for _ in range(4)] == [True, True, True, False]
    assert passes(limits, "192.0.2.2")
    assert [passes(limits, f"2001:db8::{n}") for n in range(4)] == [True, True, True, False]
    assert passes(limits, "2001:db8:0:1::1")
    assert not passes(limits, "::ffff:192.0.2.1")


def test_each_key_has_one_bucket_for_all_addresses(clock: Clock) -> None:
    limits = RateLimits(ON, clock)
    assert [passes(limits, f"192.0.2.{n}", key()) for n in range(4)] == [True, True, True, False]
    assert passes(limits, "192.0.2.9", key("ben"))


def test_failed_keys_use_the_bucket_of_their_address(clock: Clock) -> None:
    limits = RateLimits(ON, clock)
    assert [passes(limits) for _ in range(4)][-1] is False
    assert not passes(limits, key=key())


def test_key_rate_replaces_the_configured_rate(clock: Clock) -> None:
    for settings in (ServerSettings(), ON):
        limits = RateLimits(settings, clock)
        own = key(rate_rps=0.5, burst=5)
        assert [passes(limits, key=own) for _ in range(6)] == [True] * 5 + [False]
        clock.now += 2
        assert passes(limits, key=own)


def test_default_burst_is_one_second_of_the_rate(clock: Clock) -> None:
    for rate, burst in ((0.1, 1), (2.5, 3)):
        limits = RateLimits(ServerSettings(), clock)
        assert [passes(limits, key=key(rate_rps=rate)) for _ in range(burst + 1)] == [True] * burst + [False]


def test_refusal_reports_the_wait_and_the_limit(clock: Clock) -> None:
    limits = RateLimits(ON, clock)
    for _ in range(3):
        limits.take("192.0.2.1", None)
    with pytest.raises(
        RateLimited, match=r"from this address \(server\.rate_limit_rps\): 2 a second, 3 at once"
    ) as raised:
        limits.take("192.0.2.1", None)
    assert raised.value.retry_after_s == pytest.approx(0.5)
    own = key(rate_rps=0.5, burst=1)
    limits.take("192.0.2.1", own)
    with pytest.raises(RateLimited, match=r"of this API key: 0\.5 a second, 1 at once"):
        limits.take("192.0.2.1", own)


def test_renewed_settings_take_effect(clock: Clock) -> None:
    limits = RateLimits(ON, clock)
    limits.reset(ServerSettings(rate_limit_enabled=True, rate_limit_rps=1, rate_limit_burst=1))
    assert [passes(limits) for _ in range(2)] == [True, False]
    limits.reset(ServerSettings())
    assert passes(limits)
