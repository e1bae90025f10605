"""Titles and tags of a session, alike for the command line and the REST API."""

import pytest

from clinvk.dialects.rest import views
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import valid_tag, valid_title, with_tags

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
"""One sign of several characters, some of which join the others."""


@pytest.mark.parametrize(
    ("text", "title"), [("", ""), (" two\n\tlines ", "two lines"), ("x" * 500, "x" * 500), (FAMILY, FAMILY)]
)
def test_title_is_reduced_to_one_line(text: str, title: str) -> None:
    assert valid_title(text) == title


@pytest.mark.parametrize("text", ["x" * 501, "a\x1b[31m", "a\0", "a\x9b", "a\udc80"])
def test_invalid_title_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        valid_title(text)
    assert caught.value.field == "title"


@pytest.mark.parametrize("text", ["", " ", "a\nb", "a\tb", "a\u2028b", "a\x1b", "\udc80", "x" * 101])
def test_invalid_tag_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be a tag"):
        valid_tag(text)


@pytest.mark.parametrize("text", ["a b", "x" * 100, FAMILY, "\u00fcber"])
def test_tag_is_stripped_of_surrounding_space_only(text: str) -> None:
    assert valid_tag(f" {text}\n") == text


def test_tags_keep_their_order() -> None:
    assert with_tags(("b", "a"), ("c", "b", "d"), ("d", "x")) == ("b", "a", "c")


@pytest.mark.parametrize("body", [b'{"title": "a\\u001b[31m"}', b'{"tags": ["a", "b\\nc"]}', b'{"tags": [" "]}'])
def test_patch_body_rejects_invalid_titles_and_tags(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        views.patch(body)


def test_patch_body_normalizes_titles_and_tags() -> None:
    patch = views.patch(b'{"title": " two\\nlines", "tags": [" a "]}')
    assert (patch.title, patch.tags) == ("two lines", ["a"])
