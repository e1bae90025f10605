"""Metrics have few labels, and the documentation and the dashboard name each metric."""

import json
import re
from pathlib import Path

import pytest

from clinvk.api.observe.metrics import Gauges, Metrics
from clinvk.runtime.occupancy import Occupancy
from clinvk.runtime.pool.pool import PoolStats, WarmStats
from clinvk.types.events import RunFinished, Usage
from clinvk.types.interaction import Interaction

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = (REPOSITORY / "packaging" / "grafana-dashboard.json").read_text()
PAGE = (REPOSITORY / "docs" / "watching.md").read_text()
GAUGES = Gauges(
    requests=2,
    occupancy=Occupancy({"claude": 1, "codex": 0}, {"claude": 3, "codex": 0}, slots=16, queue_slots=100),
    parked_runs=4,
    waiting_runs=3,
    sessions=7,
    store_bytes=4096,
    warm=WarmStats(
        processes=2,
        ready=1,
        runs=1,
        hits=9,
        misses=3,
        memory_bytes=400_000_000,
        backends={
            "claude": PoolStats(processes=2, ready=1, runs=1, hits=9, misses=3, memory_bytes=400_000_000),
            "codex": PoolStats(processes=0, ready=0, runs=0, hits=0, misses=0, memory_bytes=0),
        },
        one_shot=("codex",),
        slots=4,
        memory_limit_bytes=2**31,
    ),
    notifications={("phone", "sent"): 3, ("phone", "dropped"): 1},
)
NAME = re.compile(r"\b((?:clinvk|process)_[a-z_]+)")


def everything() -> Metrics:
    metrics = Metrics()
    metrics.count_request("POST", "/api/v1/prompt", 200, 0.3)
    metrics.count_run("claude", RunFinished(usage=Usage(100, 30, 40, 10), cost_usd=0.5))
    metrics.time_run("claude", 0.02, 0.7, 3.0)
    metrics.time_commit(0.002)
    metrics.count_interaction(Interaction(id="q", backend="claude", status="expired"))
    return metrics


def samples(metrics: Metrics, gauges: Gauges = GAUGES) -> dict[str, float]:
    """Return the value of each line, by name and labels."""
    lines = metrics.generate(gauges).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_run_without_text_has_no_time_to_first_token() -> None:
    metrics = Metrics()
    metrics.time_run("codex", 1.5, None, 3)
    values = samples(metrics)
    assert 'clinvk_time_to_first_token_seconds_count{backend="codex"}' not in values
    assert values['clinvk_run_queue_seconds_sum{backend="codex"}'] == 1.5
    assert values['clinvk_run_duration_seconds_sum{backend="codex"}'] == 3


@pytest.mark.parametrize(("method", "label"), [("GET", "GET"), ("BREW", "other"), ('"} 1\nx', "other")])
def test_client_cannot_create_label_values(method: str, label: str) -> None:
    metrics = Metrics()
    metrics.count_request(method, "none", None, 0.1)
    assert samples(metrics)[f'clinvk_http_requests_total{{method="{label}",route="none",status="gone"}}'] == 1


def test_gauges_report_the_current_state() -> None:
    metrics = everything()
    before = samples(metrics)
    assert before['clinvk_runs_queued{backend="claude"}'] == 3
    assert (before["clinvk_store_up"], before["clinvk_store_sessions"], before["clinvk_store_bytes"]) == (1, 7, 4096)
    after = samples(
        metrics,
        Gauges(
            requests=0,
            occupancy=Occupancy({}, {"claude": 0}, 1, 1),
            parked_runs=0,
            waiting_runs=0,
            sessions=None,
            store_bytes=0,
            warm=None,
        ),
    )
    assert after['clinvk_runs_queued{backend="claude"}'] == 0
    assert (after["clinvk_slots"], after["clinvk_store_up"]) == (1, 0)


def exposed() -> set[str]:
    """Return the names of our metrics as used in queries, histograms without a suffix."""
    families = re.findall(r"^# TYPE (\S+) ", everything().generate(GAUGES).decode(), re.MULTILINE)
    return {name for name in families if name.startswith("clinvk_")}


def test_dashboard_shows_each_metric_and_no_unknown_metric() -> None:
    shown = {re.sub("_bucket$", "", name) for name in NAME.findall(" ".join(expressions()))}
    assert {name for name in shown if name.startswith("clinvk_")} == exposed()
    of_process = {name.partition("{")[0] for name in samples(everything()) if name.startswith("process_")}
    assert {name for name in shown if name.startswith("process_")} <= of_process


def test_dashboard_queries_only_existing_labels() -> None:
    reported = everything().generate(GAUGES).decode()
    known = set(re.findall(r'[{,]([a-z]+)="', reported)) | {"instance", "job"}
    requested = re.findall(r"by \(([^)]*)\)", " ".join(expressions()))
    assert {label.strip() for labels in requested for label in labels.split(",")} <= known
    assert set(re.findall(r"[{,] ?([a-z]+)=~|[{,] ?([a-z]+)!~", " ".join(expressions()))) <= {
        ("instance", ""),
        ("job", ""),
        ("", "outcome"),
    }


def expressions() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD)["panels"] for target in panel.get("targets", [])]


def test_dashboard_panels_do_not_overlap() -> None:
    keys: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD)["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not keys & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        keys |= cells


def test_metrics_page_explains_each_metric_with_its_labels() -> None:
    table = PAGE.partition("| metric | labels | |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", table, re.MULTILINE)
    reported = {
        name: set(re.findall(r"`(\w+)`", labels)) for cell, labels in rows for name in re.findall(r"`(\w+)`", cell)
    }
    found: dict[str, set[str]] = {name: set() for name in exposed()}
    for line in samples(everything()):
        name = re.sub("_(bucket|count|sum)$", "", line.partition("{")[0])
        if name in found:
            found[name] |= set(re.findall(r'[{,]([a-z]+)="', line)) - {"le"}
    assert reported == found
