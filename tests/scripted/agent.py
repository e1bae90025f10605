"""An agent CLI that plays a script. Installed under a CLI's name by `scripted.Scripted`; starts in milliseconds.

Beside it lie `plays.json` (what to do, see `scripted.steps`), and what it writes: `calls.jsonl`, `PID.stdin`.
Started as `app-server` it plays the first turn that it is asked for.
Run with `-I -S`: it depends on nothing but the standard library, and imports little of that.
"""

import json
import os
import signal
import sys
import time

THREAD = "01a20000-0000-7000-8000-000000000001"
FOLDER = os.path.dirname(os.path.abspath(__file__))


def record(**facts: object) -> None:
    """Append a line to the record in one write, so that the lines of concurrent agents do not mix."""
    line = json.dumps({"pid": os.getpid(), **facts}) + "\n"
    handle = os.open(os.path.join(FOLDER, "calls.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, line.encode())
    os.close(handle)


def read_prompt() -> bytes:
    """Read stdin to its end and store it. A Claude that asks reads to its prompt, since stdin stays open."""
    if "--permission-prompt-tool=stdio" in sys.argv:
        lines = iter(sys.stdin.buffer.readline, b"")
        prompt = b""
        for line in lines:
            prompt += line
            if b'"type":"user"' in line:
                break
    else:
        prompt = sys.stdin.buffer.read()
    keep(prompt)
    return prompt


def keep(stdin: bytes) -> None:
    """Store a part of stdin."""
    path = os.path.join(FOLDER, f"{os.getpid()}.stdin")
    with open(path + ".part", "wb") as file:
        file.write(stdin)
    os.rename(path + ".part", path)


def converse() -> bytes:
    """Speak as `codex app-server` does until a turn is asked for, and keep all that was asked."""
    asked = b""
    for line in sys.stdin.buffer:
        asked += line
        message = json.loads(line)
        if "id" in message:
            result = answered(message["method"], message.get("params", {}))
            write(1, json.dumps({"id": message["id"], "result": result}).encode() + b"\n")
        if message["method"] == "turn/start":
            keep(asked)
            return line
    sys.exit("no turn was asked for")


def answered(method: str, params: dict[str, object]) -> dict[str, object]:
    """Return the server's answer to a request."""
    match method:
        case "config/read":
            return {"config": {}}
        case "turn/start":
            return {"turn": {"id": "turn", "status": "inProgress"}}
        case _:
            return {"thread": {"id": params.get("threadId", THREAD)}, "model": "codex-scripted"}


def choose(plays: list[tuple[str | None, bool, list[dict[str, object]]]], serves: bool) -> list[dict[str, object]]:
    """Return the steps of the latest matching play: one for any prompt, or one whose text is in the prompt."""
    prompt = converse() if serves else None
    for when, reads, steps in reversed(plays):
        if prompt is None and (reads or when is not None):
            prompt = read_prompt()
        if when is None or when.encode() in (prompt or b""):
            return steps
    sys.exit("no play fits the prompt")


def perform(step: dict[str, object]) -> None:
    """Do one step."""
    match step:
        case {"pause": float() | int() as seconds}:
            time.sleep(seconds)
        case {"wait_for": str() as path}:
            while not os.path.exists(path):
                time.sleep(0.005)
        case {"touch": str() as path}:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        case {"ignore": int() as number}:
            signal.signal(number, signal.SIG_IGN)
        case {"spawn": str() as how, "holds_output": bool() as holds_output, "command": str() as command}:
            spawn(how, holds_output, command)
        case {"die": int() as number}:
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        case {"exit": int() as code}:
            os._exit(code)
        case _:
            speak(step)


def call_client(calls: dict[str, list[object]], answers: int) -> None:
    """Call client tools as `codex app-server` does, and wait until the outputs of all calls have come."""
    tokens = {"inputTokens": 12, "cachedInputTokens": 2, "outputTokens": 5, "reasoningOutputTokens": 0}
    for call_id, (name, arguments) in calls.items():
        raw = {"type": "function_call", "name": name, "arguments": json.dumps(arguments), "call_id": call_id}
        notify("rawResponseItem/completed", item=raw)
    for number, (call_id, (name, arguments)) in enumerate(calls.items()):
        item = {"type": "dynamicToolCall", "id": call_id, "tool": name, "arguments": arguments, "status": "inProgress"}
        notify("item/started", item=item)
        notify("item/tool/call", f"call-{number}", callId=call_id, tool=name, arguments=arguments)
        if number == 0:  # later calls may come after the end of the answer
            notify("rawResponse/completed", usage=tokens)
    waiting = {f"call-{number}": call_id for number, call_id in enumerate(calls)}
    while waiting:
        message = json.loads(sys.stdin.buffer.readline() or sys.exit(0))
        if message.get("method") == "turn/interrupt":
            write(1, json.dumps({"id": message["id"], "result": {}}).encode() + b"\n")
            notify("turn/completed", turn={"id": "turn", "status": "interrupted", "error": None})
            sys.exit(0)
        if call_id := waiting.pop(message.get("id"), None):
            result = message["result"]
            record(output=call_id, text="".join(part.get("text", "") for part in result["contentItems"]))
            item = {"type": "dynamicToolCall", "id": call_id, "tool": calls[call_id][0], "status": "completed"}
            notify(
                "item/completed", item={**item, "contentItems": result["contentItems"], "success": result["success"]}
            )
    total = {name: count * answers for name, count in tokens.items()}
    notify("thread/tokenUsage/updated", tokenUsage={"total": total, "last": tokens})


def ask_approval(requests: list[dict[str, object]]) -> None:
    """Ask for approvals as Claude Code does, and record the answers to all of them."""
    waiting = {f"approval-{number}" for number, _ in enumerate(requests)}
    for number, request in enumerate(requests):
        asked = {"subtype": "can_use_tool", **request}
        control = {"type": "control_request", "request_id": f"approval-{number}", "request": asked}
        write(1, json.dumps(control).encode() + b"\n")
    while waiting:
        message = json.loads(sys.stdin.buffer.readline() or sys.exit(0))
        if message["type"] == "control_response":
            response = message["response"]
            waiting.discard(response["request_id"])
            record(approval=response["request_id"], response=response["response"])


def receive_steering(accepts: bool) -> None:
    """Answer `turn/steer` as `codex app-server` does, and go on once a prompt is accepted, unless interrupted."""
    while message := json.loads(sys.stdin.buffer.readline() or "null"):
        if message["method"] == "turn/interrupt":
            notify("turn/completed", turn={"id": "turn", "status": "interrupted", "error": None})
            break
        record(steered=message["params"])
        answer = {"result": {"turnId": "turn"}} if accepts else {"error": {"code": -32600, "message": "no active turn"}}
        write(1, json.dumps({"id": message["id"], **answer}).encode() + b"\n")
        if accepts:
            return
    sys.exit(0)


def notify(method: str, number: str | None = None, **params: object) -> None:
    """Print a notification of `codex app-server`; with a number a request."""
    message = {"method": method, "params": {"threadId": THREAD, "turnId": "turn", **params}}
    write(1, json.dumps(message if number is None else {"id": number, **message}).encode() + b"\n")


def speak(step: dict[str, object]) -> None:
    """Run one step that prints."""
    match step:
        case {"line": str() as text}:
            write(1, text.encode() + b"\n")
        case {"raw": str() as digits}:
            write(1, bytes.fromhex(digits))
        case {"letters": int() as count, "before": str() as before, "after": str() as after}:
            write(1, before.encode() + b"x" * count + after.encode() + b"\n")
        case {"stderr": str() as text}:
            write(2, text.encode())
        case {"client_calls": str() as calls, "answers": int() as answers}:
            call_client(json.loads(calls), answers)
        case {"approvals": str() as requests}:
            ask_approval(json.loads(requests))
        case {"steering": bool() as accepts}:
            receive_steering(accepts)
        case {"close_stdout": _}:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        case _:
            sys.exit(f"no step {step!r}")


def write(handle: int, data: bytes) -> None:
    """Write all bytes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def spawn(how: str, holds_output: bool, command: str) -> None:
    """Start a grandchild, asleep or with a command: `plain`, `setsid`, `double-fork`, `env-i`, or `all` of these."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        os.read(read_end, 1)
        os.close(read_end)
        if how in ("double-fork", "all"):
            os.waitpid(pid, 0)
        return
    if how in ("setsid", "all"):
        os.setsid()
    if how in ("double-fork", "all") and os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0,) if holds_output else (0, 1, 2):
        os.dup2(null, stream)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    record(grandchild=how)
    environment = {} if how in ("env-i", "all") else dict(os.environ)
    # The parent goes on when exec has closed the pipe: a step after this one finds the grandchild running.
    program, *arguments = ("/bin/sh", "-c", command) if command else ("/bin/sleep", "600")
    os.execve(program, [os.path.join(FOLDER, "grandchild"), *arguments], environment)


def main() -> None:
    """Play."""
    if sys.argv[1:] == ["--version"]:
        write(1, b"9.9.9 (scripted)\n")
        return
    if sys.argv[1:] == ["debug", "models"]:
        write(1, b'{"models": []}\n')
        return
    serves = sys.argv[1:2] == ["app-server"]
    with open(os.path.join(FOLDER, "plays.json"), encoding="utf-8") as file:
        plays = json.load(file)
    record(name=os.path.basename(sys.argv[0]), argv=sys.argv[1:], env=dict(os.environ), cwd=os.getcwd())
    try:
        steps = choose(plays, serves)
        for step in steps:
            perform(step)
        if serves and not any(str(step.get("line")).startswith('{"type"') for step in steps):
            sys.stdin.buffer.read()  # the lines of another agent end no turn, so that agent exits
    except BrokenPipeError:
        os._exit(141)


main()
