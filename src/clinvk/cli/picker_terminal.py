"""The picker on a terminal: its screen and keys. The terminal is as it was when it ends, however it ends."""

import asyncio
import os
import signal
import termios
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from clinvk.cli.picker import Keys, Picker
from clinvk.cli.table import width
from clinvk.session import Session

_IN, _OUT = 0, 2
_READ_BYTES = 4096
_SIZE = (80, 24)
_ESCAPE_S = 0.05
"""How soon the rest of a key's sequence follows its Escape."""

_OTHER_SCREEN, _FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
_TOP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

Search = Callable[[str], Awaitable[Sequence[Session]]]
Events = asyncio.Queue[bytes | None]
"""What was typed; empty when the screen is to be drawn again, None when nothing more comes."""


async def pick(search: Search, now: float, home: str | None) -> Session | None:
    """Let the user choose a session; None is none.

    `search` gives the sessions for a text, newest first.
    """
    picker = Picker(await search(""), now, home)
    keys = Keys()
    with _terminal() as events:
        while not picker.is_over:
            _draw(picker)
            for key in await _pressed(keys, events):
                if picker.state == "searching" and len(key) > 1:
                    picker.show(await search(picker.text))
                picker.press(key)
                if picker.is_over:
                    break
            if picker.state == "searching":
                picker.show(await search(picker.text))
    return picker.marked if picker.state == "chosen" else None


async def _pressed(keys: Keys, events: Events) -> list[str]:
    """Wait for keys; none where only the size has changed."""
    try:
        async with asyncio.timeout(_ESCAPE_S if keys.is_waiting else None):
            data = await events.get()
    except TimeoutError:
        return keys.flush()
    return ["escape"] if data is None else keys.feed(data)


def _draw(picker: Picker) -> None:
    columns, rows = _size()
    lines = [f"{line}{_CLEAR_LINE}" for line in picker.lines(columns, rows)]
    cursor = f"\x1b[1;{min(columns, width(picker.question(columns)) + 1)}H"
    _write(_TOP + "\r\n".join(lines) + _CLEAR_BELOW + cursor)


def _size() -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(_OUT)
    except OSError:
        return _SIZE
    return columns or _SIZE[0], rows or _SIZE[1]


@contextmanager
def _terminal() -> Generator[Events]:
    """Take the terminal: keys come one by one, and signals as the key that leaves."""
    loop = asyncio.get_running_loop()
    events: Events = asyncio.Queue()
    saved = termios.tcgetattr(_IN)
    leaving = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    try:
        for number in leaving:
            loop.add_signal_handler(number, events.put_nowait, None)
        loop.add_signal_handler(signal.SIGWINCH, events.put_nowait, b"")
        termios.tcsetattr(_IN, termios.TCSANOW, _key_by_key(saved))
        _write(_OTHER_SCREEN)
        loop.add_reader(_IN, lambda: events.put_nowait(_read()))
        yield events
    finally:
        loop.remove_reader(_IN)
        for number in (*leaving, signal.SIGWINCH):
            loop.remove_signal_handler(number)
        _write(_FIRST_SCREEN)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(_IN, termios.TCSANOW, saved)


def _key_by_key(attributes: "list[int | list[bytes | int]]") -> "list[int | list[bytes | int]]":
    """Give the mode in which each key is read at once and not shown, Ctrl-C and Ctrl-Z among them."""
    changed = [*attributes]
    input_flags, local_flags = changed[0], changed[3]
    assert isinstance(input_flags, int)
    assert isinstance(local_flags, int)
    changed[0] = input_flags & ~termios.IXON
    changed[3] = local_flags & ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    return changed


def _read() -> bytes | None:
    try:
        return os.read(_IN, _READ_BYTES) or None
    except OSError:  # the terminal is gone
        return None


def _write(text: str) -> None:
    try:
        os.write(_OUT, text.encode(errors="replace"))
    except OSError:  # the terminal is gone
        return
