"""The agent of a soak: `codex app-server`, `claude` or `gemini`, as its name says. It does what prompts ask.

In a prompt `[[VERB NUMBER …]]` says what; the last one counts. `say N`, `stream N SECONDS` and `flood N LETTERS` make
pieces of an answer; `fail`, `crash`, `die`, `garbage`, `hang` and `stubborn` are how agents go wrong; `leave` starts
something in the background, out of sight, and answers. Run with `-IS`: it starts in some milliseconds.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable

_DIRECTIVE = re.compile(r"\[\[([a-z]+)((?: [0-9.]+)*)\]\]")
_FOLDER = os.path.dirname(os.path.abspath(__file__))
_LIVES_S = 120
_TOKENS = {"inputTokens": 9, "cachedInputTokens": 0, "outputTokens": 3, "reasoningOutputTokens": 0}
_HEAD: dict[str, object] = {"id": "m", "type": "message", "role": "assistant", "model": "claude-soak", "content": []}
_lock = threading.Lock()
_deaf = threading.Event()


def say(*messages: object) -> None:
    """Print messages, a line each, in one go."""
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    with _lock:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(1, rest) :]


class Turn:
    """How `codex app-server` tells of a turn."""

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self.id = new_id()
        self._text = ""

    def begin(self) -> None:
        """The run has begun."""
        self._tell("turn/started", turn={"id": self.id, "status": "inProgress"})
        self._tell("item/started", item={"type": "agentMessage", "id": "msg", "text": ""})

    def piece(self, text: str) -> None:
        """A piece of the answer."""
        self._text += text
        self._tell("item/agentMessage/delta", itemId="msg", delta=text)

    def end(self, state: str) -> None:
        """The run is over: completed, failed or interrupted."""
        self._tell("item/completed", item={"type": "agentMessage", "id": "msg", "text": self._text})
        self._tell("thread/tokenUsage/updated", tokenUsage={"total": _TOKENS, "last": _TOKENS})
        error = {"message": "it failed"} if state == "failed" else None
        self._tell("turn/completed", turn={"id": self.id, "status": state, "error": error})

    def _tell(self, method: str, **fields: object) -> None:
        say({"method": method, "params": {"threadId": self.thread, "turnId": self.id, **fields}})


class Message:
    """How Claude Code tells of a message."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._text = ""

    def begin(self) -> None:
        """The run has begun."""
        say({"type": "system", "subtype": "init", "session_id": self.session, "model": "claude-soak"})
        self._event("message_start", message=_HEAD)
        self._event("content_block_start", index=0, content_block={"type": "text", "text": ""})

    def piece(self, text: str) -> None:
        """A piece of the answer."""
        self._text += text
        self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def end(self, state: str) -> None:
        """The run is over: completed, failed or interrupted."""
        failed = state != "completed"
        content = [{"type": "text", "text": self._text}]
        say(
            {"type": "assistant", "message": {**_HEAD, "content": content}, "session_id": self.session},
            {
                "type": "result",
                "subtype": "error_during_execution" if failed else "success",
                "is_error": failed,
                "num_turns": 1,
                "result": self._text,
                "stop_reason": "end_turn",
                "session_id": self.session,
                "usage": {"input_tokens": 9, "output_tokens": 3},
            },
        )

    def _event(self, kind: str, **fields: object) -> None:
        say({"type": "stream_event", "event": {"type": kind, **fields}, "session_id": self.session})


class Plain:
    """How Gemini CLI tells of a prompt."""

    def begin(self) -> None:
        """The run has begun."""
        say({"type": "init", "session_id": new_id(), "model": "gemini-soak"})

    def piece(self, text: str) -> None:
        """A piece of the answer."""
        say({"type": "message", "role": "assistant", "content": text, "delta": True})

    def end(self, state: str) -> None:
        """The run is over: completed, failed or interrupted."""
        told: dict[str, object] = {"type": "result", "status": "success", "stats": {"total_tokens": 12}}
        say(told if state == "completed" else {**told, "status": "error", "error": {"message": f"it {state}"}})


def act(voice: Turn | Message | Plain, prompt: str, stop: threading.Event) -> None:
    """Follow a prompt until it is done or stopped."""
    verb, numbers = (_DIRECTIVE.findall(prompt) or [("say", "1")])[-1]
    first, second = [*map(float, numbers.split()), 0.0, 0.0][:2]
    voice.begin()
    match verb:
        case "say" | "stream":
            for number in range(int(first)):
                voice.piece(f"piece {number} ")
                if stop.wait(second) if second else stop.is_set():
                    break
        case "flood":
            for _ in range(int(first)):
                voice.piece("x" * int(second))
        case "leave":
            leave()
            voice.piece("left ")
        case _:
            go_wrong(verb, stop)
    failed = "failed" if verb == "fail" else "completed"
    voice.end("interrupted" if stop.is_set() else failed)


def go_wrong(verb: str, stop: threading.Event) -> None:
    """Misbehave."""
    match verb:
        case "crash":
            os.write(2, b"this agent is broken\n")
            os._exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "garbage":
            os.write(1, b"\xff\xfe{\0" * 500 + b'\n{"type":\n[]\n')
            os._exit(0)
        case "stubborn":
            _deaf.set()
            time.sleep(_LIVES_S)
        case "hang":
            stop.wait(_LIVES_S)
        case _:
            pass


def leave() -> None:
    """Start a lasting process in a separate session, without a parent or environment."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.execve("/bin/sleep", [os.path.join(_FOLDER, "left"), str(_LIVES_S)], {})


def new_id() -> str:
    """Return an id in the agents' format."""
    digits = os.urandom(16).hex()
    return "-".join((digits[:8], digits[8:12], "4" + digits[13:16], "8" + digits[17:20], digits[20:]))


class AppServer:
    """`codex app-server`: several threads at once."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    def take(self, line: str) -> None:
        """Read a line of the client."""
        asked = json.loads(line)
        params = asked.get("params", {})
        thread = params.get("threadId") or new_id()
        if asked["method"] == "turn/start":
            self._begin(asked["id"], thread, params["input"][-1]["text"])
            return
        if asked["method"] == "turn/interrupt":
            self._stops[thread].set()
        if "id" in asked:
            known: dict[str, object] = (
                {"config": {}} if asked["method"] == "config/read" else {"thread": {"id": thread}}
            )
            say({"id": asked["id"], "result": {**known, "model": "codex-soak"}})

    def _begin(self, asked: int, thread: str, prompt: str) -> None:
        turn, stop = Turn(thread), threading.Event()
        self._stops[thread] = stop
        say({"id": asked, "result": {"turn": {"id": turn.id, "status": "inProgress"}}})
        threading.Thread(target=act, args=(turn, prompt, stop), daemon=True).start()


class Claude:
    """`claude -p --input-format=stream-json`: one message at a time, until the end of its input."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._stop = threading.Event()
        self._acts: threading.Thread | None = None

    def take(self, line: str) -> None:
        """Read a line of the client."""
        asked = json.loads(line)
        if asked["type"] == "control_request":
            if asked["request"]["subtype"] == "interrupt":
                self._stop.set()
            say({"type": "control_response", "response": {"subtype": "success", "request_id": asked["request_id"]}})
            return
        self.answer(json.dumps(asked))

    def answer(self, prompt: str) -> None:
        """Begin to answer a prompt."""
        self.wait()
        self._stop = threading.Event()
        voice = Message(self._session)
        self._acts = threading.Thread(target=act, args=(voice, prompt, self._stop), daemon=True)
        self._acts.start()

    def wait(self) -> None:
        """Wait for the end of the answer that is under way."""
        if self._acts:
            self._acts.join()


def listen(take: Callable[[str], None]) -> None:
    """Take lines to the end of the input."""
    for line in sys.stdin:
        take(line)


def main(name: str, words: list[str]) -> None:
    """Run the agent with this name."""
    signal.alarm(_LIVES_S)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: None if _deaf.is_set() else os._exit(128 + number))
    if words == ["--version"]:
        os.write(1, b"9.9.9 (soak)\n")
    elif name == "claude":
        resumed = next((word.partition("=")[2] for word in words if word.startswith("--resume=")), "")
        claude = Claude(resumed or new_id())
        if "--input-format=stream-json" in words:
            listen(claude.take)
        else:
            claude.answer(sys.stdin.read())
        claude.wait()
    elif name == "gemini":
        act(Plain(), sys.stdin.read(), threading.Event())
    else:
        listen(AppServer().take)


main(os.path.basename(sys.argv[0]), sys.argv[1:])
