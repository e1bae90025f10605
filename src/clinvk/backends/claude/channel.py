"""A `claude -p --input-format=stream-json` that stays, of 2.1.197 to 2.1.332: one conversation, a message a run.

It says nothing before the first message, but for the answer to a control request, so that one can be started ahead.
A line that is no JSON would end it.

It asks for leave (`can_use_tool`) only where `--permission-prompt-tool=stdio` has it do so; without, what nobody
allowed is denied, as in a process of one prompt. Were it to ask all the same, nobody is there to allow it.
"""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends.base import Delivery, NotSpoken, crashed, last_line, parsed
from clinvk.backends.claude import wire
from clinvk.backends.claude.decoder import ClaudeDecoder
from clinvk.backends.claude.flags import INITIALIZE, message
from clinvk.types.events import RunFailed, RunFinished
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

_CONTROL = b'"control_re'
_HEAD = 40
"""Where the type of a line stands."""

_DENIED = "nobody is there to allow it"

PING = b'{"type":"control_request","request_id":"clinvk-ping","request":{"subtype":"ping"}}\n'
"""What it refuses at once, during a turn as well: there is no such request."""

_INTERRUPT = b'{"type":"control_request","request_id":"clinvk-interrupt","request":{"subtype":"interrupt"}}\n'


class _Asked(msgspec.Struct, frozen=True):
    subtype: str = ""


class _Control(msgspec.Struct, frozen=True):
    type: str
    request_id: str = ""
    request: _Asked | None = None


_CONTROLS = msgspec.json.Decoder(_Control)
_ANY: msgspec.json.Decoder[object] = msgspec.json.Decoder()


class ConversationChannel:
    """One process, and one run of it at a time."""

    capacity = 1

    def __init__(self) -> None:
        self._run = ""
        self._decoder = ClaudeDecoder()
        self._last: wire.Result | None = None
        self._speaks = False

    def greet(self) -> bytes:
        """Ask what it answers at once, and has to be ready for."""
        return INITIALIZE

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Give the message. The conversation to go on with is named by the command, or is the one there is."""
        self._run, self._decoder = run, ClaudeDecoder(self._last)
        return message(request)

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Take one line.

        Raises:
            NotSpoken: the first one is no message.
        """
        if not self._speaks:
            if not isinstance(parsed(_ANY, line), dict):
                raise NotSpoken(f"it printed {line[:80].decode(errors='replace')!r}")
            self._speaks = True
        if _CONTROL in line[:_HEAD]:
            yield from _answered(line)
        elif self._run:
            yield from self._told(line)

    def interrupt(self, run: str) -> bytes | None:
        """Give what ends the turn, and the tool that it is using."""
        return _INTERRUPT if run == self._run else None

    def tools_of(self, run: str) -> tuple[str, str] | None:
        """Nothing: an interrupt ends them."""
        return None

    def let_go(self, conversation: str) -> bytes | None:
        """Nothing: what it knows of one keeps nobody from it."""
        return None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Give the ending that the process did not tell.

        Raises:
            NotSpoken: it ended by itself and said nothing.
        """
        if not self._speaks and exit_code < 128:  # above is a signal
            raise NotSpoken(f"it exited with code {exit_code}: {self.complaint(stderr) or 'nothing on stderr'}")
        if self._run:
            run, self._run = self._run, ""
            yield run, self._decoder.closed(exit_code, stderr) if self._speaks else crashed("claude", exit_code, stderr)

    def complaint(self, stderr: bytes) -> str:
        """Give the last line of stderr."""
        return last_line(stderr.decode(errors="replace"))

    def _told(self, line: bytes) -> Iterator[Delivery]:
        run = self._run
        for event in self._decoder.feed(line):
            if isinstance(event, RunFailed) and event.exit_code is None:
                event = msgspec.structs.replace(event, exit_code=1)
            yield run, event
            if isinstance(event, RunFinished | RunFailed):
                self._run = ""
                self._last = self._decoder.result or self._last
                return


def _answered(line: bytes) -> Iterator[bytes]:
    """Answer what it asks for."""
    asked = parsed(_CONTROLS, line)
    if asked is None or asked.type != "control_request" or asked.request is None:
        return
    if asked.request.subtype == "can_use_tool":
        denial = {"behavior": "deny", "message": _DENIED}
        answer: dict[str, object] = {"subtype": "success", "request_id": asked.request_id, "response": denial}
    else:
        why = f"clinvk does not answer {asked.request.subtype}"
        answer = {"subtype": "error", "request_id": asked.request_id, "error": why}
    yield msgspec.json.encode({"type": "control_response", "response": answer}) + b"\n"
