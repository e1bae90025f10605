"""The model's message, from the request and its directives."""

import re

from standin.directive import Directives
from standin.document import JSON, Record, dumps
from standin.wire import Ask, Call, Reply, Text, Thinking, Usage


def reply(ask: Ask, directives: Directives, request_bytes: int) -> Reply:
    """Return the next message of the conversation."""
    calls = _next_calls(ask, directives)
    thinking = tuple(f"think{n} " for n in range(1, directives.count("think") + 1))
    blocks: list[Text | Thinking | Call] = [Thinking(thinking)] if thinking else []
    if calls:
        if before := directives.text("before"):
            blocks.append(Text(chunks(before)))
        blocks += calls
    else:
        blocks += [Text(part) for part in _texts(ask, directives)]
    spoken = sum(len(block.chunks) for block in blocks if isinstance(block, Text)) + 8 * len(calls)
    return Reply(
        tuple(blocks),
        _usage(directives, request_bytes // 4, spoken, len(thinking)),
        directives.text("stop", "end_turn"),
    )


def chunks(text: str) -> tuple[str, ...]:
    """Split a text into words with the space after each; the joined words are the text."""
    return tuple(re.split(r"(?<=\s)(?=\S)", text))


def _texts(ask: Ask, directives: Directives) -> list[tuple[str, ...]]:
    if directives.says:
        return [chunks(text) for text in directives.says]
    if "echo" in directives:
        return [chunks(ask.user)]
    if "info" in directives:
        return [chunks(f"model={ask.model} prompts={ask.prompts} tools={len(ask.tools)}")]
    if "bytes" in directives:
        return [("x" * directives.count("bytes"),)]
    if directives.turns and "words" not in directives:
        return [chunks(_results(ask, directives))]
    count = directives.count("words", 5)
    return [tuple(f"word{n}" + (" " if n < count else "") for n in range(1, count + 1))]


def _results(ask: Ask, directives: Directives) -> str:
    return f"RESULTS {dumps(directives.told or ask.results)}"


def _next_calls(ask: Ask, directives: Directives) -> list[Call]:
    """Return the calls of the first turn that was not made yet, with the calls of `tool=` first."""
    turns = [[_call(call, ask, directives) for call in turn] for turn in directives.turns]
    if "tool" in directives:
        turns = [[_tool(directives, ask)]] * directives.count("calls", 1) + turns
    made = 0
    for turn in turns:
        if ask.calls <= made:
            return turn
        made += len(turn)
    return []


def _call(call: Call, ask: Ask, directives: Directives) -> Call:
    """Return a call by the name that the CLI offers, with what the tools gave in the place of an argument `RESULTS`."""
    if not isinstance(given := call.input, str):
        given = {key: _results(ask, directives) if value == "RESULTS" else value for key, value in given.items()}
    return call._replace(name=ask.offered(call.name), input=given)


def _tool(directives: Directives, ask: Ask) -> Call:
    """Return a call of the requesting CLI's tool for this work.

    Where the CLI offers none the model calls one all the same, as a model that wants to break out would.
    """
    command = directives.text("cmd", "echo tool-ran")
    path, content = directives.text("path", "written.txt"), directives.text("content", "hello\n")
    shell = {"command": command, "description": "run"}
    write: Record = {"file_path": path, "content": content}
    patch = _patch(path, content)
    works: dict[tuple[str, str], tuple[Call, ...]] = {
        ("anthropic", "shell"): (Call("Bash", {**shell}),),
        ("anthropic", "write"): (Call("Write", write),),
        ("gemini", "shell"): (Call("run_shell_command", {**shell}),),
        ("gemini", "write"): (Call("write_file", write),),
        ("openai", "shell"): (
            Call("exec_command", {"cmd": command}),
            Call("exec", f"text(await tools.exec_command({dumps({'cmd': command})}));"),
        ),
        ("openai", "write"): (
            Call("apply_patch", patch),
            Call("exec", f"text(await tools.apply_patch({dumps(patch)}));"),
        ),
    }
    ways = works[ask.wire, directives.text("tool")]
    return next((call for call in ways if call.name in ask.tools), ways[0])


def _patch(path: str, content: str) -> str:
    lines = "".join(f"+{line}\n" for line in content.splitlines())
    return f"*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch"


def _usage(directives: Directives, asked: int, spoken: int, thought: int) -> Usage:
    if "usage" in directives:
        numbers = [int(number) for number in directives.text("usage").split(",")]
        return Usage(*[*numbers, 0, 0, 0, 0][:4])
    return Usage(input=asked + 7, cached=7, output=spoken + thought, reasoning=thought)


def aside(ask: Ask) -> Reply:
    """Answer a question of the CLI itself: which model to take, who speaks next, a title."""
    answer: dict[str, JSON] = {
        "reasoning": "stand-in",
        "model_choice": "flash",
        "complexity_reasoning": "stand-in",
        "complexity_score": 10,
        "next_speaker": "user",
    }
    return Reply((Text((dumps(answer),)),), Usage(10, 0, 5, 0))
