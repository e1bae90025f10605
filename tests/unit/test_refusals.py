"""Which agents' accounts refused their last runs."""

from clinvk.runtime.run.candidates import Refusals
from clinvk.types.events import RunFailed, RunFinished
from clinvk.types.request import FailedAgent, RunRequest


def test_refusal_counts_for_ten_minutes_or_until_a_run_succeeds() -> None:
    now = 1000.0
    refusals = Refusals(lambda: now)
    first, second = (RunRequest(prompt="hi", backend=name) for name in ("first", "second"))
    refusals.note(first, RunFailed("agent_unauthenticated", "no"))
    refusals.note(second, RunFailed("agent_crashed", "no"))
    assert refusals.codes() == {"first": "agent_unauthenticated"}
    refusals.note(first, RunFailed("agent_crashed", "no"))
    refusals.note(first, None)
    assert refusals.codes() == {"first": "agent_unauthenticated"}
    refusals.note(first, RunFinished())
    assert refusals.codes() == {}
    refusals.note(
        RunRequest(prompt="hi", backend="second", fell_back=(FailedAgent("first", "no", "agent_rate_limited"),)),
        RunFinished(),
    )
    assert refusals.codes() == {"first": "agent_rate_limited"}
    both = RunRequest(prompt="hi", backend="second", fell_back=(FailedAgent("first", "no", "agent_unpaid"),))
    refusals.note(both, RunFailed("agent_unpaid", "first: no; second: no"))
    assert refusals.codes() == {"first": "agent_unpaid"}
    now += 601
    assert refusals.codes() == {}
