"""A program that prints text and speaks no protocol: `backends.NAME.command` of the settings.

A run is one process, which gets the prompt on stdin, or in the arguments that contain `{prompt}`. All that the program
prints is the answer. The program alone decides what it reads and writes, so all modes except the default are refused.
"""

from collections.abc import Iterator

from clinvk.backends.base import Backend, Channel, Host, Launch
from clinvk.backends.refusals import refuse_options
from clinvk.backends.shared import Decoder, OneShotChannel, plain_prompt
from clinvk.types.errors import AgentFailed, InvalidRequest
from clinvk.types.events import Ending, Event, RunFailed, RunFinished, TextDelta
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from clinvk.types.text import last_line

PROMPT = "{prompt}"
"""The placeholder for the prompt."""

MAX_ARGUMENT_BYTES = 100_000
"""Maximum size of a prompt in an argument. Linux limits an argument to 128 KiB."""


class TextBackend(Backend):
    """A program of the settings; `command` is its argv."""

    def __init__(self, name: str, command: tuple[str, ...]) -> None:
        self.name = name
        self.executable = command[0]
        self.install = f"see backends.{name}.command in the settings"
        self._arguments = command[1:]
        self._is_argument = any(PROMPT in argument for argument in self._arguments)

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return the launch for this request."""
        refuse_options(request, f"{self.name} is a program without a protocol, and", ("model", "max_turns", "images"))
        text = plain_prompt(request)
        if self._is_argument:
            if "\0" in text:
                raise InvalidRequest(f"{self.name} gets the prompt as an argument, without NUL characters", "prompt")
            if (size := len(text.encode(errors="replace"))) > MAX_ARGUMENT_BYTES:
                raise InvalidRequest(
                    f"{self.name} gets the prompt as an argument of at most {MAX_ARGUMENT_BYTES} bytes, got {size}; "
                    f"without {PROMPT} in its command it gets the prompt on stdin",
                    "prompt",
                )
        arguments = (_filled(argument, text) for argument in self._arguments)
        return Launch(argv=(self.executable, *arguments, *request.extra), cwd=request.workdir)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the state machine for one process of this launch."""
        decoder = TextDecoder(self.name)
        return OneShotChannel(decoder, lambda _: b"") if self._is_argument else OneShotChannel(decoder)


def _filled(argument: str, prompt: str) -> str:
    """Return an argument with the prompt. The space keeps the program from reading a prompt as a flag."""
    return f" {prompt}" if argument == PROMPT and prompt.startswith("-") else argument.replace(PROMPT, prompt)


class TextDecoder(Decoder):
    """Decodes the output of a program: all that the program prints is the answer. `name` is that of the backend."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._newlines = ""

    def feed(self, line: bytes) -> Iterator[Event]:
        """Yield a line, preceded by the newlines since the last line with text."""
        text = line.decode(errors="replace")
        if text.strip():
            yield TextDelta(f"{self._newlines}{text}")
            self._newlines = "\n"
        elif self._newlines:
            self._newlines += "\n"

    def closed(self, exit_code: int, stderr: bytes) -> Ending:
        """Return the ending by the exit code; the last line of stderr describes a failure."""
        if exit_code == 0:
            return RunFinished()
        reason = last_line(stderr.decode(errors="replace"))
        return RunFailed(AgentFailed.code, reason or f"{self._name} exited with code {exit_code}", exit_code)
