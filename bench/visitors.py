"""The clients of a soak, in a separate process: `python -m bench.visitors JOB`, in the format of bench.load.

Each visit is one thing that a client does, well or badly; what it must be answered with stands beside it.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import uvloop

from bench.client import Answer, Body, Client, Unexpected, must

_AGENT_TROUBLE = (500, 502, 503, 529)
"""With what the vendors' APIs tell that an agent broke down."""


class Visits(msgspec.Struct, frozen=True, kw_only=True):
    """Make so many visits, some at once; `seed` decides which."""

    port: int
    key: str
    root: str
    count: int
    at_once: int
    seed: int


class Made(msgspec.Struct, frozen=True):
    """How many visits of each kind were made, and which were not answered as they must be."""

    kinds: dict[str, int]
    wrong: list[str]


class Visitor:
    """The visits of one client."""

    def __init__(self, job: Visits) -> None:
        self._client = Client(job.port, job.key)
        self._root = job.root
        self._chance = random.Random(job.seed)
        self._kinds: dict[Callable[[], Awaitable[None]], float] = {
            self._asks: 20,
            self._streams: 15,
            self._chats: 7,
            self._messages: 7,
            self._responds: 4,
            self._goes_on: 6,
            self._keeps_nothing: 4,
            self._runs_several: 3,
            self._chains: 2,
            self._compares: 2,
            self._leaves_unanswered: 8,
            self._leaves_midway: 6,
            self._leaves_half_said: 2,
            self._leaves_several: 1,
            self._reads_slowly: 1,
            self._follows: 3,
            self._cancels: 3,
            self._meets_trouble: 8,
            self._shares_trouble: 3,
            self._meets_trouble_by_vendor: 3,
            self._runs_out_of_time: 3,
            self._meets_the_stubborn: 0.1,
            self._has_something_left: 3,
            self._is_refused: 8,
            self._looks_around: 4,
        }

    def choose(self) -> Callable[[], Awaitable[None]]:
        """Choose the next visit."""
        return self._chance.choices([*self._kinds], [*self._kinds.values()])[0]

    def _prompt(self, verb: str = "", **fields: object) -> Body:
        backend = self._chance.choice(("codex", "codex", "claude", "claude", "gemini"))
        verb = verb or self._chance.choice(("say 1", "say 5", "stream 5 0.002"))
        return {"prompt": f"please [[{verb}]]", "backend": backend, "workdir": self._root, **fields}

    async def _run(self, verb: str = "", **fields: object) -> Answer:
        return await self._client.ask("/api/v1/prompt", self._prompt(verb, **fields))

    async def _asks(self) -> None:
        must(await self._run(warm=self._chance.random() < 0.5), 200, told=b'"exit_code":0')

    async def _streams(self) -> None:
        warm = self._chance.random() < 0.5
        must(await self._run(output_format="stream-json", warm=warm), 200, told=b'"type":"done"')

    async def _chats(self) -> None:
        await self._vendor("/openai/v1/chat/completions", b"data: [DONE]", b'"finish_reason":"stop"')

    async def _messages(self) -> None:
        await self._vendor("/anthropic/v1/messages", b"message_stop", b'"stop_reason":"end_turn"', max_tokens=100)

    async def _responds(self) -> None:
        body = {"model": "codex", "input": "please [[say 3]]"}
        stream = self._chance.random() < 0.5
        told = b"response.completed" if stream else b'"status":"completed"'
        must(await self._client.ask("/openai/v1/responses", {**body, "stream": stream}), 200, told=told)

    async def _vendor(self, path: str, streamed: bytes, whole: bytes, verb: str = "say 3", **fields: object) -> None:
        stream = self._chance.random() < 0.7
        answer = await self._client.ask(path, self._conversation(verb, stream=stream, **fields))
        must(answer, 200, told=streamed if stream else whole)

    def _conversation(self, verb: str, **fields: object) -> Body:
        model = self._chance.choice(("codex", "claude"))
        return {"model": model, "messages": [{"role": "user", "content": f"please [[{verb}]]"}], **fields}

    async def _goes_on(self) -> None:
        first = await self._run(backend=self._chance.choice(("codex", "claude")))
        session = must(first, 200).text("session_id")
        for _ in range(self._chance.randint(1, 2)):
            body: Body = {"prompt": "and [[say 2]]", "session_id": session}
            must(await self._client.ask("/api/v1/prompt", body), 200, told=b'"exit_code":0')

    async def _keeps_nothing(self) -> None:
        must(await self._run(ephemeral=True), 200, told=b'"exit_code":0')

    async def _runs_several(self) -> None:
        body: Body = {"tasks": [self._prompt() for _ in range(3)], "max_parallel": 2}
        must(await self._client.ask("/api/v1/parallel", body), 200, told=b'"completed":3')

    async def _chains(self) -> None:
        body: Body = {"steps": [self._prompt(), {**self._prompt("say 1"), "prompt": "{{previous}} [[say 1]]"}]}
        must(await self._client.ask("/api/v1/chain", body), 200, told=b"piece 0", untold=b'"error')

    async def _compares(self) -> None:
        body: Body = {"prompt": "please [[say 2]]", "backends": ["claude", "codex", "gemini"], "workdir": self._root}
        must(await self._client.ask("/api/v1/compare", body), 200, told=b"piece 1", untold=b'"error')

    async def _leaves_unanswered(self) -> None:
        await self._client.leave("/api/v1/prompt", self._prompt("hang"), self._chance.random() * 0.1)

    async def _leaves_midway(self) -> None:
        body = self._prompt("stream 1000 0.005", output_format="stream-json")
        await self._client.ask("/api/v1/prompt", body, leaves_after=self._chance.randint(200, 5000))

    async def _leaves_half_said(self) -> None:
        await self._client.leave("/api/v1/prompt", self._prompt(), 0.01, share=self._chance.random())

    async def _leaves_several(self) -> None:
        body: Body = {"tasks": [self._prompt("hang") for _ in range(3)]}
        await self._client.leave("/api/v1/parallel", body, self._chance.random() * 0.3)

    async def _reads_slowly(self) -> None:
        body = self._prompt("flood 300 10000", output_format="stream-json")
        leaves_after = self._chance.choice((None, 500_000))
        answer = await self._client.ask("/api/v1/prompt", body, leaves_after=leaves_after, pause_s=0.002)
        must(answer, 200, told=b"" if leaves_after else b'"type":"done"')

    async def _detached(self, verb: str) -> str:
        body = self._prompt(verb, detach=True)
        return must(await self._client.ask("/api/v1/prompt", body, headers={"prefer": "respond-async"}), 202).text(
            "run_id"
        )

    async def _follows(self) -> None:
        run = await self._detached("stream 30 0.005")
        await self._client.ask(f"/api/v1/runs/{run}/events", leaves_after=self._chance.randint(1, 2000))
        must(await self._client.ask(f"/api/v1/runs/{run}/events"), 200, told=b'"type":"done"')

    async def _cancels(self) -> None:
        run = await self._detached("hang")
        await asyncio.sleep(self._chance.random() * 0.1)
        must(await self._client.ask(f"/api/v1/runs/{run}/cancel", b""), 200, told=b'"state":"cancelled"')

    def _trouble(self) -> str:
        return self._chance.choice(("crash", "die", "garbage", "fail"))

    async def _meets_trouble(self) -> None:
        answer = await self._run(
            self._trouble(), warm=False, output_format=self._chance.choice(("json", "stream-json"))
        )
        must(answer, 200, told=b'"error')

    async def _shares_trouble(self) -> None:
        """Break a process that has other runs of its kind, which fail too."""
        verb = self._chance.choice((self._trouble(), "say 3"))
        must(await self._run(verb, workdir=f"{self._root}/shared"), 200)

    async def _meets_trouble_by_vendor(self) -> None:
        """No other visit uses this kind of process."""
        body = self._conversation("fail")
        must(await self._client.ask("/openai/v1/chat/completions", body), *_AGENT_TROUBLE)

    async def _runs_out_of_time(self) -> None:
        must(await self._run("hang", timeout_secs=0.3), 200, told=b'"error_code":"timed_out"')

    async def _meets_the_stubborn(self) -> None:
        must(await self._run("stubborn", timeout_secs=0.3, warm=False), 200, told=b'"error_code":"timed_out"')

    async def _has_something_left(self) -> None:
        must(await self._run("leave", warm=self._chance.random() < 0.5), 200, told=b'"exit_code":0')

    async def _is_refused(self) -> None:
        prompt, path = self._prompt(), "/api/v1/prompt"
        ask = self._client.ask
        match self._chance.randrange(9):
            case 0:
                must(await ask(path, b'{"prompt": '), 400)
            case 1:
                must(await ask(path, {**prompt, "unknown": 1}), 400)
            case 2:
                must(await ask(path, prompt, headers={"content-type": "text/plain"}), 415)
            case 3:
                must(await ask(path, {**prompt, "session_id": "nobody"}), 404)
            case 4:
                must(await ask(path, {**prompt, "workdir": "/etc"}), 403)
            case 5:
                must(await ask(path, prompt, headers={"x-api-key": "wrong"}), 401)
            case 6:
                must(await ask("/openai/v1/chat/completions", {"model": "codex"}), 400)
            case 7:
                must(await ask("/anthropic/v1/messages", b"\xff\xfe", headers={"x-api-key": ""}), 401)
            case _:
                must(await ask(path, prompt, headers={"content-length": "99999999"}), 413)

    async def _looks_around(self) -> None:
        for path in ("/health", "/api/v1/runs?limit=20", "/api/v1/sessions?limit=20&q=please", "/api/v1/usage"):
            must(await self._client.ask(path), 200)
        session = must(await self._run(), 200).text("session_id")
        must(await self._client.ask(f"/api/v1/sessions/{session}/messages"), 200, told=b"piece")
        must(await self._client.ask(f"/api/v1/sessions/{session}", method="DELETE"), 200, 204)


async def visit(job: Visits) -> Made:
    """Do the job."""
    visitor = Visitor(job)
    kinds: Counter[str] = Counter()
    wrong: list[str] = []

    async def visits() -> None:
        while kinds.total() < job.count:
            kind = visitor.choose()
            name = kind.__name__.strip("_")
            kinds[name] += 1
            try:
                await kind()
            except (Unexpected, OSError, TimeoutError, ValueError, KeyError) as exc:
                wrong.append(f"{name}: {type(exc).__name__} {exc}")

    await asyncio.gather(*(visits() for _ in range(job.at_once)), _scrape(job, kinds))
    return Made(kinds, wrong)


async def _scrape(job: Visits, kinds: Counter[str]) -> None:
    """Read the metrics meanwhile, as Prometheus does."""
    client = Client(job.port, job.key)
    while kinds.total() < job.count:
        must(await client.ask("/metrics"), 200, told=b"clinvk_runs_total")
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    print(msgspec.json.encode(uvloop.run(visit(msgspec.json.decode(sys.argv[1], type=Visits)))).decode())
