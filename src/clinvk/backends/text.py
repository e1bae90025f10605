"""A program that prints text and speaks no protocol: `backends.NAME.command` of the settings.

A run is one process, which gets the prompt on stdin, or in the arguments that contain `{prompt}`. All that the program
prints is the answer. The program alone decides what it reads and writes, so all modes except the default are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from clinvk.backends.base import Capabilities, Channel, Host, Launch
from clinvk.backends.shared import (
    Decoder,
    OneShotChannel,
    refuse_incapable,
    refuse_nul,
    with_schema,
    with_system_prompt,
)
from clinvk.policy.rules import Flags
from clinvk.types.errors import AgentFailed, InvalidRequest, NotResumable, Unsupported
from clinvk.types.events import Ending, Event, RunFailed, RunFinished, TextDelta
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume
from clinvk.types.text import last_line

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

NO_FLAGS: Flags = {}

PROMPT = "{prompt}"
"""The placeholder for the prompt."""

MAX_ARGUMENT_BYTES = 100_000
"""Maximum size of a prompt in an argument. Linux limits an argument to 128 KiB."""


class TextBackend:
    """A program of the settings; `command` is its argv."""

    vendor = ""
    models: tuple[str, ...] = ()
    aliases: Mapping[str, str | None] = {}
    capabilities = Capabilities(
        approval_modes=("default",),
        sandbox_modes=("default",),
        allowed_tools=False,
        add_dirs=False,
        resume=False,
        fork=False,
    )
    keeps_system_prompt = False
    safe_flags: Flags = NO_FLAGS
    list_models: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def __init__(self, name: str, command: tuple[str, ...]) -> None:
        self.name = name
        self.executable = command[0]
        self.install = f"see backends.{name}.command in the settings"
        self._arguments = command[1:]
        self._is_argument = any(PROMPT in argument for argument in self._arguments)

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return the launch for this request."""
        refuse_incapable(request, self.capabilities, self.name)
        for field, value in (("model", request.model), ("max_turns", request.max_turns), ("images", request.images)):
            if value:
                raise Unsupported(f"{self.name} is a program without a protocol, and has no option {field}", field)
        if resume:
            raise NotResumable(f"{self.name} is a program without a protocol, and cannot resume a conversation")
        refuse_nul(request)
        text = _prompt(request)
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
        return OneShotChannel(_TextDecoder(self.name), self._stdin)

    def _stdin(self, request: RunRequest) -> bytes:
        return b"" if self._is_argument else _prompt(request).encode(errors="replace")

    def checkup(self, host: Host) -> "Checkup":
        """Return a checkup without probes: the settings say nothing about the program."""
        from clinvk.backends.checkup_base import Checkup, LoginStatus  # imported here to keep prompts fast

        return Checkup(empty_home={}, probes=(), login=LoginStatus(None, "login not known"))

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Raise NotResumable: the program has no conversations."""
        raise NotResumable(f"{self.name} is a program without a protocol, and has no conversation to open")

    def claims_model(self, model: str) -> bool:
        """Return False: the program alone chooses its model."""
        return False

    def record_files(self, handle: str, host: Host) -> Sequence[str]:
        """Return no files."""
        return ()


def _prompt(request: RunRequest) -> str:
    return with_schema(with_system_prompt(request), request)


def _filled(argument: str, prompt: str) -> str:
    """Return an argument with the prompt. The space keeps the program from reading a prompt as a flag."""
    return f" {prompt}" if argument == PROMPT and prompt.startswith("-") else argument.replace(PROMPT, prompt)


class _TextDecoder(Decoder):
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
