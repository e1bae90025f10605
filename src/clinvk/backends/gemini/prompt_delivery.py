"""How Gemini CLI 0.61.0 is given a prompt: on stdin, or as a command of our own where the prompt is data.

On stdin `@path` puts a file's text into the prompt, wherever the `@` stands, and nothing takes that away: a backslash
before it reaches the model too. The text of a command (`home/.gemini/commands/NAME.toml`) goes to the model as it is,
but for three marks: `{{args}}`, `!{…}` runs a program and `@{…}` puts a file in. Where a prompt has one of these, its
brace comes out of a file, so that no mark is left and the model gets every character.

A prompt on stdin that begins with `/` is a command too, the CLI's own (`/init` writes a file) or one of the user's or
the project's, which may run programs. And in a conversation that goes on, the CLI leaves out earlier prompts that begin
with `/`, `?` or a mark of its own, spaces aside. A space without width before them prevents both.

Images are files in a folder of their own, which the CLI is given as one of its directories. Names come of what is
named, so that the project has none of them.
"""

import re
from base64 import b64encode
from hashlib import sha256

from clinvk.backends import shared
from clinvk.backends.base import PRIVATE, kind_of, with_schema, with_system_prompt
from clinvk.types.request import Image, RunRequest

COMMANDS = "home/.gemini/commands"
FOLDER = "attached"

_BRACE = "clinvk-brace.txt"
_NO_WIDTH = "\u200b"
_FORGOTTEN = re.compile(r"[\s\ufeff]*(?:[/?]|<session_context>|<hook_context>)")
_COMMAND = re.compile(r"[\s\ufeff]*[/$]")
"""What begins a command over the protocol. The CLI leaves out a byte order mark before it, too, unlike `str.strip`."""

_MARKS = re.compile(r"(?<=[!@])\{|\{(?=\{args\}\})")


def told(request: RunRequest) -> str:
    """Give all that the model is to be told."""
    text = with_schema(with_system_prompt(request), request)
    is_exact = request.literal and request.ephemeral and request.output_schema is None
    return text if is_exact or not _FORGOTTEN.match(text) else _NO_WIDTH + text


def stdin(request: RunRequest) -> bytes:
    """Give what the CLI reads from stdin: the prompt, or the name of the command that holds it."""
    text = told(request)
    if is_command(request, text):
        return f"/{_named(text.encode(errors='replace'))}".encode()
    return "\n".join([text, *(f"@{_name(image)}" for image in request.images)]).encode(errors="replace")


def parts(request: RunRequest) -> list[dict[str, object]]:
    """Give the prompt as the CLI takes it over its protocol, where text is text."""
    images: list[dict[str, object]] = [
        {"type": "image", "mimeType": image.media_type, "data": b64encode(image.data).decode()}
        for image in request.images
    ]
    return [{"type": "text", "text": told(request).encode(errors="replace").decode()}, *images]


def is_plain(request: RunRequest) -> bool:
    """Say whether the prompt means the same over the protocol: no file is named in it, and no command begins it."""
    return (request.literal or "@" not in request.prompt) and not _COMMAND.match(told(request))


def files(request: RunRequest) -> dict[str, bytes]:
    """Give the private files that go with it."""
    text = told(request)
    attached = {_name(image): image.data for image in request.images}
    made: dict[str, bytes] = {}
    if is_command(request, text):
        plain = _MARKS.sub(f"@{{{_BRACE}}}", text)
        if plain != text:
            attached[_BRACE] = b"{"
        prompt = plain + "".join(f"@{{{_name(image)}}}" for image in request.images)
        command = _named(text.encode(errors="replace"))
        made[f"{COMMANDS}/{command}.toml"] = f"prompt = {shared.string(prompt)}\n".encode(errors="replace")
    return made | {f"{FOLDER}/{name}": data for name, data in attached.items()}


def directories(files: dict[str, bytes]) -> list[str]:
    """Give the directories that the CLI must be given to read those files."""
    return [f"{PRIVATE}/{FOLDER}"] if any(name.startswith(f"{FOLDER}/") for name in files) else []


def is_command(request: RunRequest, text: str) -> bool:
    """Say whether the CLI would not take a text as data that is to be data."""
    return request.literal and ("@" in text or text.startswith("/") or bool(request.images))


def _name(image: Image) -> str:
    return f"{_named(image.data)}.{kind_of(image)}"


def _named(data: bytes) -> str:
    return f"clinvk-{sha256(data).hexdigest()[:32]}"
