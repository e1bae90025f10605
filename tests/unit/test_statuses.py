"""Each kind of error has its HTTP status, and what the API calls it, in each dialect."""

from collections.abc import Iterator

import pytest

from clinvk import errors
from clinvk.dialects import base
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.base import RateLimited
from clinvk.dialects.openai_chat import OpenAIChat
from clinvk.dialects.rest import Rest
from clinvk.errors import AgentFailed, AmbiguousId, ClinvkError, QueueFull


def kinds(of: type[ClinvkError] = ClinvkError) -> Iterator[type[ClinvkError]]:
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ in (errors.__name__, base.__name__):
            yield from kinds(kind)


def made(kind: type[ClinvkError]) -> ClinvkError:
    if issubclass(kind, QueueFull | RateLimited):
        return kind("m", 1.0)
    return kind("m", ()) if issubclass(kind, AmbiguousId) else kind("m")


def statuses(kind: type[ClinvkError]) -> set[int]:
    dialects = (Rest(), OpenAIChat(), Anthropic())
    return {dialect.error(made(kind), "r")[0] for dialect in dialects}


@pytest.mark.parametrize("kind", [*kinds()], ids=lambda kind: kind.__name__)
def test_the_dialects_agree_on_who_is_to_blame(kind: type[ClinvkError]) -> None:
    """An agent that fails is an answer in REST; only one that could not be started comes here."""
    if not issubclass(kind, AgentFailed):
        assert len({status < 500 for status in statuses(kind)}) == 1


def test_only_these_are_errors_inside_clinvk() -> None:
    """Another kind needs a status of its own, unless its ancestor has one."""
    unknown = {kind for kind in kinds() if statuses(kind) == {500}}
    assert unknown == {ClinvkError, errors.ConfigError, errors.Cancelled}


def test_a_store_that_cannot_be_used_is_no_error_inside_clinvk() -> None:
    assert statuses(errors.StoreUnavailable) == {503}
