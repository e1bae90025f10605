"""A backend whose agent is a shell that runs a script; each printed line is a clinvk event."""

from collections.abc import Iterable

import msgspec

from clinvk.backends.base import ALL_CAPABILITIES, PRIVATE, Backend, Channel, Host, Launch, Report
from clinvk.backends.shared import Decoder, OneShotChannel, crash_ending
from clinvk.types.events import Event, Usage
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

TEXT = """echo '{"type":"text_delta","text":"hello"}'\n"""
CALL = """echo '{"type":"tool_call","id":"1","name":"Bash","input":{}}'\n"""
RESULT = """echo '{"type":"tool_result","id":"1","output":"ok"}'\n"""
USED = """echo '{"input_tokens":8,"output_tokens":2}'\n"""
DONE = """echo '{"type":"run_finished"}'\n"""
FAILED = """echo '{"type":"run_failed","code":"agent_failed","message":"no"}'\n"""


class ShellEvents(Decoder):
    """Decodes the printed lines."""

    def feed(self, line: bytes) -> Iterable[Report]:
        yield msgspec.json.decode(line, type=Usage if line.startswith(b'{"input_tokens"') else Event)

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        return crash_ending("shell", exit_code, stderr)


class Shell(Backend):
    """Runs the prompt with `sh`, or a script whatever the prompt is."""

    executable = "sh"
    install = "it is there"
    vendor = "shell"
    capabilities = ALL_CAPABILITIES

    def __init__(self, name: str = "shell", script: str | None = None) -> None:
        self.name = name
        self._script = script

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        files = bool(request.metadata.get("files"))
        return Launch(
            argv=("sh", "-s", f"{PRIVATE}/note") if files else ("sh", "-s"),
            env={"NOTE": f"{PRIVATE}/note"} if files else {},
            cwd=request.workdir,
            files={"note": b"private"} if files else {},
            max_turns=request.max_turns,
        )

    def channel(self, launch: Launch, host: Host) -> Channel:
        return OneShotChannel(ShellEvents(), lambda request: (self._script or request.prompt).encode())

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        return ("sh",)
