"""JSON of agents: Node escapes half of an emoji if it cuts a text inside."""

import json
import random

import msgspec
import pytest

from clinvk.backends.shared import decode_line


class Said(msgspec.Struct):
    text: str


SAID = msgspec.json.Decoder(Said)
ANY = msgspec.json.Decoder()


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (rb"cut \ud83d", "cut \ufffd"),
        (rb"\uDE00 cut", "\ufffd cut"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\N{GRINNING FACE}"),
        (rb"\ud83d\ude00\ude00", "\N{GRINNING FACE}\ufffd"),
        (rb"\ud83d\u0041\n", "\ufffdA\n"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (rb"\\\ud83d", "\\\ufffd"),
        (rb"\\\\ud83d\\\ud83d\"", '\\\\ud83d\\\ufffd"'),
        (rb"\\\ud83d\ude00\\ud83d\ud83d", "\\\N{GRINNING FACE}\\ud83d\ufffd"),
    ],
)
def test_lone_surrogate_affects_no_other_text(written: bytes, text: str) -> None:
    assert decode_line(SAID, b'{"text":"%s"}' % written) == Said(text)


def test_only_lone_surrogates_are_replaced() -> None:
    chance = random.Random(3)
    letters = ["\\", "\\\\", "u", "d83d", "\ud83d", "\ude00", "\N{GRINNING FACE}", '"', "\n", "x"]
    for _ in range(3000):
        text = "".join(chance.choices(letters, k=chance.randint(1, 12)))
        mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert decode_line(ANY, json.dumps(text).encode()) == mended, text


@pytest.mark.parametrize("garbage", [rb'{"text":"\ud83d', rb'{"text":"\ud83"}', rb"\ud83d", rb'"\ud83d"', b"\xff"])
def test_invalid_or_unknown_json_returns_none(garbage: bytes) -> None:
    assert decode_line(SAID, garbage) is None
