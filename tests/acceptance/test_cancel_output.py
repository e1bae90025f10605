"""The stdout of a cancelled prompt: the answer so far, and its cost."""

import json
import shutil
import signal
import sys
from pathlib import Path

from acceptance.command import Clinvk, read_until
from acceptance.server import in_both_ways
from scripted.steps import claude_says

pytestmark = in_both_ways

AGENT = """\
import signal, sys
first, last = {first!r}, {last!r}
def leave(*_):
    print("\\n".join(last), flush=True)
    sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, leave)
sys.stdin.read()
print("\\n".join(first), flush=True)
print("at-work", file=sys.stderr, flush=True)
signal.pause()
"""


def cancelled(clinvk: Clinvk, form: str) -> tuple[bytes, bytes]:
    """Send Ctrl-C to a prompt whose agent then prints its last text and usage; return stdout and stderr."""
    first = [str(step["line"]) for step in claude_says("begun ")[:4]]
    word, result = (str(step["line"]) for step in (claude_says("last")[3], claude_says("begun last")[-1]))
    stopped = {"subtype": "error_during_execution", "is_error": True, "terminal_reason": "aborted_streaming"}
    last = [word, json.dumps({**json.loads(result), **stopped})]
    claude = shutil.which("claude", path=clinvk.agent.env["PATH"])
    assert claude
    Path(claude).write_text(f"#!{sys.executable} -IS\n{AGENT.format(first=first, last=last)}")
    with clinvk.started("-vv", "-o", form, "--new", "hello") as process:
        shows = process.stdout if form == "stream-json" else process.stderr
        assert shows
        seen = read_until(shows.fileno(), b"at-work")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 7
    return (seen + stdout, stderr) if form == "stream-json" else (stdout, seen + stderr)


def test_cancelled_json_includes_last_output_and_cost(clinvk: Clinvk) -> None:
    stdout, stderr = cancelled(clinvk, "json")
    told = json.loads(stdout)
    assert (told["content"], told["error"], told["exit_code"]) == ("begun last", "cancelled", 7)
    assert (told["usage"]["total_tokens"], told["cost_usd"], told["raw"]["type"]) == (17, 0.01, "result")
    assert stderr.splitlines()[-1] == b"clinvk: cancelled"


def test_cancelled_stream_json_includes_last_output_and_cost(clinvk: Clinvk) -> None:
    stdout, stderr = cancelled(clinvk, "stream-json")
    events = [json.loads(line) for line in stdout.splitlines()]
    assert [event["sequence"] for event in events] == [*range(1, len(events) + 1)]
    assert [event["content"]["text"] for event in events if event["type"] == "message"] == ["begun ", "last"]
    assert [event["type"] for event in events[-2:]] == ["token_usage", "error"]
    assert events[-1]["content"]["code"] == "cancelled"
    assert events[-1]["content"]["details"]["cost_usd"] == 0.01
    assert stderr.splitlines()[-1] == b"clinvk: cancelled"
