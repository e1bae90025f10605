"""The protocol with a long-lived `claude -p --input-format=stream-json` (2.1.197 to 2.1.332).

A process holds one conversation, and each run sends one message. Before the first message, the process prints only
answers to control requests, so a process can be started ahead of its prompt. A line on stdin that is not JSON would end
the process.

Claude Code asks for permission (`can_use_tool`) only with `--permission-prompt-tool=stdio`, which belongs to approval
mode `ask`. Without the flag, every action that is not allowed is denied, as in a one-shot process. The channel denies
any request for permission that arrives nevertheless.

The client's tools are an SDK server: MCP messages inside control requests. Claude Code asks for the list of tools once
and sends every call with the id that the model chose. The answer to a call may come at any later time; Claude Code has
no time limit for SDK servers.
"""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends.base import Channel, Delivery
from clinvk.backends.claude import wire
from clinvk.backends.claude.approvals import Approvals, PermissionRequest, control_response, denial, success
from clinvk.backends.claude.decoder import ClaudeDecoder
from clinvk.backends.claude.flags import initialize, message
from clinvk.backends.mcp import SERVER, McpMessage, ToolServer, call_result
from clinvk.backends.shared import decode_line
from clinvk.types.events import AwaitingTools, RunFailed, RunFinished
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import ClientTool, RunRequest, ToolOutput

_CONTROL = b'"control_re'
_HEAD = 40
"""Number of bytes at the start of a line that contain the type."""

_DENIED = "nobody is there to allow it"

_RESERVED_NAMES = ("ToolSearch", "StructuredOutput")
"""Names of tools that Claude Code does not offer, or whose calls it does not pass on."""

_INTERRUPT = b'{"type":"control_request","request_id":"clinvk-interrupt","request":{"subtype":"interrupt"}}\n'


class _ControlRequest(PermissionRequest, frozen=True):
    message: McpMessage = McpMessage()


class _Control(msgspec.Struct, frozen=True):
    type: str
    request_id: str = ""
    request: _ControlRequest | None = None


_CONTROLS = msgspec.json.Decoder(_Control)


class SdkServer(ToolServer):
    """The server of the client's tools of one process, whose messages come inside control requests."""

    def __init__(self, tools: tuple[ClientTool, ...]) -> None:
        super().__init__(tools, lambda name: f"{SERVER}_{name}" if name in _RESERVED_NAMES else name)
        self._waiting: dict[str, tuple[str, int | str | None]] = {}

    def is_waiting(self, call_id: str) -> bool:
        """Return whether Claude Code waits for the output of a call."""
        return call_id in self._waiting

    def receive(self, request_id: str, message: McpMessage) -> Iterator[bytes]:
        """Yield the answer to a message; a call is answered later."""
        if message.is_call:
            self._waiting[str(message.params.meta.get("claudecode/toolUseId"))] = request_id, message.id
        else:  # notifications must be answered too
            yield _mcp_answer(request_id, 0 if message.id is None else message.id, self.result(message))

    def answer(self, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        return _mcp_answer(*self._waiting.pop(output.call_id), call_result(output))


def _mcp_answer(request_id: str, id_: int | str | None, result: dict[str, object]) -> bytes:
    return success(request_id, {"mcp_response": {"jsonrpc": "2.0", "id": id_, "result": result}})


class ConversationChannel(Channel):
    """The channel of a long-lived process, with one run at a time. Each run begins with the warning, if any."""

    def __init__(
        self, warning: str = "", tools: tuple[ClientTool, ...] = (), approvals: Approvals | None = None
    ) -> None:
        """Without `approvals`, requests for permission are denied."""
        self._run = ""
        self._tools = SdkServer(tools)
        self._is_initialized = False
        self._warning = warning
        self._approvals = approvals
        self._decoder = ClaudeDecoder()
        self._last: wire.Result | None = None

    def greet(self) -> bytes:
        """Return a request that the process answers as soon as its startup is complete."""
        self._is_initialized = True
        return initialize(bool(self._tools.names))

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Return the message. A conversation to resume is named by the command line, or already open in the process."""
        asked: set[str] = set()
        if self._approvals:
            self._approvals.calls = asked
        self._run, self._decoder = run, ClaudeDecoder(self._last, self._warning, self._tools.names, asked)
        initializes = self._tools.names and not self._is_initialized
        return self.greet() + message(request) if initializes else message(request)

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Parse one line of stdout and yield events of the run, or answers for stdin."""
        if _CONTROL in line[:_HEAD]:
            yield from self._control_answer(line)
        elif self._run:
            yield from self._events(line)
        if self._decoder.asks_client and all(map(self._tools.is_waiting, self._decoder.asks_client)):
            self._decoder.asks_client = frozenset()
            yield self._run, AwaitingTools(self._decoder.usage)

    def answer(self, run: str, output: ToolOutput) -> bytes:
        """Return the answer to the call of a client tool."""
        return self._tools.answer(output)

    def resolve(self, run: str, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the answer to a request for permission."""
        return self._approvals.resolve(request_id, answer) if self._approvals else b""

    def interrupt(self, run: str) -> bytes | None:
        """Return the request that ends the turn and a running tool."""
        return _INTERRUPT if run == self._run else None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Yield the ending of the open run, if any."""
        if self._run:
            run, self._run = self._run, ""
            yield run, self._decoder.closed(exit_code, stderr)

    def _events(self, line: bytes) -> Iterator[Delivery]:
        run = self._run
        for event in self._decoder.feed(line):
            if isinstance(event, RunFailed) and event.exit_code is None:
                event = msgspec.structs.replace(event, exit_code=1)
            yield run, event
            if isinstance(event, RunFinished | RunFailed):
                self._run = ""
                self._last = self._decoder.result or self._last
                return

    def _control_answer(self, line: bytes) -> Iterator[Delivery]:
        """Yield the answer to a control request, or what Claude Code asks its user."""
        control = decode_line(_CONTROLS, line)
        if control and control.type == "control_cancel_request":
            if self._approvals and (event := self._approvals.cancel(control.request_id)):
                yield self._run, event
            return
        if control is None or control.type != "control_request" or control.request is None:
            return
        if control.request.subtype == "mcp_message":
            yield from self._tools.receive(control.request_id, control.request.message)
            return
        if control.request.subtype != "can_use_tool":
            why = f"clinvk does not answer {control.request.subtype}"
            yield control_response({"subtype": "error", "request_id": control.request_id, "error": why})
        elif self._approvals and self._run:
            yield self._run, self._approvals.receive(control.request_id, control.request)
        else:
            yield denial(control.request_id, _DENIED)
