"""A line of the log for each run that has ended."""

import logging
from collections.abc import Callable
from functools import partial

from clinvk.events import RunFailed, Usage
from clinvk.runtime.watching import Watched, first_word_at, model_told

logger = logging.getLogger(__name__)

# Words that go with secrets, as token and key, would have each line searched for those: see redaction.py.
_LINE = (
    "run %(run_id)s of %(backend)s: %(outcome)s after %(duration_ms)d ms, %(input_tokens)d in, %(output_tokens)d out"
)


class Journal:
    """Watches runs. What was asked is told only where that `has_prompts`; what was answered, never."""

    def __init__(self, has_prompts: bool) -> None:
        self._has_prompts = has_prompts

    def watch(self, run: Watched) -> Callable[[], None]:
        """Take a run that has begun; give what tells of it when it is over."""
        return partial(self._tell, run)

    def _tell(self, run: Watched) -> None:
        ending = run.ending
        if ending is None or not logger.isEnabledFor(logging.INFO):
            return
        request, usage = run.request, ending.usage or Usage()
        ended_at = run.ended_at or run.created_at
        fields: dict[str, object] = {
            "run_id": run.id,
            "backend": request.backend,
            "outcome": ending.code if isinstance(ending, RunFailed) else "finished",
            "duration_ms": round((ended_at - run.created_at) * 1000),
            "queued_ms": _ms(run.created_at, run.started_at),
            "first_word_ms": _ms(run.created_at, first_word_at(run)),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost_usd": ending.cost_usd,
            "model": model_told(run) or request.model,
            "session_id": run.session_id,
            "parent_id": request.part.run_id if request.part else None,
            "key": request.key_name or None,
            "prompt": request.prompt if self._has_prompts else None,
        }
        line = f"{_LINE}, prompt %(prompt)r" if self._has_prompts else _LINE
        logger.info(line, {name: value for name, value in fields.items() if value is not None})


def _ms(since: float, at: float | None) -> int | None:
    return None if at is None else round((at - since) * 1000)
