"""The limit where there is no C compiler: `python -m bench.limit CHILD PROMPT_FILE COUNT CLIENTS`, see limit.c."""

import os
import selectors
import sys
import time


class _Children:
    def __init__(self, child: str, prompt: str) -> None:
        self._child = child
        self._prompt = prompt
        self._polled = selectors.DefaultSelector()

    def start(self) -> None:
        reading, writing = os.pipe()
        pid = os.posix_spawn(
            self._child,
            [self._child],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, self._prompt, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, writing, 1)],
        )
        os.close(writing)
        self._polled.register(reading, selectors.EVENT_READ, pid)

    def ended(self) -> int:
        """Read from the readable children; return how many have exited."""
        count = 0
        for key, _ in self._polled.select():
            if not os.read(key.fd, 65536):
                self._polled.unregister(key.fd)
                os.close(key.fd)
                os.waitpid(key.data, 0)
                count += 1
        return count


def seconds(child: str, prompt: str, count: int, clients: int) -> float:
    """Keep `clients` children going until `count` have ended; give the seconds that took."""
    children = _Children(child, prompt)
    begin = time.perf_counter()
    for _ in range(clients):
        children.start()
    started, ended = clients, 0
    while ended < count:
        gone = children.ended()
        ended += gone
        for _ in range(min(gone, count - started)):
            children.start()
            started += 1
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(seconds(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])), time.process_time())
