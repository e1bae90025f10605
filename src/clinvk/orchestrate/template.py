"""The prompts of a chain are templates: three kinds of places, and nothing else that looks like one."""

import re
from collections.abc import Iterator, Mapping, Set

from clinvk.errors import InvalidRequest

MAX_FILLED_CHARS = 16 * 1024 * 1024
"""A prompt that takes the answer before it twice doubles with each step."""

_PLACE = re.compile(r"\{\{(?:(?P<word>previous|input)|steps\.(?P<step>[^{}\n]+))\}\}")
_ALIKE = re.compile(r"\{\{\s*(?:(?P<word>previous|input)\s*|steps\.(?P<step>[^{}\n]+))\}\}", re.IGNORECASE)


def expand(template: str, previous: str, steps: Mapping[str, str], given: str | None) -> str:
    """Fill the places of a template. What is filled in is not looked at again; a place that leads nowhere stays.

    `{{previous}}` is the answer of the step before, `{{steps.NAME}}` that of an earlier step, `{{input}}` what was
    `given` with the chain.

    Raises:
        InvalidRequest: more than `MAX_FILLED_CHARS` would be filled in.
    """
    size = 0

    def filling(place: re.Match[str]) -> str:
        nonlocal size
        match place["word"]:
            case "previous":
                text = previous
            case "input":
                text = place[0] if given is None else given
            case _:
                text = steps.get(place["step"], place[0])
        size += len(text)
        if size > MAX_FILLED_CHARS:
            raise InvalidRequest(f"prompt has more than {MAX_FILLED_CHARS} characters once it is filled in", "prompt")
        return text

    return _PLACE.sub(filling, template)


def unknown_steps(template: str, earlier: Set[str]) -> Iterator[str]:
    """Give the places that name a step, but none of the earlier ones."""
    for place in _PLACE.finditer(template):
        if place["step"] is not None and place["step"] not in earlier:
            yield place[0]


def misspelt(template: str, earlier: Set[str]) -> Iterator[tuple[str, str]]:
    """Give what is not filled in for its blanks or capitals, and the place that it looks like.

    `{{ steps.NAME }}` is meant for an earlier step only: others write the like, such as workflows of GitHub.
    """
    for found in _ALIKE.finditer(template):
        place = _PLACE.fullmatch(found[0])
        if place and (place["word"] or place["step"] in earlier):
            continue
        step = (found["step"] or "").strip()
        meant = f"{{{{steps.{step}}}}}" if step else f"{{{{{(found['word'] or '').lower()}}}}}"
        if (step in earlier or not step) and _PLACE.fullmatch(meant):
            yield found[0], meant
