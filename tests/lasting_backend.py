"""A backend whose agent stays: it takes prompts as lines of JSON, any number at once, and does what they say.

A prompt is words: `say TEXT`, `pid`, `wait` (for an interrupt), `tool` (leaves `sleep 77` running and waits), `leave`
(leaves it and ends), `tick N` (as many pieces of text), `trace N` (the same after the pid), `die`, `garbage`, `freeze`
(the whole process stops), `deaf` (ends, and no stdin is read any more), `grow N` (keeps as many megabytes), `flood N`
(tells as many, and waits). `alone` is another way to run it.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import ALL_CAPABILITIES, MAX_RUNS, Backend, Channel, Delivery, Host, Launch
from clinvk.backends.shared import OneShotChannel, crash_ending, decode_line
from clinvk.types.events import Event, RunFailed, RunFinished
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

AGENT = r"""#!{python} -IS
import json, os, signal, subprocess, sys, threading, time
memory, stops, lock, ballast = {}, {}, threading.Lock(), []
def out(**message):
    with lock:
        sys.stdout.write(json.dumps(message) + "\n"); sys.stdout.flush()
def tell(run, **event): out(run=run, event=event)
def work(run, prompt, handle):
    told = memory.setdefault(handle, [])
    tell(run, type="run_started", backend_session_id=handle)
    word, _, rest = prompt.partition(" ")
    if word == "say": tell(run, type="text_delta", text=rest)
    if word == "pid": tell(run, type="text_delta", text=str(os.getpid()))
    if word == "recall": tell(run, type="text_delta", text=",".join(told))
    told.append(prompt)
    if word == "die": os.kill(os.getpid(), signal.SIGKILL)
    if word == "speak_and_die": tell(run, type="text_delta", text=rest); os.kill(os.getpid(), signal.SIGKILL)
    if word == "garbage": sys.stdout.buffer.write(b"\xff\x00{" * 10 + b"\n"); sys.stdout.flush()
    if word == "freeze": os.kill(os.getpid(), signal.SIGSTOP)
    if word == "long": tell(run, type="text_delta", text="x" * int(rest))
    if word == "flood":
        for _ in range(int(rest)): tell(run, type="text_delta", text="x" * (1 << 20))
        stops[run].wait()
        tell(run, type="run_failed", code="cancelled", message="interrupted", usage=dict(output_tokens=1))
        return
    if word == "trace": tell(run, type="text_delta", text=str(os.getpid()) + " ")
    if word in ("tick", "trace"):
        for _ in range(int(rest)): tell(run, type="text_delta", text="."); time.sleep(0.01)
    if word == "print": print(rest, flush=True)
    if word == "grow": ballast.append(b"x" * (int(rest) << 20))
    if word in ("tool", "leave"):
        subprocess.Popen(["setsid", "sleep", "77"], env={**os.environ, "RUN": run}, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tell(run, type="tool_call", id="1", name="sleep", input={})
    if word == "leave": tell(run, type="tool_result", id="1", output="")
    if word in ("wait", "tool"):
        stops[run].wait()
        tell(run, type="run_failed", code="cancelled", message="interrupted")
    else: tell(run, type="run_finished")
if sys.argv[1] == "alone":
    prompt = sys.stdin.read()
    stops["alone"] = threading.Event()
    if prompt.split()[0] in ("die", "freeze", "speak_and_die"): prompt = "say alone"
    work("alone", prompt, "h-alone"); sys.exit(0)
if sys.argv[1] == "mute": print("usage: agent alone", file=sys.stderr); sys.exit(2)
if sys.argv[1] == "brittle": sys.exit(0)
if sys.argv[1] == "swelling":
    ballast.append(b"x" * (60 << 20)); threading.Timer(2, ballast.clear).start()
if sys.argv[1] == "heavy": ballast.append(b"x" * (60 << 20))
for line in sys.stdin:
    message = json.loads(line)
    run = message.get("run")
    if run is None: out(ready=True)
    elif message.get("stop"): stops[run].set()
    else:
        stops[run] = threading.Event()
        handle = message.get("handle") or "h-" + run
        threading.Thread(target=work, args=(run, message["prompt"], handle), daemon=True).start()
        if message["prompt"] == "deaf": time.sleep(600)
if sys.argv[1] in ("heavy", "slow"): time.sleep(600)
"""


class _Told(msgspec.Struct):
    run: str = ""
    event: Event | None = None
    ready: bool = False


_LINES = msgspec.json.Decoder(_Told)


class _Alone:
    def feed(self, line: bytes) -> Iterable[Event]:
        told = decode_line(_LINES, line)
        if told and told.event:
            yield told.event

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        return crash_ending("agent", exit_code, stderr)

    def stderr_message(self, stderr: bytes) -> str:
        return ""


class LastingChannel(Channel):
    """One process."""

    def __init__(self, capacity: int, tells_tools: bool) -> None:
        self.capacity = capacity
        self._tells_tools = tells_tools
        self._open: list[str] = []
        self._speaks = False

    def greet(self) -> bytes:
        return b"{}\n"

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        self._open.append(run)
        told = {"run": run, "prompt": request.prompt, "handle": resume.handle if resume else None}
        return msgspec.json.encode(told) + b"\n"

    def receive(self, line: bytes) -> Iterable[Delivery]:
        told = decode_line(_LINES, line)
        if told is None:
            return
        self._speaks = True
        if told.event:
            yield told.run, told.event
            if isinstance(told.event, RunFinished | RunFailed) and told.run in self._open:
                self._open.remove(told.run)

    def interrupt(self, run: str) -> bytes | None:
        return msgspec.json.encode({"run": run, "stop": True}) + b"\n" if run in self._open else None

    def tool_variable(self, run: str) -> tuple[str, str] | None:
        return ("RUN", run) if self._tells_tools else None

    def release_session(self, conversation: str) -> bytes | None:
        return None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        for run in self._open:
            yield run, crash_ending("agent", exit_code, stderr)
        self._open.clear()

    def stderr_message(self, stderr: bytes) -> str:
        return ""


class Lasting(Backend):
    """The backend; `mode` is `lasting`, a process that does not do what it should (`mute`, `brittle`), one that takes
    60 MB more while it starts (`swelling`) or always (`heavy`), or one that does not leave by itself (`slow`, `heavy`).

    `tells_tools` is whether the tools of a run can be told from those of others, `pings` whether it is asked for signs
    of life.
    """

    name = "lasting"
    install = "it is there"
    vendor = "lasting"
    capabilities = ALL_CAPABILITIES

    def __init__(
        self,
        folder: Path,
        capacity: int = 8,
        mode: str = "lasting",
        tells_tools: bool = True,
        pings: bool = True,
        max_runs: int = MAX_RUNS,
    ) -> None:
        self._capacity = capacity
        self._mode = mode
        self._tells_tools = tells_tools
        self._pings = pings
        self._most_runs = max_runs
        self._folder = folder
        self.executable = str(folder / "agent")
        self.install_agent()

    def install_agent(self, program: str = AGENT) -> None:
        """Install a program in place of the current one."""
        fresh = self._folder / "fresh"
        fresh.write_text(program.replace("{python}", sys.executable))
        fresh.chmod(0o755)
        fresh.rename(self.executable)

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        alone = Launch(argv=(self.executable, "alone"), cwd=request.workdir)
        kept = replace(
            alone,
            argv=(self.executable, self._mode, *([request.model] if request.model else [])),
            long_lived=True,
            resumes="named" if self._capacity == 1 else "any",
            max_runs=1 if self._capacity == 1 and request.ephemeral else self._most_runs,
            ping=b"{}\n" if self._pings else b"",
            reads=(str(self._folder / "instructions"),),
        )
        return replace(alone, warm=kept)

    def channel(self, launch: Launch, host: Host) -> Channel:
        if launch.long_lived:
            return LastingChannel(self._capacity, self._tells_tools)
        return OneShotChannel(_Alone(), lambda request: request.prompt.encode())
