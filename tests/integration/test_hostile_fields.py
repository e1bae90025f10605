"""Hostile values in every field of every endpoint: none becomes a flag, a command, or a way out of the directories.

Each is answered below 500; agents are started in the allowed directory alone, with the flags of a clean request alone;
nothing outside is written, and no process is left.
"""

import asyncio
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from msgspec.structs import replace

from clinvk.backends.base import Host
from clinvk.backends.registry import BACKENDS
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from polling import until
from scripted.steps import CODEX_THREAD, says
from serving import LiveServer, serving
from standin.document import JSON

pytestmark = pytest.mark.slow

SEED = 20261125
AT_ONCE = 6
SAMPLE = 9

_AGENT = """\
#!/bin/sh
here=${0%/*} name=${0##*/}
if [ "$1" = --version ]; then echo '9.9.9'; exit; fi
{ pwd -P; printf '%s\\0' "$name" "$@"; } > "$here/calls/$$"
say() { while IFS= read -r said; do printf '%s\\n' "$said"; done < "$here/$name.says"; }
if [ "$1" != app-server ]; then while read -r _; do :; done; say; exit; fi
while IFS= read -r asked; do
    number=${asked#'{"id":'} && number=${number%%,*}
    case $asked in
    *'"method":"initialized"'*) ;;
    *'"method":"config/read"'*) echo "{\\"id\\":$number,\\"result\\":{\\"config\\":{}}}" ;;
    *'"method":"thread/'*) echo "{\\"id\\":$number,\\"result\\":{\\"thread\\":{\\"id\\":\\"THREAD\\"}}}" ;;
    *'"method":"turn/start"'*) echo "{\\"id\\":$number,\\"result\\":{\\"turn\\":{\\"id\\":\\"turn\\"}}}" && say ;;
    *) echo "{\\"id\\":$number,\\"result\\":{}}" ;;
    esac
done
""".replace("THREAD", CODEX_THREAD)

FLAGS = [
    *("--dangerously-skip-permissions", "--permission-mode=bypassPermissions", "--yolo", "-y"),
    *("--approval-mode=yolo", "--dangerously-bypass-approvals-and-sandbox", "--sandbox=danger-full-access"),
    *("--add-dir=/", "--add-dir", "-C/", "-c", "sandbox_mode=danger-full-access"),
    *("-csandbox_mode=danger-full-access", "--config=notify=['touch']", "--output-last-message={out}/written"),
    *("-o{out}/written", "--settings={out}/s.json", "--mcp-config={out}/m.json", "--", "-", "--="),
    *("--model=x --yolo", "x\n--yolo", "x\r\n--yolo\r\n", "x\t--yolo", "'--yolo'", '"--yolo"', "=--yolo"),
    *("\N{NON-BREAKING HYPHEN}-yolo", "\N{EN DASH}\N{EN DASH}yolo", "\N{RIGHT-TO-LEFT OVERRIDE}--yolo"),
    *("x\0--yolo", "$(touch {out}/written)", "`touch {out}/written`", "; touch {out}/written"),
    *("| touch {out}/written", "$HOME", "&& touch {out}/written #", "\n!touch {out}/written\n", "> {out}/written"),
    *("@{out}/canary", "/init", "!ls", "~/.ssh", "{out}/written", "{{previous}}", "%s%n%x", "%00", "\ud800"),
    *("\N{BYTE ORDER MARK}x", "a" * 140_000, "é" * 70_000, '"}],"x":[{"', "\\", "\\u0000"),
    *("'; DROP TABLE sessions; --", "__proto__", "\x1b[2J", "\x7f", "", " "),
]
PATHS = [
    *("{in}", "{in}/", "{in}/sub", "{in}/sub/..", "//{in}", "{in}//sub", "{in}/./sub/.", "{in}/back"),
    *("/proc/self/root{in}", "/", "//", "///", "/..", "/.", "/etc", "//etc", "/etc/", "/etc/../etc/ssl", "/ETC"),
    *("/usr/bin", "/proc/self", "/dev", "{out}", "{in}/../outside", "{in}//..//outside", "{in}/sub/../../outside"),
    *("{in}/link", "{in}/link/", "{in}/link/.", "{in}/sub/deep/../../link", "{in}/chain", "{in}x"),
    *("/proc/self/root", "/proc/self/root{out}", "/proc/self/cwd", "/proc/self/cwd/..", "/proc/1/root/etc"),
    *("/proc/self/fd/0", "/proc/thread-self/root/etc", "/dev/fd/1", "/dev/stdin", "{in}/loop", "{in}/gone"),
    *("{in}/file", "{in}/file/..", "{IN}", "{in}\0", "{in}\0/../outside", "\0", "{in}/\ud800"),
    "{in}/\N{ONE DOT LEADER}\N{ONE DOT LEADER}/outside",
    *("{in}/\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}/outside", "{in}%2f..%2foutside", "{in}/%2e%2e/outside"),
    *("{in}\\..\\outside", "file://{in}", "{in}/" + "sub/../" * 900 + "sub", "{in}/" + "x" * 300),
    *("/" + "x/" * 3000, "~", "~/", "~root", "$HOME", ".", "..", "", " ", " {in}", "{in}\n", "{in} ", "-"),
    *("--add-dir={out}", "{home}", "{home}/.ssh", "{home}/.SSH", "{home}/.clinvk", "{home}/.claude", "{in}/,{out}"),
    *("{in}/turning", "{in}/turning/.", "{in}/turning", "{in}/turning", "{in}/turning/deep"),
]

ASKED: dict[str, JSON] = {"backend": "claude", "prompt": "hi"}
TEXTS = ("backend", "prompt", "model", "system_prompt", "session_id", "approval_mode", "sandbox_mode", "effort")
MORE = ("output_format", "timeout_secs", "max_turns", "verbose", "output_schema", "metadata", "dry_run", "detach")
LISTS = ("extra", "allowed_tools", "stop", "tags", "images")
PART = ("name", "id", "meta", "isolation")
HEADERS = (
    "x-clinvk-workdir",
    "x-clinvk-session-id",
    "x-clinvk-approval-mode",
    "x-clinvk-sandbox-mode",
    "x-clinvk-events",
)
CLIENTS = ("x-openwebui-chat-id", "prefer", "accept", "x-request-id", "traceparent", "user-agent", "last-event-id")
JSON_SAID = {"content-type": "application/json"}
Place = tuple[str | int, ...]
TURNS: JSON = [{"role": "user", "content": "hi"}]


class Ground:
    """An allowed directory, directories outside, and agents that record how they are started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inside, self.outside, self.home, self.agents = (
            root / name for name in ("inside", "outside", "home", "agents")
        )
        for folder in (self.inside / "sub/deep", self.outside / "deep", self.home / ".ssh", self.home / ".claude"):
            folder.mkdir(parents=True)
        for file in (self.outside / "canary", self.home / ".ssh/id", self.inside / "file"):
            file.write_text("untouched")
        for name, target in {
            "link": "../outside",
            "chain": "link",
            "loop": "loop",
            "gone": "nowhere",
            "back": "sub",
        }.items():
            (self.inside / name).symlink_to(target)
        (self.inside / "turning").symlink_to("sub")
        (self.agents / "calls").mkdir(parents=True)
        for name in BACKENDS:
            executable = self.agents / name
            executable.write_text(_AGENT)
            executable.chmod(0o755)
            (self.agents / f"{name}.says").write_text("".join(f"{step['line']}\n" for step in says(name, "ok")))
        self.env = {"PATH": f"{self.agents}:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"}

    def filled(self, value: JSON) -> JSON:
        """Return a hostile value with the directories of this test."""
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        return self.named(value) if isinstance(value, str) else value

    def named(self, value: str) -> str:
        """Return a hostile text with the directories of this test."""
        places = {"{in}": self.inside, "{out}": self.outside, "{home}": self.home, "{IN}": str(self.inside).upper()}
        for name, place in places.items():
            value = value.replace(name, str(place))
        return value

    def turn(self) -> None:
        """Point the link `turning` at another directory."""
        beside = self.root / "turned"
        beside.symlink_to("sub" if os.readlink(self.inside / "turning") == "../outside" else "../outside")
        beside.replace(self.inside / "turning")

    def seen(self) -> dict[str, str]:
        """Return the contents of all files that no agent may touch."""
        folders = (self.inside, self.outside, self.home / ".ssh", self.home / ".claude")
        found = {str(path): path.read_text() for folder in folders for path in folder.rglob("*") if path.is_file()}
        return {**found, "": " ".join(sorted(path.name for path in self.root.iterdir()))}

    def calls(self) -> Iterator[tuple[str, str, list[str]]]:
        """Return the directory, the name and the arguments of each start of an agent."""
        for file in (self.agents / "calls").iterdir():
            where, _, words = file.read_bytes().decode(errors="surrogateescape").partition("\n")
            name, *argv = words.split("\0")[:-1]
            yield where, name, argv

    def assert_held(self) -> int:
        """Check the directories and flags of all started agents. Return the number of agents."""
        calls = [*self.calls()]
        for where, name, argv in calls:
            assert self.is_inside(where), (where, argv)
            clean = CLEAN[name]
            flags = {word.partition("=")[0] for word in clean if word.startswith("-")} | set(BACKENDS[name].safe_flags)
            for before, word in pairwise(["", *argv]):
                flag, _, value = word.partition("=")
                assert not flag.startswith("-") or flag in flags, (flag[:200], name)
                assert flag not in WORDS or word in clean, (word[:200], name)
                assert flag not in ("--add-dir", "--include-directories", "--cd") or self.is_inside(value), word
                if before in ("-c", "--config"):
                    assert any(known.startswith(f"{flag}=") for known in (*clean, *SAFE_SETTINGS)), word[:200]
        return len(calls)

    def is_inside(self, path: str) -> bool:
        return path == str(self.inside) or (path.startswith(f"{self.inside}/") and os.path.realpath(path) == path)


def _clean(name: str) -> frozenset[str]:
    """Return the arguments of clean requests to a backend: the arguments that the server itself adds."""
    full = RunRequest(
        prompt="p",
        backend=name,
        model="m",
        system_prompt="s",
        workdir="/srv",
        add_dirs=("/opt",),
        max_turns=1,
        effort="low",
        thinking=True,
        output_schema={"type": "object"},
        allowed_tools=None if name == "codex" else ("Read",),
    )
    judging = replace(full, sandbox_mode="read-only", ephemeral=True, allowed_tools=None)
    found: set[str] = set()
    for request in (full, replace(full, ephemeral=True), replace(full, literal=True), judging):
        for resume in (None, Resume("11111111-1111-4111-8111-111111111111")):
            launch = BACKENDS[name].launch(request, resume, Host(env={"HOME": "/home/ana"}))
            for one in (launch, launch.warm):
                found.update(one.argv[1:] if one else ())
    return frozenset(found)


CLEAN: Mapping[str, frozenset[str]] = {name: _clean(name) for name in BACKENDS}
SAFE_SETTINGS = ("model_verbosity=", "model_reasoning_summary=", "skills.config=")
WORDS = ("--permission-mode", "--sandbox", "--approval-mode", "--ask-for-approval", "--setting-sources", "--tools")


def placed(body: JSON, place: Place, value: JSON) -> JSON:
    """Return a body with a value in one place."""
    match body, place:
        case _, ():
            return value
        case dict(), (str(name), *below):
            return {**body, name: placed(body.get(name), tuple(below), value)}
        case list(), (int(index), *below):
            return [placed(item, tuple(below), value) if at == index else item for at, item in enumerate(body)]
        case _:
            raise AssertionError(place)


def values(chance: random.Random, place: Place) -> list[JSON]:
    """Return hostile values for a place: all paths for a directory, a sample of the other values elsewhere."""
    match place[-1]:
        case "workdir" | "add_dirs":
            chosen = PATHS
        case "extra":
            chosen = FLAGS
        case _:
            chosen = chance.sample([*FLAGS, *PATHS], SAMPLE)
    if place[-1] in (*LISTS, "add_dirs", "backends", "tasks", "steps"):
        return [[value] for value in chosen]
    return [*chosen]


def each(names: Iterable[str], *above: str | int) -> list[Place]:
    """Return the places of some fields below another."""
    return [(*above, name) for name in names]


REST = each((*TEXTS, *MORE, *LISTS, "workdir", "add_dirs"))
BODIES: dict[str, tuple[JSON, list[Place]]] = {
    "/api/v1/prompt": ({**ASKED, "ephemeral": True}, REST),
    "/api/v1/prompt?codex": ({**ASKED, "backend": "codex"}, REST),
    "/api/v1/prompt?gemini": ({**ASKED, "backend": "gemini", "ephemeral": True}, REST),
    "/api/v1/parallel": (
        {"tasks": [ASKED, {**ASKED, "backend": "codex"}]},
        each((*TEXTS, *LISTS, *PART, "workdir"), "tasks", 1) + each(("max_parallel", "fail_fast", "tasks")),
    ),
    "/api/v1/chain": (
        {
            "steps": [ASKED, {**ASKED, "prompt": "{{previous}} {{input}}", "backend": "gemini"}],
            "pass_working_dir": True,
        },
        each((*TEXTS, *LISTS, *PART, "add_dirs"), "steps", 0) + each(("input", "resume_from", "steps")),
    ),
    "/api/v1/compare": (
        {"prompt": "hi", "backends": ["claude", {"backend": "codex"}], "judge": {"backend": "claude"}},
        each(("prompt", "model", "workdir", "check", "isolation", "system_prompt", "backends", "extra"))
        + each(("backend", "model", "name", "isolation"), "backends", 1)
        + each(("backend", "prompt", "model"), "judge"),
    ),
    "/openai/v1/chat/completions": (
        {"model": "claude", "messages": TURNS},
        each(("model", "messages", "stop", "user", "reasoning_effort", "response_format", "metadata"))
        + each(("role", "content", "name"), "messages", 0),
    ),
    "/openai/v1/responses": (
        {"model": "codex", "input": "hi"},
        each(("model", "input", "instructions", "previous_response_id", "metadata", "reasoning", "text")),
    ),
    "/openai/v1/completions": ({"model": "gemini", "prompt": "hi"}, each(("model", "prompt", "stop", "suffix"))),
    "/anthropic/v1/messages": (
        {"model": "claude", "max_tokens": 9, "messages": TURNS},
        each(("model", "system", "messages", "stop_sequences", "metadata", "thinking", "output_config"))
        + each(("role", "content"), "messages", 0),
    ),
    "/anthropic/v1/messages/count_tokens": (
        {"model": "claude", "messages": TURNS},
        each(("model", "system", "messages")),
    ),
}


async def hold(server: LiveServer, ground: Ground, requests: list[httpx.Request]) -> None:
    """Send requests, a few at a time, and hold to what is promised of all of them."""
    before = ground.seen()
    slots = asyncio.Semaphore(AT_ONCE)

    async def send(request: httpx.Request) -> None:
        async with slots:
            ground.turn()
            response = await server.client.send(request)
        description = f"seed {SEED}: {request.method} {request.url} {request.headers} {request.content[:500]!r}"
        assert response.status_code < 500, f"{response.status_code} {response.text[:500]}: {description}"

    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(send(request))
    await until(lambda: not server.runs.busy and not server.runs.queued)
    assert (await server.client.get("/health/live")).status_code == 200
    assert ground.seen() == before
    assert alive(ground) == []


def alive(ground: Ground) -> list[int]:
    """Return the remaining processes of an agent, or of a program that a hostile value names."""
    found: list[int] = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith(f"{ground.agents}/") for word in process.cmdline()[:2]):
                found.append(process.pid)
    return found


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("path", BODIES)
async def test_hostile_field_values_are_contained(ground: Ground, path: str) -> None:
    chance = random.Random(f"{SEED} {path}")
    body, places = BODIES[path]
    async with serving(
        ground.env,
        default_workdir=str(ground.inside),
        allowed_workdir_prefixes=(str(ground.inside),),
        request_timeout_secs=20,
    ) as server:
        requests = [
            server.client.build_request("POST", path.partition("?")[0], content=content, headers=JSON_SAID, timeout=60)
            for place in places
            for value in values(chance, place)
            for content in [json.dumps(placed(body, place, ground.filled(value))).encode()]
        ]
        await hold(server, ground, requests)
    assert ground.assert_held() or path.endswith("count_tokens")


@pytest.mark.timeout(180)
async def test_hostile_header_values_are_contained(ground: Ground) -> None:
    chance = random.Random(SEED)
    bodies: list[tuple[str, JSON]] = [
        ("/openai/v1/chat/completions", {"model": "claude", "messages": TURNS}),
        ("/anthropic/v1/messages", {"model": "codex", "max_tokens": 9, "messages": TURNS}),
        ("/api/v1/prompt", ASKED),
    ]
    async with serving(
        ground.env, default_workdir=str(ground.inside), allowed_workdir_prefixes=(str(ground.inside),)
    ) as server:
        requests: list[httpx.Request] = []
        for name in (*HEADERS, *CLIENTS):
            for value in PATHS if name == "x-clinvk-workdir" else chance.sample([*FLAGS, *PATHS], SAMPLE):
                sent = ground.named(value).encode(errors="replace")[:20_000].translate(None, b"\0\r\n").strip()
                path, body = chance.choice(bodies)
                headers = [(b"content-type", b"application/json"), (name.encode(), sent)]
                requests.append(server.client.build_request("POST", path, json=body, headers=headers, timeout=60))
        await hold(server, ground, requests)
    assert ground.assert_held()


@pytest.mark.timeout(180)
async def test_hostile_paths_and_queries_are_contained(ground: Ground) -> None:
    chance = random.Random(SEED)
    below = ("sessions", "runs")
    async with serving(ground.env, default_workdir=str(ground.inside)) as server:
        client, requests = server.client, list[httpx.Request]()
        for value in [*FLAGS, *PATHS]:
            sent = quote(ground.named(value).encode(errors="replace")[:8000], safe=chance.choice(["", "/"]))
            kind = chance.choice(below)
            one = chance.choice(["", "/messages" if kind == "sessions" else "/events", "/fork", "/cancel"])
            method = chance.choice(["GET", "DELETE", "PATCH", "POST"])
            body = {"title": ground.named(value).encode(errors="replace").decode(), "tags": [sent[:50]]}
            requests.append(client.build_request(method, f"/api/v1/{kind}/{sent}{one}", json=body))
            name = chance.choice(["backend", "status", "tag", "q", "limit", "offset", "state", "session_id", "after"])
            place = chance.choice(["sessions", "runs", "usage", "backends"])
            requests.append(client.build_request("GET", f"/api/v1/{place}?{name}={sent}"))
            where = chance.choice(["/docs", "/openai/v1/models", "/anthropic/v1/models", "/openai/v1/responses"])
            requests.append(client.build_request("GET", f"{where}/{sent}"))
        await hold(server, ground, requests)
    assert [*ground.calls()] == []


@pytest.mark.parametrize("path", BODIES)
async def test_hostile_text_is_not_mistaken_for_an_error_location(ground: Ground, path: str) -> None:
    """For unions and for unknown fields; the texts imitate the locations in msgspec's messages."""
    body, places = BODIES[path]
    texts = ("x - at `$.².y", "x` - at `$.²", " - at `$", f"x - at `$.{'9' * 5000}")
    async with serving(ground.env, default_workdir=str(ground.inside)) as server:
        requests = [
            server.client.build_request("POST", path.partition("?")[0], json=placed(body, place, value))
            for text in texts
            for place, value in [*((place, text) for place in places), ((text,), 1)]
            if not isinstance(place[-1], int)
        ]
        requests += [server.client.build_request("GET", "/api/v1/runs", params={text: "1"}) for text in texts]
        await hold(server, ground, requests)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("backend", BACKENDS)
async def test_hostile_flags_are_refused_even_with_approval_mode_none(ground: Ground, backend: str) -> None:
    """With `none` the backend alone accepts nearly all flags of its CLI."""
    async with serving({**ground.env, "IS_SANDBOX": "1"}, default_workdir=str(ground.inside)) as server:
        for value in FLAGS:
            body = {"backend": backend, "prompt": "hi", "approval_mode": "none", "extra": [ground.named(value)]}
            content = json.dumps(body).encode()
            response = await server.client.post("/api/v1/prompt", content=content, headers=JSON_SAID)
            assert response.status_code in (400, 403), value
    assert [*ground.calls()] == []
