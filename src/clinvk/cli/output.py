"""What a command tells: text or JSON on stdout, UTF-8 whatever the locale."""

import os
import select

import msgspec

from clinvk.errors import ClinvkError

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_REORDERING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
# A carriage return is left out: it is half of a line end, or would have the line written over.
_STEERING = {**dict.fromkeys((*_CONTROLS, *_REORDERING), "?"), ord("\n"): "\n", ord("\t"): "\t", ord("\r"): ""}


def harmless(text: str) -> str:
    """Give a text without what would steer the terminal; lines and tabs stay.

    Each character is judged alone, so the pieces of a text may be given one by one.
    """
    return text.translate(_STEERING)


def shown(text: str) -> str:
    """Give what an agent said as stdout may have it: harmless on a terminal, as it is elsewhere."""
    return harmless(text) if os.isatty(1) else text


def tell(text: str) -> None:
    """Print lines. Nothing is kept back: what could not be written is not tried again when Python exits.

    Raises:
        BrokenPipeError: nobody reads stdout any more.
        ClinvkError: it cannot be written, e.g. the disk is full.
    """
    rest = memoryview(f"{text}\n".encode(errors="replace"))
    while rest:
        try:
            rest = rest[os.write(1, rest) :]
        except BlockingIOError:  # whoever shares the pipe made it non-blocking
            select.select([], [1], [])
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise ClinvkError(f"cannot write to stdout: {exc.strerror}") from exc


def tell_json(value: object) -> None:
    """Print JSON; indented for people. Raises as `tell`."""
    data = msgspec.json.encode(value)
    tell(shown((msgspec.json.format(data, indent=2) if os.isatty(1) else data).decode()))
