"""The limits of accounts that Claude Code and Codex report."""

import msgspec
import pytest

from clinvk.backends.base import Channel, Host, Launch
from clinvk.backends.claude import Claude
from clinvk.backends.codex import Codex
from clinvk.types.record import LimitWindow
from clinvk.types.request import RunRequest

HOST = Host(env={"HOME": "/h"})


def codex() -> Channel:
    launch = Codex().launch(RunRequest(prompt="x", backend="codex", workdir="/p"), None, HOST)
    return Codex().channel(launch, HOST)


def reported(channel: Channel, message: object) -> list[LimitWindow]:
    channel.start("run", RunRequest(prompt="x"), None)
    deliveries = [*channel.receive(msgspec.json.encode(message))]
    found = [delivery[1] for delivery in deliveries if not isinstance(delivery, bytes)]
    assert all(isinstance(report, LimitWindow) for report in found)
    return [report for report in found if isinstance(report, LimitWindow)]


def of_claude(**info: object) -> list[LimitWindow]:
    channel = Claude().channel(Launch(argv=("claude",)), HOST)
    return reported(channel, {"type": "rate_limit_event", "rate_limit_info": info, "session_id": "s", "uuid": "u"})


def of_codex(**limits: object) -> list[LimitWindow]:
    return reported(codex(), {"method": "account/rateLimits/updated", "params": {"rateLimits": limits}})


def test_claude_reports_all_windows() -> None:
    windows = {
        "five_hour": {"utilization": 0.824, "resetsAt": 1795984182, "status": "allowed_warning"},
        "seven_day": {"utilization": 0.31, "resetsAt": 1796384182, "status": "allowed", "surpassedThreshold": 0.25},
    }
    reported_limits = of_claude(
        status="allowed_warning",
        resetsAt=1795984182,
        rateLimitType="five_hour",
        utilization=0.82,
        unifiedWindows=windows,
    )
    assert reported_limits == [
        LimitWindow(backend="claude", window="5h", used_percent=82.4, status="warning", resets_at=1795984182),
        LimitWindow(backend="claude", window="7d", used_percent=31, status="allowed", resets_at=1796384182),
    ]


def test_older_claude_reports_the_window_that_applies() -> None:
    assert of_claude(status="rejected", resetsAt=1795984182, rateLimitType="seven_day_opus") == [
        LimitWindow(backend="claude", window="7d_opus", used_percent=None, status="rejected", resets_at=1795984182)
    ]


@pytest.mark.parametrize(
    "info",
    [
        {"status": "allowed"},
        {"status": "allowed", "rateLimitType": "five_hour"},
        {"status": "allowed", "resetsAt": 1795984182},
        {"status": "allowed", "rateLimitType": "five_hour", "resetsAt": 1795984182000},
        {"status": 1, "rateLimitType": 2, "resetsAt": "soon"},
    ],
)
def test_claude_limit_without_a_type_or_a_valid_end_is_ignored(info: dict[str, object]) -> None:
    assert of_claude(**info) == []


def test_codex_reports_both_windows() -> None:
    reported_limits = of_codex(
        limitId="codex",
        primary={"usedPercent": 42, "windowDurationMins": 300, "resetsAt": 1795984182},
        secondary={"usedPercent": 100, "windowDurationMins": 10080, "resetsAt": 1796384182},
    )
    assert reported_limits == [
        LimitWindow(backend="codex", window="5h", used_percent=42, status="allowed", resets_at=1795984182),
        LimitWindow(backend="codex", window="7d", used_percent=100, status="rejected", resets_at=1796384182),
    ]


def test_codex_limit_beyond_which_credits_are_used_is_a_warning() -> None:
    primary = {"usedPercent": 100, "windowDurationMins": 300, "resetsAt": 1795984182}
    (limit,) = of_codex(primary=primary, credits={"hasCredits": True, "unlimited": False, "balance": "9.99"})
    assert limit.status == "warning"


def test_codex_limit_of_a_model_names_the_limit() -> None:
    (limit,) = of_codex(
        limitId="gpt_x", primary={"usedPercent": 1, "windowDurationMins": 45, "resetsAt": 1795984182}, secondary=None
    )
    assert limit.window == "45m_gpt_x"


@pytest.mark.parametrize(
    "primary",
    [None, {"usedPercent": 1}, {"usedPercent": 1, "windowDurationMins": 300, "resetsAt": None}, {"usedPercent": "x"}],
)
def test_codex_window_without_length_or_end_is_ignored(primary: object) -> None:
    assert of_codex(limitId="codex", primary=primary) == []


def test_codex_limits_without_a_run_are_ignored() -> None:
    channel = codex()
    limits = {"primary": {"usedPercent": 1, "windowDurationMins": 300, "resetsAt": 1795984182}}
    message = {"method": "account/rateLimits/updated", "params": {"rateLimits": limits}}
    assert [*channel.receive(msgspec.json.encode(message))] == []
