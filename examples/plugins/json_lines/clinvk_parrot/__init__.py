"""Adds the backend `parrot` to clinvk: an agent that prints its events as JSON lines, and remembers conversations.

The agent is `program.py`, run by this Python. Replace it with yours, and `executable` with its name.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from clinvk import plugin


class Line(msgspec.Struct):
    """A line that the agent prints, of any type."""

    type: str = ""
    session: str | None = None
    model: str | None = None
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, object] = {}
    input_tokens: int = 0
    output_tokens: int = 0


_LINES = msgspec.json.Decoder(Line)


class ParrotDecoder(plugin.Decoder):
    """Decodes the lines of one run into events."""

    def feed(self, line: bytes) -> Iterator[plugin.Event]:
        """Yield the events of a line. Noise and unknown types yield nothing."""
        found = plugin.decode_line(_LINES, line) or Line()
        match found.type:
            case "start":
                yield plugin.RunStarted(found.model, found.session)
            case "text":
                yield plugin.TextDelta(found.text)
            case "tool":
                yield plugin.ToolCall(found.id, found.name, found.input)
            case "tool_result":
                yield plugin.ToolResult(found.id, found.text)
            case "end":
                yield plugin.RunFinished(usage=plugin.Usage(found.input_tokens, found.output_tokens))
            case "error":
                yield plugin.RunFailed(plugin.AgentFailed.code, found.text)
            case _:
                pass

    def closed(self, exit_code: int, stderr: bytes) -> plugin.RunFailed:
        """Return the ending of a run whose process exited without one."""
        return plugin.crash_ending("parrot", exit_code, stderr)


class Parrot(plugin.Backend):
    """The backend: clinvk creates it at the first use."""

    api_version = 1
    name = "parrot"
    executable = sys.executable
    install = "pip install clinvk-parrot"
    models = ("grey", "macaw")
    capabilities = plugin.Capabilities(resume=True)

    def launch(self, request: plugin.RunRequest, resume: plugin.Resume | None, host: plugin.Host) -> plugin.Launch:
        """Return the command line. `=` keeps a value from being read as another flag."""
        plugin.refuse_options(request, self.name, ("images", "max_turns"))
        argv = [self.executable, str(Path(__file__).with_name("program.py")), *request.extra]
        argv += [f"--model={request.model}"] if request.model else []
        argv += [f"--resume={resume.handle}"] if resume else []
        return plugin.Launch(argv=tuple(argv), cwd=request.workdir)

    def channel(self, launch: plugin.Launch, host: plugin.Host) -> plugin.Channel:
        """Return the protocol: the prompt goes to stdin, and a line on stdout is an event."""
        return plugin.OneShotChannel(ParrotDecoder())
