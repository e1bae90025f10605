"""The HTTP status of each kind of error, and its name in each dialect."""

import errno
from collections.abc import Iterator

import pytest

from clinvk.api.http.response import refusal
from clinvk.dialects import dialect as base
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.google import Google
from clinvk.dialects.openai.chat import OpenAIChat
from clinvk.dialects.rest.rest import Rest
from clinvk.store.rows import INTERRUPTED
from clinvk.types import errors
from clinvk.types.errors import AgentFailed, ClinvkError, QueueFull, RateLimited


def kinds(of: type[ClinvkError] = ClinvkError) -> Iterator[type[ClinvkError]]:
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from kinds(kind)


def made(kind: type[ClinvkError]) -> ClinvkError:
    return kind("m", retry_after_s=1) if issubclass(kind, QueueFull | RateLimited) else kind("m")


def statuses(kind: type[ClinvkError]) -> set[int]:
    dialects = (Rest(), OpenAIChat(), Anthropic(), Google())
    return {dialect.error(made(kind), "r")[0] for dialect in dialects}


@pytest.mark.parametrize("kind", [*kinds()], ids=lambda kind: kind.__name__)
def test_code_is_decoded_to_its_class(kind: type[ClinvkError]) -> None:
    error = errors.error_from_code(kind.code, "m", "prompt")
    assert (type(error), error.message, error.field) == (kind, "m", "prompt")


def test_unknown_code_is_decoded_to_the_root() -> None:
    assert type(errors.error_from_code("of_another_version", "m")) is ClinvkError


@pytest.mark.parametrize("kind", [*kinds()], ids=lambda kind: kind.__name__)
def test_dialects_agree_on_client_or_server_error(kind: type[ClinvkError]) -> None:
    """In REST, the failure of an agent is an answer; only failed starts are errors."""
    if not issubclass(kind, AgentFailed):
        assert len({status < 500 for status in statuses(kind)}) == 1


@pytest.mark.parametrize(
    "kind", [errors.ResourcesExhausted, errors.QueueFull, errors.ShuttingDown, errors.StoreUnavailable, RateLimited]
)
def test_temporary_error_returns_429_or_503_with_retry_after(kind: type[ClinvkError]) -> None:
    for dialect in (Rest(), OpenAIChat(), Anthropic(), Google()):
        status, _, headers = refusal(made(kind), dialect, {"state": {"request_id": "r"}})
        assert status in (429, 503)
        assert int(dict(headers)[b"retry-after"]) > 0


@pytest.mark.parametrize(
    "lack",
    [OSError(errno.EMFILE, "x"), OSError(errno.ENFILE, "x"), MemoryError(), RuntimeError("can't start new thread")],
)
@pytest.mark.parametrize("kind", [ClinvkError, errors.InvalidRequest, errors.BackendUnavailable])
def test_error_caused_by_lack_of_resources_is_reported_as_resources_exhausted(
    kind: type[ClinvkError], lack: Exception
) -> None:
    error = made(kind)
    error.__cause__ = lack
    assert isinstance(errors.exhausted(error), errors.ResourcesExhausted)


@pytest.mark.parametrize("cause", [OSError(errno.ENOENT, "x"), RuntimeError("x"), None])
def test_other_errors_are_reported_unchanged(cause: Exception | None) -> None:
    error = made(errors.InvalidRequest)
    error.__cause__ = cause
    assert errors.exhausted(error) is None


def test_error_raised_from_itself_is_reported_unchanged() -> None:
    error = made(errors.InvalidRequest)
    error.__cause__ = error
    assert errors.exhausted(error) is None


def test_only_internal_errors_and_ended_runs_return_500() -> None:
    """A new kind needs a status, unless its ancestor has one."""
    unknown = {kind for kind in kinds() if statuses(kind) == {500}}
    assert unknown == {ClinvkError, errors.ConfigError, errors.Cancelled, errors.Interrupted}


@pytest.mark.parametrize("dialect", [Rest(), OpenAIChat(), Anthropic(), Google()])
def test_end_of_the_process_of_a_run_has_its_code_in_each_dialect(dialect: base.Dialect) -> None:
    _, body = dialect.error(errors.error_from_code(INTERRUPTED.code, INTERRUPTED.message), "r")
    assert b'"interrupted"' in body.lower()


def test_unavailable_store_returns_503() -> None:
    assert statuses(errors.StoreUnavailable) == {503}
