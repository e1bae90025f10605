"""Choose a session from a numbered list with the arrow keys, or by its number."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from clinvk.cli.sessions.session_text import TextView, choices
from clinvk.cli.terminal.keys import Interrupted, Keyboard
from clinvk.cli.terminal.output import STDERR, terminal_size, write
from clinvk.cli.terminal.streams import on_signals
from clinvk.cli.terminal.table import cut
from clinvk.types.record import Session

LISTED = 9
"""The sessions in the list: one for each digit."""

_HELP = "up, down and Enter, or 1 to 9: choose   /: search   q: leave"
_UP, _CLEAR_LINE = "\x1b[{}A", "\x1b[K"


async def pick(search: Callable[[str], Awaitable[Sequence[Session]]], view: TextView) -> Session | None:
    """Let the user choose a session; return None if the user leaves, at a signal, and if the terminal is gone.

    `search` returns at most `LISTED` sessions for a text, the newest first.
    """
    with suppress(Interrupted), Keyboard(0) as keyboard, on_signals(keyboard.interrupt):
        found, selected = await search(""), 0
        _show(found, selected, view)
        while True:
            match await keyboard.key():
                case "q" | "\x1b" | "\x04":  # Escape, Ctrl-D
                    return None
                case "/":
                    found, selected = await search((await keyboard.line("search: ") or "").strip()), 0
                    _show(found, selected, view)
                case "up" | "down" as key if found:
                    selected = (selected + (1 if key == "down" else -1)) % len(found)
                    write(STDERR, _UP.format(len(found) + 2))
                    _show(found, selected, view)
                case "enter" if found:
                    return found[selected]
                case digit if digit in map(str, range(1, len(found) + 1)):
                    return found[int(digit) - 1]
                case _:
                    pass
    return None


def _show(found: Sequence[Session], selected: int, view: TextView) -> None:
    columns = terminal_size(STDERR).columns
    head, *rows = choices(found, view._replace(most=columns - 5)) if found else ("nothing found",)
    lines = [f"{'>' if at == selected else ' '} {at + 1}  {row}" for at, row in enumerate(rows)]
    lines = [cut(line, columns - 1) for line in (f"     {head}", *lines, _HELP)]
    write(STDERR, "".join(f"{line}{_CLEAR_LINE}\n" for line in lines))
