"""An editor: the client of the Python library of the Agent Client Protocol, which starts `clinvk acp`."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from acp import PROTOCOL_VERSION, Client, spawn_agent_process
from acp.client.connection import ClientSideConnection
from acp.connection import StreamEvent
from acp.interfaces import Agent
from acp.schema import (
    AgentMessageChunk,
    AllowedOutcome,
    DeniedOutcome,
    PermissionOption,
    RequestPermissionResponse,
    TextContentBlock,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
    UserMessageChunk,
)

from acceptance.command import Clinvk


class Editor:
    """Records messages and updates, and chooses an option of each permission request.

    The choice None cancels a request, and `later` waits.
    """

    def __init__(self, choice: str | None = "allow") -> None:
        self.choice = choice
        self.updates: list[object] = []
        self.asked: list[ToolCallUpdate] = []
        self.offered: list[str] = []
        self.traffic: list[StreamEvent] = []

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        self.updates.append(update)

    async def request_permission(
        self, session_id: str, tool_call: ToolCallUpdate, options: list[PermissionOption], **kwargs: Any
    ) -> RequestPermissionResponse:
        self.asked.append(tool_call)
        self.offered = [option.option_id for option in options]
        if self.choice == "later":
            await asyncio.Event().wait()
        if self.choice is None:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=self.choice))

    def on_connect(self, conn: Agent) -> None:
        pass

    def text(self, kind: type[AgentMessageChunk | UserMessageChunk] = AgentMessageChunk) -> str:
        """Return the text of the messages so far."""
        contents = [update.content for update in self.updates if isinstance(update, kind)]
        return "".join(content.text for content in contents if isinstance(content, TextContentBlock))

    @property
    def tools(self) -> list[tuple[str | None, str | None]]:
        """The kind and the status of each update of a tool call."""
        found = [update for update in self.updates if isinstance(update, ToolCallStart | ToolCallProgress)]
        return [(update.kind, update.status) for update in found]


@asynccontextmanager
async def editing(
    editor: Editor, folder: Path, env: Mapping[str, str], *arguments: str
) -> AsyncGenerator[ClientSideConnection]:
    """Start `clinvk acp` in a folder, and shake hands."""
    client = cast("Client", editor)  # without the methods of capabilities that the editor does not declare
    started = spawn_agent_process(
        *(client, Clinvk.command, "acp", *arguments),
        cwd=folder,
        env=env,
        use_unstable_protocol=True,
        observers=[editor.traffic.append],
    )
    async with started as (connection, process):
        initialized = await connection.initialize(protocol_version=PROTOCOL_VERSION)
        assert initialized.protocol_version == PROTOCOL_VERSION
        yield connection
        assert process.returncode is None
