"""Record the terminal session of the README as an SVG: `python examples/record.py --agents FOLDER > docs/terminal.svg`.

The commands run with the real Claude Code and Codex and the stand-in model API of the demo, which answers with the
texts below. The picture shows the screen after the commands have ended.
"""

import argparse
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from html import escape
from pathlib import Path

import demo

COLUMNS = 100
TIMEOUT_S = 60

ANSWER = (
    "The test fails because CI sets `TZ=UTC`, and `expires_at()` compares naive datetimes.\n\n"
    "Use `datetime.now(UTC)` in `session.py` line 41, and the test passes in every time zone.\n"
)
SCENES = (
    ('clinvk "Why does test_login fail on CI?"', f"tool=shell cmd=ls say={shlex.quote(ANSWER)}"),
    (
        "clinvk compare --backends claude,codex --isolation worktree --approval-mode none -q \\\n"
        '    --check "test -f fix.py" "Fix it"',
        'tool=shell cmd="touch fix.py" say="Compared aware datetimes."',
    ),
    ("clinvk usage --by agent", ""),
)
CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
CLASSES = {"2": "dim", "31": "red", "32": "green", "33": "yellow", "1": "bold", "36": "cyan"}
STYLE = """
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e4e6e9;
  white-space: pre; }
.dim { fill: #9aa3ac; } .red { fill: #f08a7d; } .green { fill: #58c78b; } .yellow { fill: #e3c06a; }
.cyan { fill: #7fc8d8; } .bold { font-weight: 600; }
"""


def main() -> int:
    """Record the scenes and print the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=Path, help="a folder with claude and codex (default: the installed wheels)")
    options = parser.parse_args()
    screen: list[str] = []
    with demo.temporary_place() as place:
        demo.link_agents(place, options.agents)
        for command, directive in SCENES:
            with demo.stand_in(place, directive) as models:
                (place.home / ".codex" / "config.toml").write_text(demo.CODEX_CONFIG.format(url=models))
                env = place.environment_with_agents(models) | {"TERM": "xterm-256color"}
                typed = [f"\x1b[1m{line}\x1b[0m" for line in f"$ {command}".splitlines()]
                screen += [*typed, *lines(run(command, env, place.project)), ""]
    print(svg(screen))
    return 0


def run(command: str, env: dict[str, str], folder: Path) -> str:
    """Run a command on a terminal and return everything that it prints."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=follower, stdout=follower, stderr=follower, env=env, cwd=folder
    )
    os.close(follower)
    printed = b""
    while select.select([leader], [], [], TIMEOUT_S)[0]:
        try:
            printed += os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
    os.close(leader)
    if process.wait():
        raise demo.DemoFailed(f"`{command}` exited with {process.returncode}:\n{printed.decode()}")
    return printed.decode()


def lines(printed: str) -> list[str]:
    """Return the lines on the screen, with their colors. A line that was erased is gone."""
    erased = re.compile(r"[^\n]*\r\x1b\[2K|\x1b\[\?25[hl]")
    text = printed.replace("\r\n", "\n")
    while erased.search(text):
        text = erased.sub("", text)
    return text.rstrip("\n").split("\n")


def svg(screen: list[str]) -> str:
    """Return a picture of lines with color codes."""
    height = 20 * len(screen) + 24
    rows = [f'<text x="16" y="{20 * row + 32}">{spans(line)}</text>' for row, line in enumerate(screen)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * 8.45 + 32:.0f} {height}" role="img">',
            "<title>A terminal session with clinvk</title>",
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" rx="8" fill="#16181b"/>',
            *rows,
            "</svg>",
        ]
    )


def spans(line: str) -> str:
    """Return a line as SVG text, with a span for each color."""
    parts: list[str] = []
    style, at = "", 0
    for code in CODE.finditer(line):
        parts.append(span(line[at : code.start()], style))
        at = code.end()
        if code[2] == "m":
            style = CLASSES.get(code[1].split(";")[-1], "")
    return "".join([*parts, span(line[at:], style)])


def span(text: str, style: str) -> str:
    """Return text as a span; empty text is nothing."""
    if not text or not style:
        return escape(text)
    return f'<tspan class="{style}">{escape(text)}</tspan>'


if __name__ == "__main__":
    sys.exit(main())
