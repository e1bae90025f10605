"""Requests with JSON that is nested too deeply to be encoded again."""

import pytest
from msgspec.structs import replace

from clinvk.config.model import Settings, complete
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import RunRequest
from nesting import too_deep


@pytest.mark.parametrize("field", ["metadata", "output_schema"])
def test_too_deeply_nested_field_is_refused_by_name(field: str) -> None:
    request = replace(RunRequest(prompt="p", backend="claude"), **{field: too_deep()})
    with pytest.raises(InvalidRequest) as caught:
        complete(request, Settings())
    assert (caught.value.message, caught.value.field) == (f"{field} is nested too deeply", field)
