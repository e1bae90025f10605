"""JSON of a request that is nested so deeply that it cannot be written again."""

import os

import pytest
from msgspec.structs import replace

from clinvk.cli.flags import ParallelFlags
from clinvk.cli.task_parts import filled
from clinvk.config import Settings, complete
from clinvk.dialects.batch.bodies import PartBody
from clinvk.errors import InvalidRequest
from clinvk.request import RunRequest
from nesting import too_deep


@pytest.mark.parametrize("field", ["metadata", "output_schema"])
def test_a_request_is_not_completed_and_its_field_is_named(field: str) -> None:
    request = replace(RunRequest(prompt="p", backend="claude"), **{field: too_deep()})
    with pytest.raises(InvalidRequest) as caught:
        complete(request, Settings())
    assert (caught.value.message, caught.value.field) == (f"{field} is nested too deeply", field)


def test_what_comes_back_with_a_task_is_refused_in_its_place() -> None:
    tasks = [PartBody(backend="claude", prompt="p"), PartBody(backend="claude", prompt="p", meta=too_deep())]
    with pytest.raises(InvalidRequest) as caught:
        filled(tasks, "tasks", os.getcwd(), ParallelFlags(), Settings())
    assert (caught.value.message, caught.value.field) == ("tasks[1]: meta is nested too deeply", "tasks[1].meta")
