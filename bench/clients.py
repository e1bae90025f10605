"""Jobs for load.py, done in a process of their own."""

from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from bench.load import Ask, HoldStreams, Job, TimePipes, Times, TimeStreams
from bench.processes import RUNS_FOR_S, last_words, module, run, running
from bench.workplace import BenchBroken, Workplace

PROMPT_PATH = "/api/v1/prompt"
_BEYOND_S = 30


def prompt_body(place: Workplace, prompt: str, stream: bool = False) -> str:
    """Return the body of a prompt for the trivial agent."""
    body = {"backend": "claude", "prompt": prompt, "workdir": str(place.root), "warm": False}
    return msgspec.json.encode(body | {"output_format": "stream-json"} if stream else body).decode()


def timed(job: Ask | TimeStreams | TimePipes) -> Times:
    """Run a job to its end."""
    within_s = max(RUNS_FOR_S, job.within_s + _BEYOND_S) if isinstance(job, Ask) else RUNS_FOR_S
    return msgspec.json.decode(run(_command(job), within_s=within_s), type=Times)


@contextmanager
def holding(place: Workplace, job: HoldStreams) -> Generator[None]:
    """Hold streams open; entered when all are."""
    log = place.root / "holder.log"
    with running(_command(job), None, log) as process:
        assert process.stdout
        if not process.stdout.readline():
            raise BenchBroken(f"the streams did not open: {last_words(log.read_text())}")
        yield


def _command(job: Job) -> list[str]:
    return module("load", msgspec.json.encode(job).decode())
