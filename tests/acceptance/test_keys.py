"""`clinvk keys`, and a server with the created keys."""

import json

from acceptance.command import Clinvk
from acceptance.server import Server
from acceptance.terminal import on_terminal
from scripted import Scripted
from scripted.steps import claude_says


def test_create_prints_the_key_last_and_only_once(clinvk: Clinvk) -> None:
    made = clinvk.run(
        "keys", "create", "ana", "--backends", "claude,codex", "--rate", "2.5", "--tokens-per-day", "1000"
    )
    assert made.returncode == 0
    key = made.stdout.splitlines()[-1]
    assert key.startswith("clinvk_")
    listed, shown = clinvk.run("keys", "list"), clinvk.run("keys", "list", "--json")
    (item,) = json.loads(shown.stdout)["keys"]
    assert (item["name"], item["last_used"]) == ("ana", None)
    assert item["limits"] == {"backends": ["claude", "codex"], "rate_rps": 2.5, "tokens_per_day": 1000}
    assert "claude, codex; 2.5 requests/s; 1,000 tokens/day" in listed.stdout
    assert key not in listed.stdout + shown.stdout + listed.stderr + made.stderr


def test_empty_list_reports_whether_servers_refuse_requests(clinvk: Clinvk) -> None:
    assert clinvk.run("keys", "list").stderr == "clinvk: no keys yet: create one with clinvk keys create NAME\n"
    clinvk.run("keys", "create", "ana")
    last = clinvk.run("keys", "revoke", "ana").stderr.splitlines()[-1]
    assert last.startswith("clinvk: no key is left, so servers refuse every request, and none starts. Create a key: ")
    assert last.endswith("To require none: clinvk keys off")
    assert clinvk.run("keys", "list").stderr.splitlines() == [last]


def test_keys_off_removes_the_requirement(clinvk: Clinvk) -> None:
    def off(*flags: str) -> tuple[int, str]:
        done = clinvk.run("keys", "off", *flags)
        assert done.stdout == ""
        return done.returncode, done.stderr.removeprefix("clinvk: ").partition(".")[0].strip()

    file = clinvk.config.parent / "keys.json"
    assert off() == (0, "there are no keys, so none is required")
    clinvk.run("keys", "create", "ana")
    assert off() == (1, "this needs --yes: there is no terminal to ask on")
    assert off("--dry-run") == (0, "would remove all keys")
    assert file.exists()
    with on_terminal(clinvk, "keys", "off") as terminal:
        terminal.until("Revoke key ana? [y/N] ")
        terminal.type(b"n\r")
        assert terminal.ended() == 7
    assert file.exists()
    assert off("--yes") == (0, "removed all keys; restart running servers")
    assert not file.exists()
    clinvk.run("keys", "create", "ana")
    clinvk.run("keys", "revoke", "ana")
    assert file.exists()
    assert off() == (0, "removed all keys; restart running servers")
    assert not file.exists()


def test_create_rejects_invalid_arguments(clinvk: Clinvk) -> None:
    for words in (
        ["a b"],
        ["a", "--backends", "qwen"],
        ["a", "--backends", ""],
        ["a", "--allow-dir", ""],
        ["a", "--allow-dir", "/no/such/place"],
        ["a", "--burst", "3"],
        ["a", "--rate", "0.0000001"],
        ["a", "--rate", "1000000.5"],
        ["a", "--rate", "1", "--burst", "1000001"],
        ["a", "--expires", "0"],
        ["a", "--expires", "soon"],
        ["a", "--expires", "999999w"],
    ):
        done = clinvk.run("keys", "create", *words)
        assert done.returncode in (1, 2)
        assert done.stdout == ""
    assert json.loads(clinvk.run("keys", "list", "--json").stdout) == {"keys": []}


def test_dry_run_creates_and_revokes_nothing(clinvk: Clinvk) -> None:
    assert clinvk.run("keys", "create", "ana", "--dry-run").stdout == ""
    assert clinvk.run("keys", "create", "ana").returncode == 0
    assert clinvk.run("keys", "revoke", "ana", "--dry-run").returncode == 0
    for words in (["create", "ana"], ["create", "a b"], ["revoke", "ben"]):
        assert clinvk.run("keys", *words, "--dry-run").returncode == 1, words
    assert len(json.loads(clinvk.run("keys", "list", "--json").stdout)["keys"]) == 1


def test_server_requires_the_created_key(clinvk: Clinvk, scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    key = clinvk.run("keys", "create", "ana").stdout.splitlines()[-1]
    with Server(scripted) as server:
        server.ready()
        body = {"backend": "claude", "prompt": "hi"}
        without = server.client.post("/api/v1/prompt", json=body)
        answer = server.client.post("/api/v1/prompt", json=body, headers={"authorization": f"Bearer {key}"})
    assert (without.status_code, answer.status_code) == (401, 200)


def test_list_shows_expiry_and_expired_keys(clinvk: Clinvk) -> None:
    made = clinvk.run("keys", "create", "ana", "--expires", "30d", "--max-runs", "2")
    assert "2 runs at once; expires " in made.stderr
    assert "no restrictions; may also answer" in clinvk.run("keys", "create", "ben", "--right", "answer").stderr
    file = clinvk.config.parent / "keys.json"
    content = json.loads(file.read_text())
    content["keys"].append({**content["keys"][0], "name": "old", "digest": "0" * 64, "expires_at": 1.5})
    file.write_text(json.dumps(content))
    items = json.loads(clinvk.run("keys", "list", "--json").stdout)["keys"]
    assert [(item["name"], item["expired"]) for item in items] == [("ana", False), ("ben", False), ("old", True)]
    assert (items[0]["limits"], items[1]["expires_at"]) == ({"max_runs": 2}, None)
    assert [item["rights"] for item in items] == [[], ["answer"], []]
    assert items[2]["expires_at"] == "1970-01-01T00:00:01.500Z"
    listed = clinvk.run("keys", "list").stdout.splitlines()
    assert "EXPIRES" in listed[0]
    assert "never" in listed[2]
    assert "may also answer" in listed[2]
    assert "expired 1970-01-01" in listed[3]
