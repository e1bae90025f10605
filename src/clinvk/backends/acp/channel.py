"""The channel of an ACP agent: the Agent Client Protocol, version 1 (https://agentclientprotocol.com).

A process serves one run at a time unless a subclass has more `capacity`. The permission requests of sub-agents, which
have sessions of their own, belong to the only run.

A conversation of another process is opened with `session/load`, because the history that the agent repeats proves that
the agent knows the conversation; only without `session/load` is `session/resume` used. A load without history fails:
some agents start a new conversation under the old id.

clinvk sets the mode `default` if the agent has such a mode, and answers each permission request for one action only:
some agents write the answer `allow_always` into their settings. The channel itself remembers `allow_session`.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from clinvk.backends import acp_wire as wire
from clinvk.backends.acp.turn import AcpTurn, Pending
from clinvk.backends.base import Delivery, Launch, ProtocolNotSupported
from clinvk.backends.jsonrpc import Failure, RpcChannel
from clinvk.backends.mcp import BridgedServer, Form
from clinvk.backends.refusals import mcp_refusal
from clinvk.backends.shared import base64_data, crash_ending, not_logged_in, plain_prompt
from clinvk.types import errors
from clinvk.types.events import Ending, InteractionRequested, Progress, RunFailed, RunStarted
from clinvk.types.interaction import APPROVAL_CHOICES, QUESTION_CHOICES, Choice, Interaction, InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest, ToolOutput

_VERSION = 1
_CAPABILITIES: dict[str, object] = {"elicitation": {"form": {}}}
_WITHDRAWN: dict[str, dict[str, object]] = {
    "session/request_permission": wire.CANCELLED,
    "elicitation/create": {"action": "cancel"},
}
"""The answers to requests that nobody will answer."""

_LOGIN_REQUIRED = -32000
_STATUS = re.compile(r"([45]\d\d) |-?\d+ (?:[\w ]+: )?([45]\d\d)\b")
"""The HTTP status of the model API, as the code of an error or at the beginning of its text."""
_OPENING = ("session/new", "session/load", "session/resume")
_DEFAULT_MODE = "default"
_NO_WIDTH = "\u200b"


class Call(NamedTuple):
    """A request to the agent: the method, and the turn that waits for the response."""

    turn: AcpTurn
    method: str


class AcpChannel(RpcChannel[wire.Params, wire.Result, Call, AcpTurn]):
    """The channel of one process. The launch has the parameters of `session/new`; `login` says how to log in."""

    configures = True
    """Whether requests set the mode and the model of a session; otherwise arguments of the process do."""

    turn_type: type[AcpTurn] = AcpTurn

    def __init__(self, name: str, launch: Launch, login: str) -> None:
        super().__init__(wire.MESSAGES, {"protocolVersion": _VERSION, "clientCapabilities": _CAPABILITIES})
        self._name = name
        self._session_params = launch.session_params
        self._login = login
        self._tools = BridgedServer(launch.client_tools)
        self._agent = wire.Result()
        self._sessions: dict[str, wire.Result] = {}
        self._commands: dict[str, tuple[str, ...]] = {}
        self._allowed: set[tuple[str, str]] = set()

    def login_hint(self) -> str:
        """Return how to log in: as the preset says, else as the agent says."""
        return self._login or "; ".join(method.description or method.name for method in self._agent.auth_methods)

    def interrupt(self, run: str) -> bytes | None:
        """Return the request that ends the turn of a run, then the answers to the open requests of the agent."""
        turn = self._open.get(run)
        if turn is None:
            return None
        turn.is_dropped = True
        cancel: dict[str, object] = {"method": "session/cancel", "params": {"sessionId": turn.session}}
        answers = b"".join(self._withdraw(pending.request) for pending in turn.pending.values())
        turn.pending.clear()
        return (self._encode(cancel) if turn.is_prompted else b"") + answers

    def receive_tool_message(self, line: bytes) -> Iterator[Delivery]:
        """Answer a message to the MCP server, or yield a call and, after the last call, that the agent waits."""
        for run in self._open:
            yield from self._tools.receive(run, line)

    def answer(self, run: str, output: ToolOutput) -> bytes:
        """Return the answer to a call of a client tool."""
        return self._tools.answer(output)

    def resolve(self, run: str, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the answer to a permission request or a form; empty if the request is no longer open."""
        turn = self._open.get(run)
        pending = turn.pending.pop(request_id, None) if turn else None
        if turn is None or pending is None or pending.request.params is None:
            return b""
        if form := pending.request.params.requested_schema:
            return self._answer(pending.request, form.result(answer))
        if answer.choice == "allow_session":
            self._allowed.add((turn.session, pending.scope))
        return self._decide(turn, pending.request, answer.choice)

    def _begin(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        handle = resume.handle if resume else ""
        turn = self._open[run] = self.turn_type(run, request, handle, self._tools.names)
        return self._open_session(turn) if self._speaks else b""

    def _initialized(self, message: wire.Message) -> bytes:
        ready = super()._initialized(message)
        assert message.result
        if message.result.protocol_version != _VERSION:
            raise ProtocolNotSupported(f"it speaks version {message.result.protocol_version} of ACP, not {_VERSION}")
        self._agent = message.result
        return ready + b"".join(map(self._open_session, self._open.values()))

    def _lost(self, run: AcpTurn, exit_code: int, stderr: bytes) -> Ending:
        return crash_ending(self._name, exit_code, stderr)

    def _open_session(self, turn: AcpTurn) -> bytes:
        """Return the request that opens the session of a turn, or the prompt if the process holds the session.

        An agent that cannot open a session of another process is asked all the same, and its refusal is reported.
        """
        if not turn.session:
            return self._request(turn, "session/new", self._session_params)
        if turn.session in self._sessions:
            return self._configure(turn)
        method = "session/load" if self._agent.agent_capabilities.load_session else "session/resume"
        return self._request(turn, method, {"sessionId": turn.session, **self._session_params})

    def _notified(self, message: wire.Message) -> Iterator[Delivery]:
        params = message.params or wire.Params()
        turns = [*self._open.values()]
        turn = next((turn for turn in turns if turn.session == params.session_id), None)
        if params.update and params.update.session_update == "available_commands_update":
            self._commands[params.session_id] = tuple(command.name for command in params.update.available_commands)
        if message.id is not None:
            is_of_sub_agent = len(turns) == 1 and params.session_id not in self._sessions
            yield from self._requested(turns[0] if is_of_sub_agent else turn, message, params)
        elif turn and params.update:
            if turn.is_prompted:
                yield from self._report_start(turn)
            for event in turn.feed(params.update):
                yield turn.run, event

    def _requested(self, turn: AcpTurn | None, message: wire.Message, params: wire.Params) -> Iterator[Delivery]:
        """Answer a request of the agent, or ask the user. Nobody is asked before a prompt and after an interrupt."""
        if turn and turn.is_prompted and not turn.is_dropped:
            yield from self._report_start(turn)
            if params.tool_call and message.method == "session/request_permission":
                yield from self._permission(turn, message, params.tool_call)
                return
            form = params.requested_schema if message.method == "elicitation/create" else None
            if form and self._permits(turn.request, "") is None:
                yield self._form(turn, message, params.message, form)
                return
        yield self._withdraw(message)

    def _permission(self, turn: AcpTurn, message: wire.Message, tool: wire.Tool) -> Iterator[Delivery]:
        for event in turn.call(tool):
            yield turn.run, event
        interaction = turn.interaction(_text(message.id), tool, self._choices(message))
        scope = turn.scope(tool)
        is_allowed = self._permits(turn.request, interaction.tool)
        if is_allowed is None and not (is_allowed := (turn.session, scope) in self._allowed):
            turn.pending[interaction.id] = Pending(message, scope)
            yield turn.run, InteractionRequested(interaction, turn.paths(tool))
            return
        if not is_allowed:
            yield turn.run, Progress("denied", f"1 action was denied: {interaction.title}")
        yield self._decide(turn, message, "allow" if is_allowed else "deny")

    def _form(self, turn: AcpTurn, message: wire.Message, title: str, form: Form) -> Delivery:
        question = Interaction(
            id=_text(message.id), kind="question", title=title, fields=form.questions, choices=QUESTION_CHOICES
        )
        turn.pending[question.id] = Pending(message)
        return turn.run, InteractionRequested(question)

    def _withdraw(self, request: wire.Message) -> bytes:
        """Answer a request that nobody will answer; refuse a request that clinvk does not know."""
        return self._answer(request, _WITHDRAWN.get(request.method))

    def _permits(self, request: RunRequest, kind: str) -> bool | None:
        """Return whether a tool may run; None if the user decides. A sandboxed agent may act within the sandbox."""
        if not request.own_tools:
            return False
        if request.approval_mode == "ask":
            return None
        if request.approval_mode == "none" or request.sandbox_mode == "workspace":
            return True
        return request.approval_mode == "auto" and kind == "edit" and request.sandbox_mode != "read-only"

    def _option(self, choice: Choice, request: wire.Message) -> wire.PermissionOption | None:
        """Return the option of a permission request for a choice, which holds once; None if there is none."""
        kind = "allow_once" if choice.startswith("allow") else "reject_once"
        options = request.params.options if request.params else ()
        return next((option for option in options if option.kind == kind), None)

    def _choices(self, request: wire.Message) -> tuple[Choice, ...]:
        """Return the choices that the agent can honour; any request can be denied."""
        return tuple(each for each in APPROVAL_CHOICES if each.startswith("deny") or self._option(each, request))

    def _decide(self, turn: AcpTurn, request: wire.Message, choice: Choice) -> bytes:
        """Answer a permission request; cancel the request if it has no option for the choice."""
        if choice.startswith("deny") and request.params and request.params.tool_call:
            turn.denied.add(request.params.tool_call.tool_call_id)
        return self._answer(request, wire.chosen(self._option(choice, request)))

    def _answered(self, call: Call, message: wire.Message) -> Iterator[Delivery]:
        turn, result = call.turn, message.result or wire.Result()
        if turn.run not in self._open:
            return
        if ending := self._ending(call, message):
            yield from self._report_start(turn)
            for event in turn.unfinished(turn.called):
                yield turn.run, event
            del self._open[turn.run]
            yield turn.run, ending
        elif call.method in _OPENING:
            turn.session = result.session_id or turn.session
            self._sessions[turn.session] = result
            yield from self._report_start(turn)
            yield self._configure(turn)
        else:
            yield self._proceed(turn)

    def _ending(self, call: Call, message: wire.Message) -> Ending | None:
        """Return the ending of a turn if a response ends it; a missing result is that of a successful load."""
        turn, result = call.turn, message.result or wire.Result()
        if turn.is_dropped or (call.method == "session/prompt" and not message.error):
            return turn.ended(message.result)
        if lacking := self._lacking(turn.request, message.error):
            return RunFailed(errors.InvalidRequest.code, lacking, 1)
        if message.error:
            return self._refusal(call, message.error)
        if call.method == "session/new" and not result.session_id:
            return RunFailed(errors.AgentFailed.code, f"{self._name} opened a session without an id", 1)
        if call.method == "session/load" and not turn.has_history:
            return RunFailed(errors.NotResumable.code, f"{self._name} no longer has the history of the conversation", 1)
        return None

    def _lacking(self, request: RunRequest, failure: Failure | None) -> str:
        """Return what the agent cannot accept; empty if nothing. Only a lack of MCP explains a failure."""
        capabilities = self._agent.agent_capabilities
        http = next((server.name for server in request.mcp_servers if server.type == "http"), "")
        if http and not capabilities.mcp_capabilities.http:
            return mcp_refusal(http, f"{self._name} accepts only programs")
        has_images = request.images and not failure and not capabilities.prompt_capabilities.image
        return f"{self._name} accepts no images" if has_images else ""

    def _report_start(self, turn: AcpTurn) -> Iterator[Delivery]:
        if not turn.is_started and turn.session in self._sessions:
            turn.is_started = True
            session = self._sessions[turn.session]
            current = session.models.current_model_id if session.models else None
            if option := _option(session, "model"):
                current = option.current_value if isinstance(option.current_value, str) else None
            wanted = turn.request.model if self.configures else None
            yield turn.run, RunStarted(wanted or current, turn.session, self._commands.get(turn.session, ()))

    def _configure(self, turn: AcpTurn) -> bytes:
        """Set the mode and the model of an open session one after the other; the prompt follows."""
        if not self.configures:
            return self._prompt(turn)
        session, wanted = self._sessions[turn.session], turn.request.model
        models, modes = session.models or wire.Models(), session.modes or wire.Modes()
        if (option := _option(session, "mode")) and _DEFAULT_MODE in (each.value for each in _values(option.options)):
            turn.setup.append(("session/set_config_option", {"configId": option.id, "value": _DEFAULT_MODE}))
        elif _DEFAULT_MODE in (mode.id for mode in modes.available_modes):
            turn.setup.append(("session/set_mode", {"modeId": _DEFAULT_MODE}))
        if wanted and (option := _option(session, "model")):
            values = (each.value for each in _values(option.options) if wanted in (each.value, each.name))
            turn.setup.append(("session/set_config_option", {"configId": option.id, "value": next(values, wanted)}))
        elif wanted:
            ids = (model.model_id for model in models.available_models if wanted in (model.model_id, model.name))
            turn.setup.append(("session/set_model", {"modelId": next(ids, wanted)}))
        return self._proceed(turn)

    def _proceed(self, turn: AcpTurn) -> bytes:
        """Return the next request of the setup, or the prompt."""
        if not turn.setup:
            return self._prompt(turn)
        method, params = turn.setup.pop(0)
        return self._request(turn, method, {"sessionId": turn.session, **params})

    def _refusal(self, call: Call, failure: Failure) -> Ending:
        """Return the ending of a turn whose request was refused."""
        why = failure.text or f"error {failure.code}"
        status = _STATUS.match(f"{failure.code} {why}")
        code = errors.agent_code(int(status[1] or status[2]) if status else None)
        if failure.code == _LOGIN_REQUIRED or code == errors.AgentUnauthenticated.code:
            message = not_logged_in(self._name, self.login_hint() or "log in with it", why)
            return RunFailed(errors.AgentUnauthenticated.code, message, 1)
        match call.method:
            case "session/load" | "session/resume":
                return RunFailed(errors.NotResumable.code, f"{self._name} cannot continue the conversation: {why}", 1)
            case "session/set_model" | "session/set_config_option" | "session/set_mode":
                model = "" if call.turn.setup else call.turn.request.model  # which is set last
                what = f"model {model}" if model else f"mode {_DEFAULT_MODE}"
                return RunFailed(errors.AgentRejected.code, f"{self._name} refused {what}: {why}", 1)
            case _:
                return RunFailed(code, why, 1)

    def _request(self, turn: AcpTurn, method: str, params: dict[str, object]) -> bytes:
        return self._ask(method, params, Call(turn, method))

    def _prompt(self, turn: AcpTurn) -> bytes:
        turn.is_prompted = True
        text = self._prompt_text(turn.request).encode(errors="replace").decode()
        parts: list[object] = [{"type": "text", "text": text}]
        parts += [
            {"type": "image", "mimeType": image.media_type, "data": base64_data(image)} for image in turn.request.images
        ]
        meta: dict[str, object] = {"_meta": turn.request.trace} if turn.request.trace else {}
        return self._request(turn, "session/prompt", {"sessionId": turn.session, "prompt": parts, **meta})

    def _prompt_text(self, request: RunRequest) -> str:
        text = plain_prompt(request)
        is_command = request.literal and text.startswith("/")
        return _NO_WIDTH + text if is_command else text


def _text(request_id: int | str | None) -> str:
    return msgspec.json.encode(request_id).decode()


def _option(session: wire.Result, category: str) -> wire.ConfigOption | None:
    return next((each for each in session.config_options or [] if category in (each.category, each.id)), None)


def _values(options: list[wire.ConfigValue]) -> Iterator[wire.ConfigValue]:
    for option in options:
        yield option
        yield from _values(option.options)
