"""The directories that agents look into."""

from pathlib import PurePosixPath

import pytest

from clinvk.backends.places import upwards


@pytest.mark.parametrize("directory", ["/", "/home", "/home/a b/ü", "/a/b/c/d"])
def test_they_are_those_that_a_path_has_above_it(directory: str) -> None:
    path = PurePosixPath(directory)
    assert [PurePosixPath(place) for place in upwards(directory)] == [path, *path.parents]


@pytest.mark.parametrize("directory", ["/", "/home", "/home/"])
def test_a_name_can_be_put_behind_each(directory: str) -> None:
    assert list(upwards(directory))[-1] == "/"
    assert all(place.endswith("/") and "//" not in place for place in upwards(directory))
