"""Parts that the wire formats share: a body becomes an `Ask`, a `Reply` becomes frames."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import uuid4

from standin.document import JSON, Record


@dataclass(frozen=True)
class Ask:
    """A request to the model.

    Attributes:
        wire: `anthropic`, `openai` or `gemini`.
        user: the latest text that a person wrote, without what the CLI put before it.
        prompts: how many such texts the conversation has.
        tools: names of the tools that the model may call.
        calls: tool calls since that latest text.
        results: what those calls gave.
        aside: a question of the CLI itself (routing, a title), answered by JSON.
    """

    wire: str
    model: str
    stream: bool
    user: str
    prompts: int
    tools: tuple[str, ...]
    calls: int
    results: tuple[JSON, ...]
    aside: bool = False

    def offered(self, name: str) -> str:
        """Return the name under which the CLI offers a tool of a client: some put the name of an MCP server first."""
        if name in self.tools:
            return name
        return next((tool for tool in self.tools if re.fullmatch(rf"(mcp_+)?client_+{re.escape(name)}", tool)), name)


class Text(NamedTuple):
    """A block of the answer, chunk by chunk."""

    chunks: tuple[str, ...]


class Thinking(NamedTuple):
    """A block of thinking, chunk by chunk."""

    chunks: tuple[str, ...]


class Call(NamedTuple):
    """The model calls a tool: with an object, or with free-form text."""

    name: str
    input: Record | str
    namespace: str = ""


class Usage(NamedTuple):
    """Tokens: `input` includes `cached`, `output` includes `reasoning`."""

    input: int
    cached: int
    output: int
    reasoning: int


@dataclass(frozen=True)
class Reply:
    """One message of the model. `stop` is Anthropic's word; it counts where no tool is called."""

    blocks: tuple[Text | Thinking | Call, ...]
    usage: Usage
    stop: str = "end_turn"

    @property
    def calls(self) -> tuple[Call, ...]:
        """The tool calls of this message."""
        return tuple(block for block in self.blocks if isinstance(block, Call))


class Frame(NamedTuple):
    """One server-sent event. `chunk` marks a piece of the answer."""

    data: Record
    event: str = ""
    chunk: bool = False


class Wire(Protocol):
    """A wire format of model APIs."""

    def read(self, path: str, body: Record) -> Ask:
        """Understand a request."""
        ...

    def frames(self, ask: Ask, reply: Reply) -> Iterator[Frame]:
        """Yield the events of a streamed answer."""
        ...

    def whole(self, ask: Ask, reply: Reply) -> Record:
        """Return the body of an answer that is not streamed."""
        ...

    def error(self, status: int, message: str) -> Record:
        """Return the body of a refusal."""
        ...

    def broken(self, message: str) -> Frame:
        """Return the event by which a stream that has begun reports its failure."""
        ...


PREAMBLE = re.compile(
    r"\s*(?:# AGENTS\.md instructions[^<]*)?<(system-reminder|session_context|environment_context|user_instructions|"
    r"INSTRUCTIONS|permissions instructions|permissions|collaboration_mode|skills_instructions|plugins_instructions|"
    r"apps_instructions|state_snapshot|local-command[\w-]*|ENVIRONMENT)>.*?(?:</\1>|\Z)",
    re.DOTALL,
)


def written(parts: Iterable[str]) -> str:
    """Return the user's text in a message, without the blocks that a CLI adds before it."""
    kept: list[str] = []
    for part in parts:
        while found := PREAMBLE.match(part):
            part = part[found.end() :]
        if part.strip():
            kept.append(part.strip("\n"))
    return "\n".join(kept)


def new_id(prefix: str) -> str:
    """Make an id as model APIs do."""
    return prefix + uuid4().hex[:20]
