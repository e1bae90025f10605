"""Client tools of the real agents: beside the CLI's own protocol by hand, and a hundred tools beside one."""

import http.client
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.agents import agents
from bench.asking import MODELS, kept
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace
from clinvk.backends.base import PRIVATE, Channel
from clinvk.backends.registry import BACKENDS
from clinvk.runtime.process import executables
from clinvk.types.events import AwaitingTools, TextDelta, ToolCall
from clinvk.types.request import ClientTool, RunRequest, ToolOutput

_CLIS = ("claude", "codex")
_PROMPT = "[[call weather {}]]"
_OUTPUT = "the sun shines"
_PATH = "/openai/v1/chat/completions"
_NEXT_TOKEN, _MANY_TOOLS = 1.3, 1.5
_TIMEOUT_S = 120
_PAUSE_S = 2
"""The time of the client's tool, in which the pool starts a spare process."""
_CONFIG = "warm: {kept_backends: [claude, codex]}\n"
_encode = msgspec.json.encode


class _Choice(msgspec.Struct):
    message: dict[str, object]


class _Answer(msgspec.Struct):
    choices: list[_Choice]


def client_tools(place: Workplace) -> list[Figure]:
    """Time the first token after a result, and a request with many tools."""
    figures: list[Figure] = []
    for cli in _CLIS:
        with agents(place) as machine, serving(machine, _CONFIG) as server:
            figures += _of(cli, machine, server)
    return figures


def _of(cli: str, place: Workplace, server: Server) -> list[Figure]:
    one, many = _tools(1), _tools(100)
    for tools in (one, many):
        _next_token(server, cli, tools)
    through, by_hand = interleaved(
        place.rounds, lambda: _ready(server) or _next_token(server, cli, one), lambda: _by_hand(place, cli)
    )
    large, small = interleaved(
        place.rounds,
        lambda: _ready(server) or _calls(server, cli, many)[1],
        lambda: _ready(server) or _calls(server, cli, one)[1],
    )
    return [
        Figure(
            name=f"result of a client tool to next token, {cli}",
            unit="ms",
            ours=through,
            peer_name="the CLI's protocol by hand",
            peer=by_hand,
            budget=Budget("share", _NEXT_TOKEN),
        ),
        Figure(
            name=f"request with 100 tools to its call, {cli}",
            unit="ms",
            ours=large,
            peer_name="with one tool",
            peer=small,
            budget=Budget("share", _MANY_TOOLS),
        ),
    ]


def _tools(count: int) -> list[object]:
    names = ["weather", *(f"tool_{number}" for number in range(1, count))]
    return [{"type": "function", "function": {"name": name, "description": f"The tool {name}."}} for name in names]


def _calls(server: Server, cli: str, tools: Sequence[object]) -> tuple[list[Mapping[str, object]], float]:
    """Send a prompt; return the conversation up to the call, and the milliseconds."""
    question = {"role": "user", "content": _PROMPT}
    began = time.perf_counter()
    answer = _post(server, cli, [question], tools)
    took_ms = (time.perf_counter() - began) * 1000
    return [question, msgspec.json.decode(answer.read(), type=_Answer).choices[0].message], took_ms


def _ready(server: Server) -> None:
    """Wait until a process for each set of tools is ready and at rest."""
    deadline = time.monotonic() + _TIMEOUT_S
    while kept(server).ready < 2:
        if time.monotonic() > deadline:
            raise BenchBroken("no process is ready")
        time.sleep(0.05)
    time.sleep(1)


def _next_token(server: Server, cli: str, tools: Sequence[object]) -> float:
    """Return the milliseconds from a result to the first token of the next answer."""
    messages, _ = _calls(server, cli, tools)
    time.sleep(_PAUSE_S)
    [call] = msgspec.convert(messages[-1]["tool_calls"], list[dict[str, object]])
    messages = [*messages, {"role": "tool", "tool_call_id": call["id"], "content": _OUTPUT}]
    began, first_ms = time.perf_counter(), 0.0
    answer = _post(server, cli, messages, tools, stream=True)
    while line := answer.readline():
        if not first_ms and b'"content":"' in line and b'"content":""' not in line:
            first_ms = (time.perf_counter() - began) * 1000
    if not first_ms:
        raise BenchBroken(f"{cli} gave no token after the result")
    return first_ms


def _post(
    server: Server, cli: str, messages: Sequence[Mapping[str, object]], tools: Sequence[object], *, stream: bool = False
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT_S)
    body = {"model": f"{cli}/{MODELS[cli][0]}", "messages": messages, "tools": tools, "stream": stream}
    connection.request("POST", _PATH, _encode(body), {"content-type": "application/json", "connection": "close"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise BenchBroken(f"{cli} answered {answer.status}: {answer.read()[:300]!r}")
    return answer


def _by_hand(place: Workplace, cli: str) -> float:
    """Return the milliseconds from a result to the next token in a process that only the bench talks to."""
    path = shutil.which(cli, path=place.env["PATH"]) or cli
    backend, host = BACKENDS[cli], executables.host(place.env)
    tool = ClientTool("weather", "The tool weather.")
    request = RunRequest(
        prompt=_PROMPT,
        backend=cli,
        model=MODELS[cli][0],
        workdir=str(place.root),
        ephemeral=True,
        client_tools=(tool,),
        own_tools=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        if backend.list_models:
            command = [path, *backend.list_models]
            models = subprocess.run(command, env=place.env, capture_output=True, check=True)
            host = msgspec.structs.replace(host, models=models.stdout)
        launch = backend.launch(request, None, host)
        for name, content in launch.files.items():
            (Path(folder) / name).write_bytes(content)
        argv = [path, *(argument.replace(PRIVATE, folder) for argument in launch.argv[1:])]
        env = {**place.env, **{name: value.replace(PRIVATE, folder) for name, value in launch.env.items()}}
        with subprocess.Popen(
            argv, env=env, cwd=place.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                return _talk(process, backend.channel(launch, host), request)
            finally:
                process.kill()


def _talk(process: "subprocess.Popen[bytes]", channel: Channel, request: RunRequest) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write(channel.start("run", request, None))
    process.stdin.flush()
    calls: list[str] = []
    began = 0.0
    for line in process.stdout:
        for delivery in channel.receive(line.rstrip(b"\n")):
            data, event = (delivery, None) if isinstance(delivery, bytes) else (b"", delivery[1])
            match event:
                case ToolCall():
                    calls.append(event.id)
                case AwaitingTools():
                    time.sleep(_PAUSE_S)
                    began = time.perf_counter()
                    data = b"".join(channel.answer("run", ToolOutput(id_, (_OUTPUT,))) for id_ in calls)
                case TextDelta() if began:
                    return (time.perf_counter() - began) * 1000
                case _:
                    pass
            process.stdin.write(data)
        process.stdin.flush()
    raise BenchBroken(f"{request.backend} ended without a token after the result")
