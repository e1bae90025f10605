"""The part of child.sh that needs a clock: `stream LINES INTERVAL_US` and `began`, see child.c."""

import sys
import time


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def message(text: str) -> None:
    say(f'{{"type":"item.completed","item":{{"id":"item_0","type":"agent_message","text":"{text}"}}}}')


def main(words: list[str]) -> None:
    began = now_ns()
    say('{"type":"thread.started","thread_id":"0199f1a2-0000-7000-8000-000000000000"}')
    if words[0] == "stream":
        lines, interval_us = int(words[1]), int(words[2])
        for number in range(1, lines + 1):
            time.sleep(max(0, began + number * interval_us * 1000 - now_ns()) / 1e9)
            message(f"written={now_ns()}")
    else:
        message(f"began={began}")
    say('{"type":"turn.completed","usage":{"input_tokens":9,"cached_input_tokens":0,"output_tokens":3}}')


main(sys.argv[1].split())
