"""Approvals and questions of `codex app-server`: lines of 0.169.0 and 0.171.0, shortened, and handwritten lines."""

import json

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Delivery, Host, Launch
from clinvk.backends.codex import Codex
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.events import InteractionRequested, InteractionResolved, ToolResult
from clinvk.types.interaction import Interaction, InteractionAnswer
from clinvk.types.interaction_text import subject
from clinvk.types.request import RunRequest

ASK = RunRequest(prompt="hello", backend="codex", workdir="/p", approval_mode="ask")
THREAD = "01a2124a-7b2f-7be2-ad31-f116556b8619"
TURN = "01a2124a-7b46-7832-85cd-b9ef0e595628"
SUBAGENT = "01a2124a-0000-7be2-ad31-f116556b8619"
ALLOW = InteractionAnswer(choice="allow")
ALLOW_SESSION = InteractionAnswer(choice="allow_session")
DENY = InteractionAnswer(choice="deny")

COMMAND: dict[str, object] = {
    "kind": "command",
    "itemId": "call_13a157198137",
    "reason": "please",
    "command": "/bin/bash -lc 'touch /p/b'",
    "cwd": "/p",
    "commandActions": [{"type": "unknown", "command": "touch /p/b"}],
    "availableDecisions": ["accept", {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["touch"]}}, "cancel"],
}
MCP_CALL: dict[str, object] = {
    "serverName": "t",
    "mode": "form",
    "_meta": {
        "codex_approval_kind": "mcp_tool_call",
        "persist": ["session", "always"],
        "tool_name": "writer",
        "tool_params": {"path": "/p/c"},
    },
    "message": 'Allow the t MCP server to run tool "writer"?',
    "requestedSchema": {"type": "object", "properties": {}},
}
FORM: dict[str, object] = {
    "serverName": "t",
    "mode": "form",
    "message": "Your order?",
    "requestedSchema": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "The name"},
            "count": {"type": "integer"},
            "gift": {"type": "boolean", "title": "A gift"},
            "size": {"type": "string", "oneOf": [{"const": "l", "title": "Large"}]},
            "extras": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}},
        },
    },
}


class Process:
    """A channel whose run has started a turn, and its output."""

    def __init__(self, request: RunRequest = ASK) -> None:
        self.channel = Codex().channel(Codex().launch(request, None, Host(env={"HOME": "/h"})), Host())
        self.channel.start("r", request, None)
        self.deliveries: list[Delivery] = []
        self.paths: tuple[str, ...] = ()
        self.receive({"id": 0, "result": {}})
        self.receive({"id": 1, "result": {"thread": {"id": THREAD}, "model": "m"}})
        self.receive({"id": 2, "result": {"turn": {"id": TURN, "status": "inProgress"}}})
        self.notify("turn/started", turn={"id": TURN, "rootTurnId": TURN})
        self.deliveries.clear()

    def receive(self, message: dict[str, object]) -> None:
        self.deliveries += self.channel.receive(json.dumps(message).encode())

    def notify(self, method: str, thread: str = THREAD, **params: object) -> None:
        self.receive({"method": method, "params": {"threadId": thread, "turnId": TURN, **params}})

    def ask(self, method: str, params: dict[str, object], thread: str = THREAD) -> Interaction:
        """Receive the request 0 to the user and return the interaction."""
        self.receive({"method": method, "id": 0, "params": {"threadId": thread, "turnId": TURN, **params}})
        delivery = self.deliveries.pop()
        assert isinstance(delivery, tuple)
        assert delivery[0] == "r"
        assert isinstance(delivery[1], InteractionRequested)
        self.paths = delivery[1].paths
        return delivery[1].interaction

    def answer(self, answer: InteractionAnswer) -> object:
        """Answer the request 0 and return the result."""
        response = json.loads(self.channel.resolve("r", "0", answer))
        assert response["id"] == 0
        return response["result"]


@pytest.mark.parametrize(
    ("choice", "decision"),
    [("allow", "accept"), ("allow_session", "acceptForSession"), ("deny", "decline"), ("deny_and_stop", "cancel")],
)
def test_command_is_asked_about_and_decided(choice: str, decision: str) -> None:
    process = Process()
    asked = process.ask("item/commandExecution/requestApproval", COMMAND)
    assert (asked.kind, asked.tool, asked.command, asked.workdir) == (
        "approval",
        "command_execution",
        "/bin/bash -lc 'touch /p/b'",
        "/p",
    )
    assert (asked.title, asked.note, asked.accepts_reason) == (
        "Run a command",
        "please\nclinvk: without a sandbox",
        False,
    )
    assert process.paths == ("/p",)
    assert choice in asked.choices
    assert process.answer(InteractionAnswer(choice=choice)) == {"decision": decision}  # type: ignore[arg-type]


def test_command_that_cannot_be_accepted_can_only_be_denied() -> None:
    asked = Process().ask("item/commandExecution/requestApproval", {**COMMAND, "availableDecisions": ["cancel"]})
    assert asked.choices == ("deny", "deny_and_stop")


def test_access_to_a_host_is_asked_about() -> None:
    context = {"networkApprovalContext": {"host": "example.com", "protocol": "https"}}
    asked = Process().ask("item/commandExecution/requestApproval", {"itemId": "x", **context})
    assert (asked.title, asked.input["host"]) == ("Access example.com", "example.com")


@pytest.mark.parametrize(
    ("kind", "title", "diff", "shown"),
    [
        ("add", "Add a", "x\n", "@@ -0,0 +1 @@\n+x\n"),
        ("delete", "Delete a", "x\n", "@@ -1 +0,0 @@\n-x\n"),
        ("update", "Edit a", "@@ -1 +1 @@\n-x\n+y\n", "@@ -1 +1 @@\n-x\n+y\n"),
    ],
)
@pytest.mark.parametrize("thread", [THREAD, SUBAGENT])
def test_edit_of_the_agent_or_a_subagent_is_asked_about_with_its_diff(
    thread: str, kind: str, title: str, diff: str, shown: str
) -> None:
    process = Process()
    process.notify("turn/started", SUBAGENT, turn={"id": "t2", "rootTurnId": TURN})
    change = {"path": "/p/a", "kind": {"type": kind}, "diff": diff}
    item = {"type": "fileChange", "id": "call_64d8", "changes": [change], "status": "inProgress"}
    process.notify("item/started", thread, item=item)
    request: dict[str, object] = {"itemId": "call_64d8", "reason": None, "grantRoot": None}
    asked = process.ask("item/fileChange/requestApproval", request, thread)
    assert (asked.tool, asked.title) == ("file_change", title)
    assert subject(asked) == "Edit /p/a"
    assert asked.diff == f"--- {'/dev/null' if kind == 'add' else '/p/a'}\n+++ /p/a\n{shown}"
    assert {*process.paths} == {"/p/a"}
    assert process.answer(DENY) == {"decision": "decline"}
    process.notify("item/completed", THREAD, item={**item, "status": "declined"})
    result = process.deliveries[-1]
    assert isinstance(result, tuple)
    assert result[1] == ToolResult("call_64d8", "declined", is_error=True)


def test_edit_that_moves_its_file_shows_where_to() -> None:
    process = Process()
    change = {"path": "/p/a", "kind": {"type": "update", "move_path": "/o/b"}, "diff": "@@ -1 +1 @@\n-x\n+y\n"}
    process.notify("item/started", item={"type": "fileChange", "id": "call_1", "changes": [change]})
    asked = process.ask("item/fileChange/requestApproval", {"itemId": "call_1"})
    assert asked.title == "Move a to /o/b"
    assert asked.diff == "--- /p/a\n+++ /o/b\n@@ -1 +1 @@\n-x\n+y\n"
    assert process.paths == ("/p/a", "/o/b")


@pytest.mark.parametrize("method", ["item/fileChange/requestApproval", "item/commandExecution/requestApproval"])
def test_action_that_cannot_be_shown_is_declined(method: str) -> None:
    """The item is unknown, or the request has no command."""
    process = Process()
    process.receive({"method": method, "id": 0, "params": {"threadId": THREAD, "itemId": "unknown"}})
    assert process.deliveries == [b'{"id":0,"result":{"decision":"decline"}}\n']


def test_permissions_are_granted_for_the_turn_or_the_session() -> None:
    permissions = {"network": {"enabled": True}}
    results: list[tuple[InteractionAnswer, object]] = [
        (ALLOW, {"permissions": permissions, "scope": "turn"}),
        (ALLOW_SESSION, {"permissions": permissions, "scope": "session"}),
        (DENY, {"permissions": {}, "scope": "turn"}),
    ]
    for answer, result in results:
        process = Process()
        asked = process.ask("item/permissions/requestApproval", {"itemId": "x", "permissions": permissions})
        assert asked.input == permissions
        assert process.answer(answer) == result


def test_call_of_an_mcp_tool_is_asked_about() -> None:
    results: list[tuple[InteractionAnswer, object]] = [
        (ALLOW, {"action": "accept", "content": {}, "_meta": None}),
        (ALLOW_SESSION, {"action": "accept", "content": {}, "_meta": {"persist": "session"}}),
        (DENY, {"action": "decline"}),
    ]
    for answer, result in results:
        process = Process()
        asked = process.ask("mcpServer/elicitation/request", MCP_CALL)
        assert (asked.kind, asked.tool, asked.input) == ("approval", "mcp__t__writer", {"path": "/p/c"})
        assert process.answer(answer) == result


def test_form_of_an_mcp_server_is_a_question() -> None:
    process = Process()
    asked = process.ask("mcpServer/elicitation/request", FORM)
    assert (asked.kind, asked.title) == ("question", "t: Your order?")
    assert [(field.id, field.label, field.multiple) for field in asked.fields] == [
        ("name", "The name", False),
        ("count", "count", False),
        ("gift", "A gift", False),
        ("size", "size", False),
        ("extras", "extras", True),
    ]
    assert [[option.value for option in field.options] for field in asked.fields] == [
        [],
        [],
        ["true", "false"],
        ["l"],
        ["x", "y"],
    ]
    answers: dict[str, str | list[str]] = {"name": "", "count": "2", "gift": "true", "size": "l", "extras": ["x"]}
    content = {"count": 2, "gift": True, "size": "l", "extras": ["x"]}
    result = process.answer(InteractionAnswer(choice="answer", answers=answers))
    assert result == {"action": "accept", "content": content, "_meta": None}


def test_address_of_an_mcp_server_is_a_question_without_fields() -> None:
    asked = Process().ask(
        "mcpServer/elicitation/request",
        {"serverName": "t", "mode": "url", "message": "Log in:", "url": "https://t.example", "elicitationId": "e"},
    )
    assert (asked.title, asked.fields) == ("t: Log in: https://t.example", ())


def test_question_of_the_model_is_answered() -> None:
    question = {
        "id": "q",
        "header": "Colour",
        "question": "Which colour?",
        "isOther": True,
        "options": [{"label": "red", "description": "like blood"}],
    }
    process = Process()
    asked = process.ask("item/tool/requestUserInput", {"itemId": "x", "isBlocking": True, "questions": [question]})
    assert (asked.kind, asked.title, asked.fields[0].other) == ("question", "Which colour?", True)
    assert asked.fields[0].options[0].value == "red"
    answered = InteractionAnswer(choice="answer", answers={"q": "red"})
    assert process.answer(answered) == {"answers": {"q": {"answers": ["red"]}}}


def test_secret_question_is_not_asked() -> None:
    """Answers are stored."""
    process = Process()
    question = {"id": "q", "header": "", "question": "Password?", "isSecret": True}
    process.receive(
        {"method": "item/tool/requestUserInput", "id": 0, "params": {"threadId": THREAD, "questions": [question]}}
    )
    assert process.deliveries == [b'{"id":0,"result":{"answers":{}}}\n']


def test_withdrawn_request_is_reported_and_not_answered() -> None:
    process = Process()
    process.ask("item/commandExecution/requestApproval", COMMAND)
    process.notify("serverRequest/resolved", requestId=0)
    assert process.deliveries == [("r", InteractionResolved(Interaction(id="0")))]
    assert process.channel.resolve("r", "0", ALLOW) == b""


def test_resolution_after_an_answer_is_not_reported() -> None:
    process = Process()
    process.ask("item/commandExecution/requestApproval", COMMAND)
    process.answer(ALLOW)
    process.notify("serverRequest/resolved", requestId=0)
    assert process.deliveries == []


@pytest.mark.parametrize("thread", ["", "of-another", SUBAGENT])
def test_request_of_an_unknown_thread_is_declined(thread: str) -> None:
    process = Process()
    process.receive(
        {"method": "item/commandExecution/requestApproval", "id": 0, "params": {"threadId": thread, **COMMAND}}
    )
    assert process.deliveries == [b'{"id":0,"result":{"decision":"decline"}}\n']


@pytest.mark.parametrize("mode", ["openai/form", "openai/userVerification"])
def test_request_that_only_a_program_of_openai_can_answer_is_cancelled(mode: str) -> None:
    process = Process()
    params = {"threadId": THREAD, "serverName": "t", "mode": mode, "message": "m"}
    process.receive({"method": "mcpServer/elicitation/request", "id": 0, "params": params})
    assert process.deliveries == [b'{"id":0,"result":{"action":"cancel"}}\n']


@pytest.mark.parametrize("approval", ["default", "auto", "none"])
def test_other_approval_modes_ask_nothing(approval: ApprovalMode) -> None:
    process = Process(replace(ASK, approval_mode=approval))
    process.receive(
        {"method": "item/commandExecution/requestApproval", "id": 0, "params": {"threadId": THREAD, **COMMAND}}
    )
    assert process.deliveries == [b'{"id":0,"result":{"decision":"decline"}}\n']


def launched(sandbox: SandboxMode, *extra: str) -> Launch:
    return Codex().launch(replace(ASK, sandbox_mode=sandbox, extra=extra), None, Host(env={"HOME": "/h"}))


@pytest.mark.parametrize(("sandbox", "policy"), [("default", "on-request"), ("full", "untrusted")])
def test_run_that_asks_has_its_policy(sandbox: SandboxMode, policy: str) -> None:
    launch = launched(sandbox)
    assert launch.warm
    for params in (launch.session_params, launch.warm.session_params):
        assert (params["approvalPolicy"], params["approvalsReviewer"]) == (policy, "user")


@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
def test_sandbox_is_never_left(sandbox: SandboxMode) -> None:
    launch = launched(sandbox)
    assert launch.session_params["approvalPolicy"] == "never"
    assert "approvalsReviewer" not in launch.session_params
