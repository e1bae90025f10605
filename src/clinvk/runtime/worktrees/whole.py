"""Work that is not left half done by a cancellation, with a thread of it going on: it is waited for, within a bound."""

from collections.abc import Awaitable

from clinvk.errors import ClinvkError
from clinvk.runtime.cleanup import finished

WITHIN_S = 60.0


async def whole(work: Awaitable[object], what: str, within_s: float = WITHIN_S) -> None:
    """Do work as `finished` does; `what` names it.

    Raises:
        ClinvkError: it took longer, and was given up.
    """
    try:
        await finished(work, within_s)
    except TimeoutError as exc:
        raise ClinvkError(f"{what} took over {within_s:g} s") from exc
