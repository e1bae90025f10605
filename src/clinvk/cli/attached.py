"""The files that go with a prompt: its images, and the schema of its answer."""

from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk.cli.flags import RunFlags
from clinvk.errors import InvalidRequest
from clinvk.request import Image


class Attached(NamedTuple):
    """What the files hold."""

    images: tuple[Image, ...] = ()
    output_schema: dict[str, object] | None = None


def attached(flags: RunFlags) -> Attached:
    """Read the files that flags name.

    Raises:
        InvalidRequest: one cannot be read, or is not what it should be; names the flag.
    """
    schema = None if flags.output_schema is None else _schema(flags.output_schema)
    return Attached(tuple(map(_image, flags.image)), schema)


def _image(path: str) -> Image:
    from clinvk.dialects.conversation import image_of  # only a prompt with an image waits for it

    return image_of(b64encode(_read(path, "--image")).decode(), None, f"--image {path!r}")


def _schema(path: str) -> dict[str, object]:
    flag = "--output-schema"
    try:
        return msgspec.json.decode(_read(path, flag), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{flag}: {path!r} holds no JSON object: {exc}", flag) from exc


def _read(path: str, flag: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequest(f"{flag}: {path!r} cannot be read: {why}", flag) from exc
