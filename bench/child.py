"""The part of child.sh that needs a clock: `stream LINES INTERVAL_US` and `began`, see child.c."""

import sys
import time


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def message(text: str) -> None:
    delta = f'{{"type":"text_delta","text":"{text}\\n\\n"}}'
    say(f'{{"type":"stream_event","event":{{"type":"content_block_delta","index":0,"delta":{delta}}}}}')


def main(words: list[str]) -> None:
    began = now_ns()
    say('{"type":"system","subtype":"init","model":"bench","session_id":"0199f1a2-0000-7000-8000-000000000000"}')
    if words[0] == "stream":
        lines, interval_us = int(words[1]), int(words[2])
        for number in range(1, lines + 1):
            time.sleep(max(0, began + number * interval_us * 1000 - now_ns()) / 1e9)
            message(f"written={now_ns()}")
    else:
        message(f"began={began}")
    say(
        '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"usage":{"input_tokens":9,"output_tokens":3}}'
    )


main(sys.argv[1].split())
