"""`clinvk usage`, `backends`, `models`, `runs follow`, `open`, `help --open`, `config path` and `config edit`."""

import json
import re
import time
from pathlib import Path

import httpx

from acceptance.command import Clinvk, read_until, until
from acceptance.server import Server
from acceptance.terminal import on_terminal
from clinvk.cli.admin import documentation
from network import reserved_port
from scripted.steps import claude_says, exits, line, says, wait_for


def test_usage_sums_tokens_by_agent(clinvk: Clinvk) -> None:
    for backend, prompt in (("claude", "one"), ("claude", "two"), ("codex", "three")):
        clinvk.agent.play(says(backend, "answer"), when=prompt)
        assert clinvk.run("--new", "-b", backend, "--", prompt).returncode == 0
    done = clinvk.run("usage", "--by", "agent", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert {item["backend"]: item["runs"] for item in listed["usage"]} == {"claude": 2, "codex": 1}
    assert listed["total"]["runs"] == 3

    done = clinvk.run("usage", "--by", "agent")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["AGENT", "RUNS", "IN", "OUT", "COST"]
    assert {row.split()[0] for row in rows} == {"claude", "codex"}
    assert "3 runs, " in done.stderr


def test_usage_on_a_terminal_has_bars(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("answer"))
    assert clinvk.run("--new", "--", "one").returncode == 0
    with on_terminal(clinvk, "usage") as terminal:
        terminal.until("█")


def test_usage_shows_the_limits_that_agents_report(clinvk: Clinvk) -> None:
    windows = {
        "five_hour": {"utilization": 0.5, "resetsAt": time.time() + 3600, "status": "allowed"},
        "seven_day": {"utilization": 1.2, "resetsAt": time.time() + 86400, "status": "rejected"},
    }
    start, *rest = claude_says("answer")
    limits = json.dumps({"type": "rate_limit_event", "rate_limit_info": {"unifiedWindows": windows}})
    clinvk.agent.play([start, line(limits), *rest])
    assert clinvk.run("--new", "--", "one").returncode == 0
    with on_terminal(clinvk, "usage") as terminal:
        assert terminal.ended() == 0
        bars = [line.split()[-1] for line in terminal.screen() if line.startswith("claude")]
    assert bars == [f"{'█' * 12}{'░' * 12}", "█" * 24]
    head, *rows = clinvk.run("usage").stdout.splitlines()[-3:]
    assert head.split() == ["LIMIT", "USED", "RESETS", "STATE"]
    assert [row.split()[:4] for row in rows] == [["claude", "5h", "50", "%"], ["claude", "7d", "120", "%"]]
    assert [row.split()[-1] for row in rows] == ["allowed", "rejected"]
    listed = json.loads(clinvk.run("usage", "--json").stdout)
    assert (listed["total"]["runs"], [limit["window"] for limit in listed["limits"]]) == (1, ["5h", "7d"])
    assert json.loads(clinvk.run("usage", "-b", "codex", "--json").stdout)["limits"] == []


def test_usage_without_runs_says_so(clinvk: Clinvk) -> None:
    done = clinvk.run("usage", "--days", "7")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no runs since " in done.stderr


def test_backends_lists_state_program_and_install_command(clinvk: Clinvk) -> None:
    done = clinvk.run("backends", "--json", env={"PATH": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    (claude, *_) = json.loads(done.stdout)["backends"]
    assert (claude["name"], claude["available"], claude["path"]) == ("claude", False, None)
    assert claude["install"].startswith("npm ")
    shown = clinvk.run("backends")
    assert "claude (default)  installed" in shown.stdout


def test_models_of_one_backend(clinvk: Clinvk) -> None:
    done = clinvk.run("models", "-b", "claude", "--json")
    models = json.loads(done.stdout)["models"]
    assert {model["backend"] for model in models} == {"claude"}
    assert "opus" in {model["model"] for model in models}
    assert {"backend": "claude", "alias": "fast", "model": "haiku"} in json.loads(done.stdout)["aliases"]


def test_models_lists_the_aliases_of_each_agent(clinvk: Clinvk) -> None:
    rows = [re.split("  +", line) for line in clinvk.run("models").stdout.splitlines()]
    assert ["claude", "opus", "best, powerful"] in rows
    assert ["gemini", "flash-lite", "fast, quick"] in rows
    assert ["codex", "(its own default)", "balanced, default"] in rows


def test_models_names_agents_with_models_of_their_own(clinvk: Clinvk) -> None:
    clinvk.settings("backends: {opencode: {}, up: {command: [tr, a-z, A-Z]}}\n")
    noted = clinvk.run("models").stderr
    assert "the models of opencode; --model takes the ids and names of the agent" in noted


def test_follow_prints_the_answer_of_a_run_of_another_process(clinvk: Clinvk, tmp_path: Path) -> None:
    says_ = claude_says("one ", "two")
    clinvk.agent.play([*says_[:4], wait_for(tmp_path / "go"), *says_[4:]])
    with clinvk.started("--new", "--", "hello") as process:
        found: list[str] = []

        def is_listed() -> bool:
            found[:] = [run["id"] for run in json.loads(clinvk.run("runs", "list", "--json").stdout)["runs"]]
            return bool(found)

        until(is_listed)
        with clinvk.started("runs", "follow", found[0]) as follower:
            assert follower.stdout
            read_until(follower.stdout.fileno(), b"one ")
            (tmp_path / "go").touch()
            assert follower.stdout.read() == b"two\n"
            assert follower.wait() == 0
        process.communicate()
    lines = clinvk.run("runs", "follow", found[0][:8], "-o", "stream-json").stdout.splitlines()
    assert [json.loads(line)["type"] for line in lines][:1] == ["init"]
    assert [json.loads(line)["type"] for line in lines][-1] == "done"


def test_follow_of_a_failed_run_has_its_exit_code(clinvk: Clinvk) -> None:
    clinvk.agent.play([exits(9)])
    run = json.loads(clinvk.run("--new", "--", "hello").stdout)["run_id"]
    done = clinvk.run("runs", "follow", run)
    assert done.returncode == 9
    assert "exited with code 9" in done.stderr


def test_follow_of_several_agents_shows_the_parts(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("answer"))
    assert clinvk.run("parallel", stdin=b"[{prompt: one}]").returncode == 0
    (whole,) = [run["id"] for run in json.loads(clinvk.run("runs", "list", "--json").stdout)["runs"]]
    done = clinvk.run("runs", "follow", whole)
    shown = clinvk.run("runs", "show", whole).stdout
    assert (done.returncode, done.stdout.partition("\n\n")[2]) == (0, shown.partition("\n\n")[2])
    assert done.stdout.endswith("\n\n── [1] claude ──\nanswer\n")
    done = clinvk.run("runs", "follow", whole, "-o", "stream-json")
    error = f"clinvk: run {whole[:8]} has no events of its own; follow one of its parts\n"
    assert (done.returncode, done.stderr) == (1, error)


def test_open_prints_the_address_of_a_running_server(clinvk: Clinvk) -> None:
    with Server(clinvk.agent).ready() as server:
        port = server.url.rpartition(":")[2]
        done = clinvk.run("open", "--dry-run", "--port", port)
        without_port = clinvk.run("open", "--dry-run")
    assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{port}/\n")
    assert without_port.stdout == done.stdout


def test_open_prints_a_login_link_that_works_once(clinvk: Clinvk) -> None:
    assert clinvk.run("keys", "create", "ana").returncode == 0
    with Server(clinvk.agent).ready() as server:
        address, _, token = clinvk.run("open", "--dry-run").stdout.strip().partition("#login=")
        other_port = clinvk.run("open", "--dry-run", "--port", "1")
        assert address == f"{server.url}/"
        with httpx.Client(base_url=address) as client:
            refused = client.get("api/v1/runs")
            first = client.post("api/v1/login", json={"token": token})
            listed = client.get("api/v1/runs")
        again = httpx.post(f"{address}api/v1/login", json={"token": token})
    assert [each.status_code for each in (refused, first, listed, again)] == [401, 200, 200, 401]
    assert first.json()["key"] is None
    assert "#login=" not in other_port.stdout


def test_open_without_a_server_says_how_to_start_one(clinvk: Clinvk) -> None:
    with reserved_port() as port:
        done = clinvk.run("open", "--port", str(port))
    assert done.returncode == 1
    assert "start one with `clinvk serve`" in done.stderr


def test_help_open_prints_the_address_of_the_documentation(clinvk: Clinvk, tmp_path: Path) -> None:
    headings = (
        "several-agents-clinvk-parallel-chain-compare",
        "exit-codes",
        "clinvk-keys",
        "clinvk-version-clinvk-help",
    )
    (tmp_path / "cli.html").write_text("".join(f'<h2 id="{name}">' for name in headings))
    for name in ("index.html", "failover.html"):
        (tmp_path / name).touch()
    done = clinvk.run("help", "--open", "--dry-run", "keys", "create")
    assert (done.returncode, done.stdout) == (0, f"{documentation.address(['keys'])}\n")
    for words, page in {
        (): "index.html",
        ("keys", "create"): "cli.html#clinvk-keys",
        ("chain",): "cli.html#several-agents-clinvk-parallel-chain-compare",
        ("version",): "cli.html#clinvk-version-clinvk-help",
        ("exit-codes",): "cli.html#exit-codes",
        ("failover",): "failover.html",
        ("show",): "cli.html",
    }.items():
        assert documentation.address(words, tmp_path) == f"{tmp_path.as_uri()}/{page}"
    assert documentation.address([], tmp_path / "not built").startswith("https://")
    assert "unknown command or topic 'nosuch'" in clinvk.run("help", "--open", "--dry-run", "nosuch").stderr


def test_config_path_prints_the_settings_file(clinvk: Clinvk) -> None:
    assert clinvk.run("config", "path").stdout == f"{clinvk.config}\n"


def test_config_edit_checks_the_settings_after_the_editor(clinvk: Clinvk, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "$TEXT" >"$1"\n')
    editor.chmod(0o755)
    done = clinvk.run("config", "edit", env={"EDITOR": str(editor), "TEXT": "server: {port: 3000}"})
    assert done.returncode == 0, done.stderr
    assert clinvk.run("config", "get", "server.port").stdout == "3000\n"
    done = clinvk.run("config", "edit", env={"VISUAL": str(editor), "TEXT": "server: {port: many}"})
    assert done.returncode == 3
    assert f"{clinvk.config}:1: server.port" in done.stderr
    assert clinvk.run("config", "edit", env={"EDITOR": "/nonexistent/editor"}).returncode == 1
