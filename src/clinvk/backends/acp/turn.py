"""One prompt to a session of an ACP agent, as events."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import msgspec

from clinvk.backends import acp_wire as wire
from clinvk.backends.mcp import SERVER
from clinvk.backends.shared import MessageJoiner, NewText, approval_note, input_paths
from clinvk.types import events
from clinvk.types.errors import AgentFailed, Cancelled
from clinvk.types.interaction import Choice, Interaction
from clinvk.types.request import RunRequest

_STOPS: dict[str, events.StopReason] = {
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "max_turn_requests": "max_turns",
    "refusal": "refusal",
}
_REPLACEMENTS = (("old_string", "new_string"), ("oldString", "newString"))
_USES_FILES = ("read", "edit", "delete", "move", "search", "execute")


class Pending(NamedTuple):
    """A permission request, or a form, that waits for an answer; `scope` is what `allow_session` covers."""

    request: wire.Message
    scope: str = ""


class AcpTurn:
    """The turn of a run, as events.

    Attributes:
        session: the agent's id of the session; empty until the session is open.
        setup: the methods and parameters of the requests that precede the prompt.
        pending: the open requests of the agent, by the id of the interaction.
        called: the ids of the tool calls.
        denied: the ids of the tool calls that were denied.
        is_dropped: the run was interrupted.
        is_prompted: the prompt was sent; earlier updates repeat the history of the session.
        has_history: the agent has repeated at least one message.

    `client_tools` are the names of the client's tools, whose calls the tool bridge reports.
    """

    def __init__(self, run: str, request: RunRequest, session: str, client_tools: Iterable[str] = ()) -> None:
        self.run = run
        self.request = request
        self.session = session
        self.setup: list[tuple[str, dict[str, object]]] = []
        self.pending: dict[str, Pending] = {}
        self.called: set[str] = set()
        self.denied: set[str] = set()
        self.is_dropped = self.is_started = self.is_prompted = self.has_history = False
        self._prose = MessageJoiner(events.TextDelta)
        self._thoughts = MessageJoiner(events.ThinkingDelta)
        self._client_tools = [*client_tools]
        self._tools: dict[str, wire.Tool] = {}
        self._ended: set[str] = set()
        self._used: events.Usage | None = None
        self._context: events.Context | None = None

    def feed(self, update: wire.Update) -> Iterator[events.Event]:
        """Yield the events of a session update."""
        if not self.is_prompted:
            self.has_history = self.has_history or update.session_update.endswith("_message_chunk")
            return
        if update.meta and update.meta.usage:
            self._used = (self._used or events.Usage()) + _usage(update.meta.usage)
        match update.session_update:
            case "agent_message_chunk":
                yield from self._prose.write("".join(update.texts))
            case "agent_thought_chunk" if self.request.thinking:
                yield from self._thoughts.add(NewText("".join(update.texts)))
            case "tool_call" | "tool_call_update":
                yield from self._tool(update)
            case "plan":
                steps = (events.PlanStep(entry.content, entry.status, entry.priority) for entry in update.entries)
                yield events.plan(steps)
            case "usage_update" if update.size:
                self._context = events.Context(update.used, update.size)
            case _:
                pass

    def call(self, update: wire.Tool) -> Iterator[events.ToolCall]:
        """Yield the call of a tool that starts, or needs permission to start."""
        tool = self._merged(update)
        if update.tool_call_id not in self.called:
            self.called.add(update.tool_call_id)
            self._prose.end_message()
            self._thoughts.end_message()
            yield events.ToolCall(update.tool_call_id, self.tool_name(tool), self.tool_input(tool))

    def tool_name(self, tool: wire.Tool) -> str:
        """Return the kind of a tool: the protocol has no names, and titles differ from call to call."""
        return tool.kind or "other"

    def tool_input(self, tool: wire.Tool) -> dict[str, object]:
        """Return the input of a call, with the title, the file and the diff that the agent displays."""
        shown: dict[str, object] = {"title": tool.title} if tool.title else {}
        if tool.locations:
            shown["path"] = tool.locations[0].path
        if isinstance(tool.raw_input, dict):
            shown |= tool.raw_input
        if diff := wire.diff_of(tool.changes):
            shown.setdefault("diff", diff)
        return shown

    def interaction(self, id_: str, update: wire.Tool, choices: tuple[Choice, ...]) -> Interaction:
        """Return the approval that a permission request asks for."""
        tool = self._merged(update)
        name, shown = self.tool_name(tool), self.tool_input(tool)
        command = shown.get("command") if tool.kind == "execute" else None
        own_title = wire.title_of(tool.changes) or ("Run a command" if isinstance(command, str) else "")
        given = tool.raw_input if isinstance(tool.raw_input, dict) and tool.changes else {}
        others = [*_other_edits(given, tool.changes)] if given else []
        facts = ["its input has another edit than the agent shows"] if others else []
        diff = wire.diff_of([*tool.changes, *others])
        if others and "diff" not in given:
            shown["diff"] = diff
        return Interaction(
            id=id_,
            tool=name,
            title=own_title or tool.title or name,
            note=approval_note([tool.title if own_title and tool.title != command else "", *tool.texts], facts),
            input=shown,
            command=command if isinstance(command, str) else None,
            diff=diff or None,
            choices=choices,
        )

    def paths(self, update: wire.Tool) -> tuple[str, ...]:
        """Return the files and directories that a call uses. In the input of other kinds, a path may be anything."""
        tool = self._merged(update)
        given = tool.raw_input if isinstance(tool.raw_input, dict) and tool.kind in _USES_FILES else {}
        return (*(place.path for place in (*(tool.locations or ()), *tool.changes)), *input_paths(given))

    def scope(self, update: wire.Tool) -> str:
        """Return what the answer `allow_session` covers: all edits, or the same action."""
        tool = self._merged(update)
        if tool.kind == "edit":
            return tool.kind
        arguments = tool.raw_input
        if isinstance(arguments, dict):
            arguments = {name: value for name, value in arguments.items() if name != "description"}
        return f"{self.tool_name(tool)} {msgspec.json.encode(arguments or [tool.title, *tool.texts]).decode()}"

    def unfinished(self, calls: Set[str]) -> Iterator[events.ToolResult]:
        """Yield a result for each of the calls that has none: some agents report nothing of a call that was denied."""
        for call_id in sorted(calls - self._ended):
            self._ended.add(call_id)
            yield events.ToolResult(call_id, "not permitted" if call_id in self.denied else "", is_error=True)

    def ended(self, result: wire.Result | None) -> events.Ending:
        """Return the ending of a turn from the response to the prompt."""
        used = _usage(result.usage) if result and result.usage else self._used
        if self.is_dropped or (result and result.stop_reason == "cancelled"):
            return events.RunFailed(Cancelled.code, Cancelled.DEFAULT_MESSAGE, exit_code=1, usage=used)
        if result is None or result.stop_reason not in _STOPS:
            what = f"ended its turn with {result.stop_reason!r}" if result else "gave an answer that makes no sense"
            return events.RunFailed(AgentFailed.code, f"the agent {what}", 1, used)
        return events.RunFinished(_STOPS[result.stop_reason], used, context=self._context)

    def _tool(self, update: wire.Update) -> Iterator[events.Event]:
        """Yield the call once the tool has started, because its input is complete then, and the result."""
        tool = self._merged(update)
        if self._is_client_tool(tool):
            return
        if tool.status != "pending":
            yield from self.call(update)
        if tool.status in ("completed", "failed") and update.tool_call_id not in self._ended:
            self._ended.add(update.tool_call_id)
            yield events.ToolResult(update.tool_call_id, "\n".join(tool.texts), tool.status == "failed")

    def _is_client_tool(self, tool: wire.Tool) -> bool:
        """Return whether a call is one of a client tool: the title has the names of the server and the tool."""
        title = tool.title or ""
        is_named = SERVER in title and any(name in title for name in self._client_tools)
        return is_named and tool.kind in (None, "other", "read")

    def _merged(self, update: wire.Tool) -> wire.Tool:
        """Return a tool call with the fields that an update changes."""
        known = self._tools.get(update.tool_call_id, wire.Tool(status="pending"))
        fields = {name: value for name in wire.Tool.__struct_fields__ if (value := getattr(update, name)) is not None}
        merged = self._tools[update.tool_call_id] = msgspec.structs.replace(known, **fields)
        return merged


def _other_edits(given: Mapping[str, object], changes: Sequence[wire.Piece]) -> Iterator[wire.Piece]:
    """Yield the edits in a tool's input that are not among the changes that the agent displays.

    Interfaces show the diff of an approval instead of the texts in the input.
    """
    path = next(iter(input_paths(given)), "")
    same = [change for change in changes if not path or f"/{change.path}".endswith(f"/{path}")]
    other = wire.Piece("diff", path=path or changes[0].path)
    text = given.get("content")
    if isinstance(text, str) and not any((change.new_text or "").rstrip() == text.rstrip() for change in same):
        yield msgspec.structs.replace(other, new_text=text)
    edits: list[Mapping[str, object]] = [given]
    listed = given.get("edits")
    for each in msgspec.convert(listed, list[object]) if isinstance(listed, list) else ():
        if isinstance(each, dict):
            edits.append(msgspec.convert(each, dict[str, object]))
    for edit in edits:
        for names in _REPLACEMENTS:
            old, new = (text if isinstance(text := edit.get(name), str) else "" for name in names)
            if (old or new) and not any(_has_edit(change, old, new) for change in same):
                yield msgspec.structs.replace(other, old_text=old or None, new_text=new)


def _has_edit(change: wire.Piece, old: str, new: str) -> bool:
    """Return whether a change replaces a text: it has one `old` less and one `new` more."""
    before, after = change.old_text or "", change.new_text or ""
    is_removed = not old or (old in before and after.count(old) < before.count(old) + new.count(old))
    is_added = not new or (new in after and after.count(new) > before.count(new) - old.count(new))
    return is_removed and is_added


def _usage(tokens: wire.Tokens) -> events.Usage:
    input_tokens = max(tokens.input_tokens, tokens.total_tokens - tokens.output_tokens)
    return events.Usage(input_tokens, tokens.output_tokens, tokens.cached_read_tokens)
