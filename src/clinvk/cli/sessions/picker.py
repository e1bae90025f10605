"""Choose a session from a numbered list by one key."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from clinvk.cli.sessions.session_text import TextView, choices
from clinvk.cli.terminal.keys import Interrupted, Keyboard
from clinvk.cli.terminal.output import STDERR, terminal_size, write
from clinvk.cli.terminal.streams import on_signals
from clinvk.types.record import Session

LISTED = 9
"""The sessions in the list: one for each digit."""

_HELP = "1 to 9: choose   /: search   q: leave"


async def pick(search: Callable[[str], Awaitable[Sequence[Session]]], view: TextView) -> Session | None:
    """Let the user choose a session; return None if the user leaves, at a signal, and if the terminal is gone.

    `search` returns at most `LISTED` sessions for a text, the newest first.
    """
    with suppress(Interrupted), Keyboard(0) as keyboard, on_signals(keyboard.interrupt):
        found = await search("")
        _show(found, view)
        while True:
            match await keyboard.key():
                case "q" | "\x1b" | "\x04":  # Escape, Ctrl-D
                    return None
                case "/":
                    found = await search((await keyboard.line("search: ") or "").strip())
                    _show(found, view)
                case digit if digit in map(str, range(1, len(found) + 1)):
                    return found[int(digit) - 1]
                case _:
                    pass
    return None


def _show(found: Sequence[Session], view: TextView) -> None:
    head, *rows = choices(found, view._replace(most=terminal_size(STDERR).columns - 3)) if found else ("nothing found",)
    lines = [f"   {head}", *(f"{number}  {row}" for number, row in enumerate(rows, 1)), _HELP]
    write(STDERR, "".join(f"{line}\n" for line in lines))
