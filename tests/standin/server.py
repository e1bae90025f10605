"""The stand-in itself: routes, failures on demand, and the record of what came in."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from standin.answer import aside, reply
from standin.anthropic import Messages
from standin.directive import BadDirective, Directives, parse
from standin.document import JSON
from standin.gemini import GenerateContent
from standin.http import LINE_BYTES, Connection, Cut, Request
from standin.log import Entry, Log
from standin.responses import Responses, models
from standin.wire import Ask, Reply, Wire

ROUTES: tuple[tuple[re.Pattern[str], Wire], ...] = (
    (re.compile(r"/messages$"), Messages()),
    (re.compile(r"/responses$"), Responses()),
    (re.compile(r"/models/[^/]+:(generateContent|streamGenerateContent)$"), GenerateContent()),
)
COUNTERS: dict[str, Callable[[int], JSON]] = {
    "/messages/count_tokens": lambda tokens: {"input_tokens": tokens},
    ":countTokens": lambda tokens: {"totalTokens": tokens},
}
MESSAGES = {
    400: "bad request",
    401: "invalid api key",
    429: "too many requests",
    500: "internal error",
    529: "Overloaded",
}
_AS = re.compile(r"^/as/([^/]+)")


class Standin:
    """A model API.

    `default` are the directives of a prompt that has none. `answers` are further directives, in brackets, for prompts
    with certain words.
    """

    def __init__(self, default: str = "words=5", answers: Mapping[str, str] | None = None) -> None:
        self._default = default
        self._answers = answers or {}
        self._log = Log()
        self._start = time.monotonic()

    async def serve(self, port: int, ready: Callable[[int], None]) -> None:
        """Serve on 127.0.0.1 until cancelled; `ready` is told the port."""
        server = await asyncio.start_server(self._client, "127.0.0.1", port, limit=LINE_BYTES)
        async with server:
            ready(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            while request := await connection.receive():
                await self._route(connection, request)
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            connection.abort()
        finally:
            connection.close()

    async def _route(self, connection: Connection, request: Request) -> None:
        if request.path == "/_requests":
            return await connection.answer(200, self._found(request.query))
        for ending, count in COUNTERS.items():
            if request.path.endswith(ending):
                return await connection.answer(200, count(len(request.data) // 4))
        if request.method == "POST":
            for pattern, wire in ROUTES:
                if pattern.search(request.path):
                    return await self._model(connection, request, wire)
        known = request.method in ("GET", "HEAD") and request.path.endswith("/models")
        body: JSON = models() if known else {"error": {"message": f"no route {request.path}", "code": 404}}
        return await connection.answer(200 if known else 404, body, head=request.method == "HEAD")

    def _found(self, query: str) -> JSON:
        wanted = parse_qs(query)
        who = wanted["as"][0] if "as" in wanted else None
        return list(self._log.find(who, wanted.get("contains", [""])[0]))

    async def _model(self, connection: Connection, request: Request, wire: Wire) -> None:
        body = request.body()
        ask = wire.read(request.path, body)
        named = _AS.match(request.path)
        entry = Entry(
            who=named[1] if named else "",
            at=time.monotonic() - self._start,
            method=request.method,
            path=request.path,
            user=ask.user,
            headers=dict(request.headers),
            body=body,
            aside=ask.aside,
        )
        self._log.entries.append(entry)
        try:
            await self._answer(Exchange(connection, wire, ask, entry), len(request.data))
        except Cut:
            entry.outcome = "cut"
            raise
        except ConnectionError:
            entry.outcome = "left"
            raise

    async def _answer(self, exchange: "Exchange", request_bytes: int) -> None:
        ask = exchange.ask
        if ask.aside:
            return await exchange.say(aside(ask), Directives())
        try:
            added = "".join(added for words, added in self._answers.items() if words in ask.user)
            directives = parse(ask.user + added, self._default)
            message = reply(ask, directives, request_bytes)
        except BadDirective as exc:
            return await exchange.refuse(400, f"stand-in: {exc}", {})
        await exchange.connection.pause(directives.seconds("hang"))
        if not self._fails(exchange.entry, directives):
            return await exchange.say(message, directives.without_failures())
        if status := directives.count("error"):
            named = (header.partition(":") for header in directives.text("headers").split(",") if header)
            headers = {name.strip(): value.strip() for name, _, value in named}
            if "retry_after" in directives:
                headers["retry-after"] = directives.text("retry_after")
            return await exchange.refuse(status, f"{MESSAGES.get(status, 'error')} (stand-in)", headers)
        return await exchange.say(message, directives)

    def _fails(self, entry: Entry, directives: Directives) -> bool:
        """Return whether the prompt's requested failure is due: always, for its first requests, or for some paths."""
        if directives.text("only") not in entry.path:
            return False
        times = directives.count("times")
        return not times or self._log.attempt(entry.who, entry.user) <= times


class Exchange:
    """One request to the model and its answer."""

    def __init__(self, connection: Connection, wire: Wire, ask: Ask, entry: Entry) -> None:
        self.connection = connection
        self.wire = wire
        self.ask = ask
        self.entry = entry

    async def refuse(self, status: int, message: str, headers: dict[str, str]) -> None:
        """Answer with an error."""
        self.entry.status, self.entry.outcome = status, "refused"
        await self.connection.answer(status, self.wire.error(status, message), headers)

    async def say(self, message: Reply, directives: Directives) -> None:
        """Answer with a message, streamed if that was asked for; only a stream can break."""
        self.entry.status = 200
        if self.ask.stream:
            await self._stream(message, directives)
        else:
            await self.connection.pause(directives.seconds("delay"))
            await self.connection.answer(200, self.wire.whole(self.ask, message))
        self.entry.outcome = "answered"

    async def _stream(self, message: Reply, directives: Directives) -> None:
        connection, delay = self.connection, directives.seconds("delay")
        await connection.begin_stream(directives.text("headers"))
        for frame in self.wire.frames(self.ask, message):
            if frame.chunk:
                if "midstream" in directives and self.entry.chunks >= directives.count("midstream"):
                    await connection.send(self.wire.broken("Overloaded (stand-in)"))
                    break
                if "drop" in directives and self.entry.chunks >= directives.count("drop"):
                    raise Cut("as the prompt asked")
                await connection.pause(delay)
                self.entry.chunks += 1
            await connection.send(frame)
        await connection.end_stream()
