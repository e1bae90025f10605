"""`python -m standin`: serve on a free port of 127.0.0.1 and print it as JSON."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading

from standin.server import Standin


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="standin", description="A model API for tests and demonstrations.")
    parser.add_argument("--port", type=int, default=0, help="0 is any free port")
    parser.add_argument("--default", default="words=5", help="the directives of a prompt that has none")
    parser.add_argument(
        "--answer",
        nargs=2,
        action="append",
        default=[],
        metavar=("WORDS", "DIRECTIVES"),
        help="[[directives]] for a prompt with these words; may be repeated",
    )
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end when whoever started it is gone")
    options = parser.parse_args()
    if options.while_stdin_is_open:
        threading.Thread(target=_end_with_stdin, daemon=True).start()

    def ready(port: int) -> None:
        print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Standin(options.default, dict(options.answer)).serve(options.port, ready))


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


main()
