"""The lines of the server's log, for people and as JSON."""

import asyncio
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Generator

import pytest

from clinvk import logs
from clinvk.config.model import LogLevel

FORGED = "all is well\n2026-11-25 18:00:00,000 INFO clinvk: forged\x1b[2J\u2028"


def record(message: str, *args: object, trouble: bool = False) -> logging.LogRecord:
    made = logging.LogRecord(
        "clinvk.x", logging.WARNING, __file__, 1, message, args, sys.exc_info() if trouble else None
    )
    made.created, made.msecs = 1_795_630_732.049, 49.0
    return made


def in_json(*args: object, trouble: bool = False) -> dict[str, object]:
    line = logs.JsonFormatter().format(record(str(args[0]), *args[1:], trouble=trouble))
    assert "\n" not in line
    return json.loads(line)


def test_text_line_has_time_level_logger_and_message() -> None:
    line = logs.TextFormatter().format(record("%s runs", 3))
    assert line.partition(" ")[2][13:] == "WARNING clinvk.x: 3 runs"
    assert line[19:23] == ",049"


def test_json_line_has_the_time_in_utc() -> None:
    told = in_json("%s runs", 3)
    assert told == {"time": "2026-11-25T18:18:52.049Z", "level": "warning", "logger": "clinvk.x", "message": "3 runs"}


def test_named_arguments_become_fields() -> None:
    told = in_json("%(method)s took %(duration_ms).1f ms", {"method": "GET", "duration_ms": 1.5, "status": 200})
    assert told["message"] == "GET took 1.5 ms"
    assert (told["method"], told["duration_ms"], told["status"]) == ("GET", 1.5, 200)


@pytest.mark.parametrize("form", [logs.TextFormatter, logs.JsonFormatter])
def test_message_cannot_forge_a_log_line(form: type[logging.Formatter]) -> None:
    line = form().format(record("the agent said %s", FORGED))
    assert "\n" not in line
    assert "\x1b" not in line


def test_traceback_follows_its_text_line_and_is_a_json_field() -> None:
    try:
        raise ValueError("odd\n2026-11-25 INFO forged\r2026-11-25 INFO forged\x1b[2K\x85\u2028")
    except ValueError:
        first, *rest = logs.TextFormatter().format(record("broke", trouble=True)).split("\n")
        told = in_json("broke", trouble=True)
    assert first.endswith(": broke")
    assert rest
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert "ValueError: odd" in str(told["exception"])


def test_lone_surrogate_is_escaped() -> None:
    assert in_json("no file %s", "a\udcffb")["message"] == "no file a\\udcffb"


def logging_to_memory() -> tuple[logging.Logger, io.StringIO]:
    """Return a separate logger, and the buffer of its lines."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.Logger("x")
    logger.addHandler(handler)
    return logger, written


def messages(written: io.StringIO) -> list[object]:
    return [json.loads(line)["message"] for line in written.getvalue().splitlines()]


async def test_lines_have_the_fields_of_their_task() -> None:
    logger, written = logging_to_memory()

    async def tell(request_id: str) -> None:
        logs.add_fields(request_id=request_id)
        logger.info("hello")

    await asyncio.gather(tell("one"), tell("two"))
    assert [json.loads(line)["request_id"] for line in written.getvalue().splitlines()] == ["one", "two"]


async def test_invalid_message_does_not_drop_other_messages(capsys: pytest.CaptureFixture[str]) -> None:
    logger, written = logging_to_memory()
    logger.info("%d", "no number")
    logger.error("x")
    assert messages(written) == ["x"]
    assert "no number" in capsys.readouterr().err


def test_repeated_client_warnings_are_limited_and_counted() -> None:
    logger, written = logging_to_memory()
    logger.name = "x"
    logger.handlers[0].addFilter(logs.RateLimitFilter(("x",), every_s=0.2))
    for _ in range(4):
        logger.warning("garbage")
    logger.warning("other garbage")
    logger.error("garbage")
    time.sleep(0.25)
    logger.warning("garbage")
    assert messages(written) == ["garbage", "other garbage", "garbage", "garbage (3 more since the last such line)"]


def test_bytes_reach_a_pipe_that_another_process_made_nonblocking() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    unblocked = logs.NonBlockingWriter(writing)
    data = b"x" * 1_000_000
    assert unblocked.write(data) == len(data)
    unblocked.finish()
    thread = threading.Thread(target=unblocked.run)
    thread.start()
    with open(reading, "rb") as pipe:
        assert pipe.read(len(data)) == data
    thread.join()
    os.close(writing)


@pytest.fixture
def levels() -> Generator[None]:
    names = ("clinvk", "clinvk.api.http.middleware", "clinvk.api.observe.observers")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize(
    ("level", "requests", "others", "of_requests"),
    [
        ("info", False, logging.INFO, logging.WARNING),
        ("info", True, logging.INFO, logging.INFO),
        ("error", True, logging.ERROR, logging.INFO),
        ("error", False, logging.ERROR, logging.ERROR),
        ("debug", False, logging.DEBUG, logging.DEBUG),
    ],
)
def test_request_logging_is_independent_of_the_level(
    level: LogLevel, requests: bool, others: int, of_requests: int
) -> None:
    logs.adjust(level, requests)
    assert logging.getLogger("clinvk.store").getEffectiveLevel() == others
    for name in ("clinvk.api.http.middleware", "clinvk.api.observe.observers"):
        assert logging.getLogger(name).getEffectiveLevel() == of_requests
