"""The tool bridge: connect stdin and stdout to a Unix socket, for an agent CLI that starts its tool servers itself.

Few imports keep the bridge small and fast to start: `python -I -S tool_bridge.py SOCKET`.
"""

import os
import socket
import sys
import threading

# Not from `collections.abc` and `typing`, whose import costs more than all the rest of this module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BYTES = 64 * 1024


def main(path: str) -> None:
    """Copy both ways until one side ends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    threading.Thread(target=_copy, args=(connection.recv, _print), daemon=True).start()
    _copy(lambda size: os.read(0, size), connection.sendall)


def _copy(read: "Callable[[int], bytes]", write: "Callable[[bytes], object]") -> None:
    try:
        while data := read(_BYTES):
            write(data)
    finally:
        os._exit(0)  # the other thread still reads


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
