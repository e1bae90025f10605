"""Requests for permission of `gemini --acp`: lines of 0.61.0, shortened."""

import json

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Delivery, Host, Launch
from clinvk.backends.gemini import Gemini
from clinvk.types.choices import SandboxMode
from clinvk.types.errors import NotResumable, Unsupported
from clinvk.types.events import InteractionRequested, PlanStep, Progress, RunStarted, ToolCall, ToolResult
from clinvk.types.interaction import Choice, Interaction, InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

ASK = RunRequest(prompt="hello", backend="gemini", workdir="/p", approval_mode="ask")
SESSION = "415ef562-039d-46ed-9307-64d39380a7e4"
OPTIONS = [
    {"optionId": "proceed_always", "name": "Allow for this session", "kind": "allow_always"},
    {"optionId": "proceed_once", "name": "Allow", "kind": "allow_once"},
    {"optionId": "cancel", "name": "Reject", "kind": "reject_once"},
]
WRITE: dict[str, object] = {
    "toolCallId": "write_file__write_file_1795603260138_0",
    "status": "pending",
    "title": "Writing to w1.txt",
    "content": [{"type": "diff", "path": "/p/w1.txt", "oldText": "y\n", "newText": "x\n", "_meta": {"kind": "modify"}}],
    "locations": [{"path": "/p/w1.txt"}],
    "kind": "edit",
}
SHELL: dict[str, object] = {
    "toolCallId": "run_shell_command__run_shell_command_1795603260269_0",
    "status": "pending",
    "title": "touch /p/b1",
    "content": [{"type": "content", "content": {"type": "text", "text": "[current working directory /p] (d)"}}],
    "locations": [],
    "kind": "execute",
}


def launched(request: RunRequest = ASK, resume: Resume | None = None) -> Launch:
    return Gemini().launch(request, resume, Host())


class Process:
    """A channel whose run has sent its prompt, and its events."""

    def __init__(self) -> None:
        self.paths: tuple[str, ...] = ()
        self.channel = Gemini().channel(launched(), Host())
        self.channel.start("r", ASK, None)
        self.receive({"id": 0, "result": {"protocolVersion": 1}})
        self.receive({"id": 1, "result": {"sessionId": SESSION, "models": {"currentModelId": "m"}}})

    def receive(self, message: dict[str, object]) -> list[Delivery]:
        return [*self.channel.receive(json.dumps(message).encode())]

    def ask(
        self, tool: dict[str, object], options: list[dict[str, str]] = OPTIONS, request_id: int = 7
    ) -> tuple[list[object], list[bytes]]:
        params = {"sessionId": SESSION, "options": options, "toolCall": tool}
        deliveries = self.receive({"id": request_id, "method": "session/request_permission", "params": params})
        events: list[object] = [delivery[1] for delivery in deliveries if isinstance(delivery, tuple)]
        return events, [delivery for delivery in deliveries if isinstance(delivery, bytes)]

    def asked(self, tool: dict[str, object], options: list[dict[str, str]] = OPTIONS) -> Interaction:
        events, sent = self.ask(tool, options)
        assert not sent
        call, requested = events
        assert isinstance(call, ToolCall)
        assert isinstance(requested, InteractionRequested)
        self.paths = requested.paths
        return requested.interaction

    def answer(self, choice: Choice) -> object:
        return json.loads(self.channel.resolve("r", "7", InteractionAnswer(choice=choice)))["result"]["outcome"]


def test_edit_is_asked_about_with_its_diff() -> None:
    asked = Process().asked(WRITE)
    assert (asked.tool, asked.title, asked.command) == ("write_file", "Edit w1.txt", None)
    assert asked.diff == "--- /p/w1.txt\n+++ /p/w1.txt\n@@ -1 +1 @@\n-y\n+x\n"
    assert asked.choices == ("allow", "allow_session", "deny", "deny_and_stop")


def test_new_file_is_shown_as_such() -> None:
    asked = Process().asked({**WRITE, "content": [{"type": "diff", "path": "/p/n", "oldText": "", "newText": "x\n"}]})
    assert (asked.title, asked.diff) == ("Add n", "--- /dev/null\n+++ /p/n\n@@ -0,0 +1 @@\n+x\n")


def test_command_is_asked_about() -> None:
    asked = Process().asked(SHELL)
    assert (asked.tool, asked.command, asked.diff) == ("run_shell_command", "touch /p/b1", None)
    assert (asked.title, asked.accepts_reason) == ("Run a command", False)
    assert asked.note == "[current working directory /p] (d)"


@pytest.mark.parametrize(
    ("choice", "option"),
    [("allow", "proceed_once"), ("allow_session", "proceed_always"), ("deny", "cancel"), ("deny_and_stop", "cancel")],
)
def test_choice_selects_the_option_of_its_kind(choice: Choice, option: str) -> None:
    process = Process()
    process.asked(SHELL)
    assert process.answer(choice) == {"outcome": "selected", "optionId": option}


def test_option_that_would_change_the_settings_is_not_offered() -> None:
    always = [{"optionId": "proceed_always_and_save", "kind": "allow_always"}, *OPTIONS[1:]]
    assert Process().asked(SHELL, always).choices == ("allow", "deny", "deny_and_stop")


@pytest.mark.parametrize(
    ("kind", "paths"), [("edit", {"/p/w1.txt", "/o/x", "/o"}), ("other", {"/p/w1.txt"}), (None, {"/p/w1.txt"})]
)
def test_paths_of_an_action_are_reported(kind: str | None, paths: set[str]) -> None:
    """The path in the input of another tool may be the path of an address."""
    process = Process()
    process.asked({**WRITE, "kind": kind, "rawInput": {"file_path": "/o/x", "cwd": "/o"}})
    assert {*process.paths} == paths


def test_denial_without_an_option_cancels() -> None:
    process = Process()
    process.asked(SHELL, OPTIONS[:2])
    assert process.answer("deny") == {"outcome": "cancelled"}


def test_edits_of_a_session_are_asked_about_once() -> None:
    """The CLI cannot allow all edits in an untrusted folder."""
    process = Process()
    process.asked(WRITE)
    assert process.answer("allow_session") == {"outcome": "selected", "optionId": "proceed_once"}
    _, (sent,) = process.ask(WRITE)
    assert json.loads(sent)["result"]["outcome"]["optionId"] == "proceed_once"
    assert process.asked({**SHELL, "toolCallId": "other__1"})


def test_result_of_a_denied_tool_is_reported() -> None:
    process = Process()
    process.asked(WRITE)
    process.answer("deny")
    chunk = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "Done."}}
    events = process.receive({"method": "session/update", "params": {"sessionId": SESSION, "update": chunk}})
    assert events[0] == ("r", ToolResult(str(WRITE["toolCallId"]), "not permitted", is_error=True))


def test_plan_of_the_agent_is_progress_with_all_steps() -> None:
    entries = [{"content": "one", "priority": "high", "status": "completed"}, {"content": "two", "status": "pending"}]
    update = {"sessionUpdate": "plan", "entries": entries}
    process = Process()
    (planned,) = process.receive({"method": "session/update", "params": {"sessionId": SESSION, "update": update}})
    steps = (PlanStep("one", "completed", "high"), PlanStep("two"))
    assert planned == ("r", Progress("plan", "1/2 done; next: two", steps))


def test_interrupt_withdraws_what_is_asked() -> None:
    process = Process()
    process.asked(WRITE)
    sent = process.channel.interrupt("r") or b""
    cancel, withdrawn = [json.loads(line) for line in sent.splitlines()]
    assert cancel["method"] == "session/cancel"
    assert (withdrawn["id"], withdrawn["result"]) == (7, {"outcome": {"outcome": "cancelled"}})
    assert process.channel.resolve("r", "7", InteractionAnswer(choice="allow")) == b""
    _, (late,) = process.ask(SHELL, request_id=8)
    assert json.loads(late)["result"] == {"outcome": {"outcome": "cancelled"}}


def test_run_that_asks_uses_the_protocol_and_keeps_plan_mode_closed() -> None:
    own, kept = launched(), launched().warm
    assert kept
    for launch in (own, kept):
        assert launch.asks
        assert "--acp" in launch.argv
        assert b"exit_plan_mode" in launch.files["limits.toml"]
        assert "grants.toml" not in launch.files
    assert own.ping == b""


@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
def test_sandboxed_run_asks_nothing(sandbox: SandboxMode) -> None:
    assert launched(replace(ASK, sandbox_mode=sandbox)) == launched(
        replace(ASK, sandbox_mode=sandbox, approval_mode="default")
    )


def test_allowed_tools_that_need_approval_are_asked_about() -> None:
    rules = launched(replace(ASK, allowed_tools=("read_file", "run_shell_command"))).files["limits.toml"].decode()
    assert 'toolName = ["read_file"]\ndecision = "allow"' in rules
    assert 'toolName = ["run_shell_command"]\ndecision = "ask_user"' in rules


@pytest.mark.parametrize(
    "request_", [replace(ASK, prompt="$x"), replace(ASK, prompt="/x", literal=True, ephemeral=True)]
)
def test_prompt_that_would_be_a_command_is_refused(request_: RunRequest) -> None:
    with pytest.raises(Unsupported, match="prompt"):
        launched(request_)


def test_conversation_of_another_process_is_not_resumed() -> None:
    resume = Resume(SESSION)
    channel = Gemini().channel(launched(resume=resume), Host())
    with pytest.raises(NotResumable):
        channel.start("r", ASK, resume)
    with pytest.raises(Unsupported):
        launched(resume=Resume(SESSION, fork=True))


def test_run_has_started_before_it_asks() -> None:
    process = Process.__new__(Process)
    process.channel = Gemini().channel(launched(), Host())
    process.channel.start("r", ASK, None)
    process.receive({"id": 0, "result": {"protocolVersion": 1}})
    started, _ = process.receive({"id": 1, "result": {"sessionId": SESSION}})
    assert started == ("r", RunStarted(None, SESSION))


def test_late_request_of_an_ended_run_is_not_asked_of_another_run() -> None:
    process = Process()
    process.receive({"id": 2, "result": {"stopReason": "end_turn"}})
    process.channel.start("r2", ASK, None)
    process.receive({"id": 3, "result": {"sessionId": "another"}})
    events, (sent,) = process.ask(WRITE)
    assert not events
    assert json.loads(sent)["result"] == {"outcome": {"outcome": "cancelled"}}
