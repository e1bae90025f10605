"""Deliver a prompt to Gemini CLI 0.61.0: on stdin, or as a clinvk command if the prompt is data.

On stdin, `@path` inserts the text of a file into the prompt, wherever the `@` stands. No escape exists: a backslash
before the `@` reaches the model too. The CLI sends the text of a command (`home/.gemini/commands/NAME.toml`) to the
model unchanged, except for three marks: `{{args}}` inserts arguments, `!{…}` runs a program and `@{…}` inserts a file.
If a prompt contains a mark, clinvk inserts the brace of the mark from a file, so no mark remains and the model receives
every character.

A prompt on stdin that starts with `/` is also a command, either of the CLI (`/init` writes a file) or of the user or
project, and may run programs. In a resumed conversation, the CLI omits earlier prompts that start with `/`, `?` or a
mark of the CLI, ignoring leading spaces. A zero-width space at the start prevents both.

Images are files in a private folder that clinvk passes to the CLI as a directory. File names are hashes of the
contents, so no project file has the same name.
"""

import re
from hashlib import sha256

from clinvk.backends import shared
from clinvk.backends.base import PRIVATE
from clinvk.backends.shared import image_extension, plain_prompt
from clinvk.types.request import Image, RunRequest

COMMANDS = "home/.gemini/commands"
FOLDER = "attached"

_BRACE = "clinvk-brace.txt"
_NO_WIDTH = "\u200b"
_OMITTED_LATER = re.compile(r"[\s\ufeff]*(?:[/?]|<session_context>|<hook_context>)")
_COMMAND = re.compile(r"[\s\ufeff]*[/$]")
"""The start of a command over the protocol. Unlike `str.strip`, the CLI also strips a leading byte order mark."""

_MARKS = re.compile(r"(?<=[!@])\{|\{(?=\{args\}\})")


def prompt_text(request: RunRequest) -> str:
    """Return the full prompt for the model."""
    text = plain_prompt(request)
    is_exact = request.literal and request.ephemeral and request.output_schema is None
    return text if is_exact or not _OMITTED_LATER.match(text) else _NO_WIDTH + text


def stdin(request: RunRequest) -> bytes:
    """Return the input on stdin: the prompt, or the name of the command that holds the prompt."""
    text = prompt_text(request)
    if is_command(request, text):
        return f"/{_hashed_name(text.encode(errors='replace'))}".encode()
    return "\n".join([text, *(f"@{_image_name(image)}" for image in request.images)]).encode(errors="replace")


def is_plain(request: RunRequest) -> bool:
    """Return whether the prompt means the same over the protocol: no `@path`, and no command at the start."""
    return (request.literal or "@" not in request.prompt) and not is_protocol_command(request)


def is_protocol_command(request: RunRequest) -> bool:
    """Return whether the CLI would take the prompt as a command over the protocol."""
    return _COMMAND.match(prompt_text(request)) is not None


def files(request: RunRequest) -> dict[str, bytes]:
    """Return the private files for the prompt."""
    text = prompt_text(request)
    attached = {_image_name(image): image.data for image in request.images}
    made: dict[str, bytes] = {}
    if is_command(request, text):
        plain = _MARKS.sub(f"@{{{_BRACE}}}", text)
        if plain != text:
            attached[_BRACE] = b"{"
        prompt = plain + "".join(f"@{{{_image_name(image)}}}" for image in request.images)
        command = _hashed_name(text.encode(errors="replace"))
        made[f"{COMMANDS}/{command}.toml"] = f"prompt = {shared.toml_string(prompt)}\n".encode(errors="replace")
    return made | {f"{FOLDER}/{name}": data for name, data in attached.items()}


def directories(files: dict[str, bytes]) -> list[str]:
    """Return the directories that the CLI needs to read the files."""
    return [f"{PRIVATE}/{FOLDER}"] if any(name.startswith(f"{FOLDER}/") for name in files) else []


def is_command(request: RunRequest, text: str) -> bool:
    """Return whether a prompt that is data needs a command, because stdin would not keep the text as data."""
    return request.literal and ("@" in text or text.startswith("/") or bool(request.images))


def _image_name(image: Image) -> str:
    return f"{_hashed_name(image.data)}.{image_extension(image)}"


def _hashed_name(data: bytes) -> str:
    return f"clinvk-{sha256(data).hexdigest()[:32]}"
