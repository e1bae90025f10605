"""The judge in the JSON of a comparison."""

import json

from acceptance.command import Clinvk
from scripted.steps import claude_says


def test_judge_result_has_run_id_and_cost(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("the answer"), when="ask")
    clinvk.agent.play(claude_says('{"best": "A", "reasons": "so"}'), when="Judge the answers")
    done = clinvk.run("compare", "--backends", "claude,claude", "--judge", "claude", "--json", "ask")
    told = json.loads(done.stdout)
    part, judge = told["results"][0], told["judge"]
    assert (judge["usage"], judge["cost_usd"]) == (part["usage"], part["cost_usd"])
    assert judge["run_id"] not in ("", told["run_id"], *(result["run_id"] for result in told["results"]))
