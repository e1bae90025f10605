"""A program that speaks ACP as a test wants: the mode is its argument, and each line of a prompt is a command.

The sessions are kept in the file `sessions.json` of the home, or of its folder `.own`. Run with `-I -S`.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any, NamedTuple

MODE = sys.argv[1]
OWN = os.path.join(os.environ["HOME"], ".own")
SESSIONS = os.path.join(OWN if os.path.exists(OWN) else os.environ["HOME"], "sessions.json")
DIFF = [{"type": "diff", "path": "f.txt", "oldText": "a\n", "newText": "b\n"}]
FIELDS = {
    "color": {"type": "string", "oneOf": [{"const": "r", "title": "Red"}, {"const": "b", "title": "Blue"}]},
    "count": {"type": "integer", "title": "How many?"},
}
OPTIONS = [
    {"optionId": f"o-{kind}", "kind": kind, "name": kind} for kind in ("allow_always", "allow_once", "reject_once")
]


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def update(session: str, kind: str, /, **fields: object) -> None:
    send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": kind, **fields}})


def say(session: str, text: str, kind: str = "agent_message_chunk") -> None:
    update(session, kind, content={"type": "text", "text": text})


SERVERS: list[Any] = []
"""The MCP servers of the latest session."""


class Message(NamedTuple):
    """A message of the client, with the parameters that the agent uses."""

    id: object
    method: str
    answer: object
    session: str
    value: str
    prompt: list[dict[str, str]]


def read() -> Message:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    message = json.loads(line)
    params = message.get("params", {})
    answer = message.get("result") or message.get("error")
    SERVERS[:] = params.get("mcpServers", SERVERS)
    session, value, blocks = params.get("sessionId", ""), params.get("value", ""), params.get("prompt", [])
    return Message(message.get("id"), message.get("method", ""), answer, session, value, blocks)


def ask(method: str, params: dict[str, object]) -> str:
    """Send a request, and return the answer as text."""
    send(id="ask-1", method=method, params=params)
    while True:
        message = read()
        if message.id == "ask-1":
            return json.dumps(message.answer)


def stored() -> dict[str, list[str]]:
    if not os.path.exists(SESSIONS):
        return {}
    with open(SESSIONS) as file:
        return json.load(file)


def perform(session: str, command: str, blocks: list[dict[str, str]]) -> None:  # noqa: C901  # a table of commands
    word, _, rest = command.partition(" ")
    match word:
        case "say":
            say(session, rest)
        case "think":
            say(session, rest, "agent_thought_chunk")
        case "recall":
            say(session, ",".join(stored().get(session, [])[:-1]))
        case "update":
            kind, _, fields = rest.partition(" ")
            update(session, kind, **json.loads(fields))
        case "blocks":
            say(session, ",".join(block["type"] for block in blocks))
        case "garbage":
            sys.stdout.buffer.write(b'\xff\x00 garbage\n{"jsonrpc":\n[1]\n{"method": 5}\n')
        case "long":
            say(session, "x" * int(rest))
        case "foreign":
            say("another-session", rest)
        case "tool":
            update(session, "tool_call", toolCallId="t1", title="Edit", kind="edit", status="pending", rawInput={})
            update(session, "tool_call_update", toolCallId="t1", status="in_progress", content=DIFF)
            update(session, "tool_call_update", toolCallId="t1", status="completed")
        case "permission":
            where = "sub-agent" if rest == "sub" else session
            tool = {"toolCallId": "t2", "title": "Do it", "kind": rest if rest != "sub" else "execute"}
            answer = ask("session/request_permission", {"sessionId": where, "toolCall": tool, "options": OPTIONS})
            say(session, answer)
        case "ask":
            tool = {"toolCallId": "t4", **json.loads(rest)}
            say(
                session, ask("session/request_permission", {"sessionId": session, "toolCall": tool, "options": OPTIONS})
            )
        case "form":
            schema = {"type": "object", "properties": FIELDS}
            say(session, ask("elicitation/create", {"message": "Which?", "mode": "form", "requestedSchema": schema}))
        case "oddity":
            tool = {"toolCallId": 5, "rawInput": "text"}
            say(session, ask("session/request_permission", {"sessionId": session, "toolCall": tool, "options": 7}))
        case "request":
            say(session, ask(rest, {"sessionId": session}))
        case "sh":
            done = subprocess.run(["/bin/sh", "-c", rest], capture_output=True, text=True, check=False)
            say(session, f"{done.returncode}\n")
        case "call":
            name, _, arguments = rest.partition(" ")
            title = f"{name} (client MCP Server)"
            update(session, "tool_call", toolCallId="c", title=title, kind="other", status="in_progress")
            say(session, call_tool(name, json.loads(arguments)))
            update(session, "tool_call_update", toolCallId="c", status="completed")
        case "child":
            subprocess.Popen(["sleep", "60"])
        case "bare":
            tool = {"toolCallId": "t3", "kind": "edit"}
            say(session, ask("session/request_permission", {"sessionId": session, "toolCall": tool}))
        case "end":
            raise StopIteration(rest)
        case "crash":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(7)
        case "hang":
            while read().method != "session/cancel":
                pass
            raise InterruptedError
        case _:
            say(session, f"unknown command {word}")


def call_tool(name: str, arguments: object) -> str:
    """Start the MCP server of the session, list its tools, call one, and return the list and the output."""
    command = [SERVERS[0]["command"], *SERVERS[0]["args"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        called: dict[str, object] = {"name": name, "arguments": arguments}
        empty: dict[str, object] = {}
        answers: list[str] = []
        for number, (method, params) in enumerate(
            [("initialize", empty), ("tools/list", empty), ("tools/call", called)]
        ):
            server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
            server.stdin.flush()
            while (answer := json.loads(server.stdout.readline())).get("method"):
                server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": answer["id"], "result": {}}) + "\n")
                server.stdin.flush()
            answers.append(json.dumps(answer["result"]))
        server.terminate()
    return " ".join(answers[1:])


def prompt(session: str, blocks: list[dict[str, str]]) -> dict[str, object]:
    told = stored()
    told.setdefault(session, []).append(blocks[0]["text"])
    with open(SESSIONS, "w") as file:
        json.dump(told, file)
    try:
        for command in blocks[0]["text"].splitlines():
            perform(session, command, blocks)
    except InterruptedError:
        return {"stopReason": "cancelled"}
    except StopIteration as reason:
        return {"stopReason": reason.value}
    return {"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 9}}


def opened(method: str, session: str) -> dict[str, object] | None:
    """Open a session that may be of another process; a liar opens any."""
    if method == "session/load" and MODE != "forgetful":
        for text in stored().get(session, []):
            say(session, text, "user_message_chunk")
            say(session, "an answer", "agent_message_chunk")
    return None


def main() -> None:  # noqa: C901  # a table of methods
    if MODE == "mute":
        time.sleep(600)
    if MODE == "broken":
        sys.exit("no such option")
    model = "small"
    while True:
        message = read()
        if message.id is None:
            continue
        result: object = {}
        match message.method:
            case "initialize":
                images = {"image": MODE == "images"}
                claims: dict[str, object] = {"loadSession": MODE != "resumes", "promptCapabilities": images}
                login = [{"id": "a", "name": "key", "description": "Run `agent login`"}]
                version = 2 if MODE == "newer" else 1
                result = {"protocolVersion": version, "agentCapabilities": claims, "authMethods": login}
            case "session/new" if MODE == "silent":
                continue
            case "session/load" if MODE == "liar":
                send(id=message.id, error={"code": -32601, "message": "Method not found"})
                continue
            case "session/new" if MODE == "locked":
                send(id=message.id, error={"code": -32000, "message": "Authentication required"})
                continue
            case "session/new" if MODE == "nameless":
                pass
            case "session/new":
                values = [{"value": name, "name": name.title()} for name in ("small", "large")]
                option = {"id": "m", "category": "model", "type": "select", "currentValue": model, "options": values}
                modes = {"currentModeId": "yolo", "availableModes": [{"id": "yolo"}, {"id": "default"}]}
                result = {"sessionId": f"s-{os.getpid()}", "configOptions": [option], "modes": modes}
            case "session/set_config_option" if message.value not in ("small", "large"):
                send(id=message.id, error={"code": -32602, "message": f"no model {message.value}"})
                continue
            case "session/set_config_option":
                model = message.value
            case "session/set_mode":
                say("any", "a mode was set")
            case "session/load" | "session/resume":
                result = opened(message.method, message.session)
            case "session/prompt" if message.prompt[0]["text"].startswith("refuse "):
                send(id=message.id, error=json.loads(message.prompt[0]["text"].removeprefix("refuse ")))
                continue
            case "session/prompt":
                result = prompt(message.session, message.prompt)
            case _:
                pass
        send(id=message.id, result=result)


main()
