"""The events of parallel, chain and compare as one stream of lines, each with the part that it is of."""

from collections.abc import Callable, Iterable, Iterator

from clinvk.dialects.base import Facts
from clinvk.dialects.batch.answers import tag_of
from clinvk.dialects.unified import Tag, UnifiedEncoder
from clinvk.errors import ClinvkError
from clinvk.events import Logged, RunFailed, RunStarted, TextDelta
from clinvk.plan import Chain, Part, PartResult, Plan


class PartLines:
    """Gives the lines of all parts of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._is_chain = isinstance(plan, Chain)
        self._encoders: dict[int, UnifiedEncoder] = {}

    def heard(self, index: int, part: Part, batch: Iterable[Logged], facts: Callable[[], Facts]) -> Iterator[bytes]:
        """Give the lines of events of a run, one by one; `facts` tells of the run, and is asked once."""
        encoder = self._encoders.get(index)
        if encoder is None:
            encoder = self._encoders[index] = UnifiedEncoder(facts(), self._tag(index, part))
        return (encoder.feed(event, at) for _, at, event in batch)

    def ended(self, result: PartResult, at: float) -> bytes:
        """Give what stands for the events of a part that had none, since its agent was not started."""
        if self._encoders.pop(result.index, None):
            return b""
        request, ending = result.part.request, result.result.ending
        facts = Facts(run_id="", backend=request.backend, model=request.model, workdir=request.workdir or "")
        encoder = UnifiedEncoder(facts, self._tag(result.index, result.part))
        shown = (RunStarted(request.model), TextDelta(result.result.text), ending)
        events = (ending,) if isinstance(ending, RunFailed) else shown
        return b"".join(encoder.feed(event, at) for event in events)

    def _tag(self, index: int, part: Part) -> Tag:
        return Tag(name=part.name) if part.is_judge else tag_of(index, part, self._is_chain)


def broken_off(run_id: str, error: ClinvkError, at: float) -> bytes:
    """Give the last line of a stream that cannot go on: an error that is of no part."""
    return UnifiedEncoder(Facts(run_id=run_id, backend="")).feed(RunFailed(error.code, error.message), at)
