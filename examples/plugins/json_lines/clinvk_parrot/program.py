"""Stands for your agent: it repeats a prompt word by word, and counts the prompts of a conversation in a file."""

import argparse
import json
import sys
import tempfile
import uuid
from pathlib import Path


def show(kind: str, **fields: object) -> None:
    """Print a line."""
    print(json.dumps({"type": kind, **fields}), flush=True)


parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--version", action="version", version="parrot 1.0")
parser.add_argument("--model", default="grey")
parser.add_argument("--resume", type=uuid.UUID, default=None)
given = parser.parse_args()

session = given.resume or uuid.uuid4()
memory = Path(tempfile.gettempdir(), f"parrot-{session}")
if given.resume and not memory.exists():
    show("error", text=f"no conversation {session}")
    sys.exit(1)
show("start", session=str(session), model=given.model)
words = sys.stdin.read().split()
with memory.open("a") as file:
    print(len(words), file=file)
show("tool", id="1", name="count", input={"file": str(memory)})
show("tool_result", id="1", text=memory.read_text())
for word in [*words, f"({len(memory.read_text().split())})"]:
    show("text", text=f"{word} ")
show("end", input_tokens=len(words), output_tokens=len(words))
