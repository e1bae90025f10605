"""The prompt templates of a chain: places for earlier answers and for the input. Pure."""

import re
from collections.abc import Iterator, Mapping, Set

from msgspec.structs import replace

from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Chain, Part, PartResult

MAX_FILLED_CHARS = 16 * 1024 * 1024
"""A prompt that contains the previous answer twice doubles with each step."""

_PLACE = re.compile(r"\{\{(?:(?P<word>previous|input)|steps\.(?P<step>[^{}\n]+))\}\}")
_SIMILAR = re.compile(r"\{\{\s*(?:(?P<word>previous|input)\s*|steps\.(?P<step>[^{}\n]+))\}\}", re.IGNORECASE)
_INPUT = "{{input}}"
_COMMAND = re.compile(r"\s*/[^\s{]+(?!\S)")


def expand_template(template: str, previous: str, steps: Mapping[str, str], given: str | None) -> str:
    """Fill the places of a template. Filled-in text is not expanded again; an unknown place stays as written.

    `{{previous}}` is the answer of the previous step, `{{steps.NAME}}` the answer of an earlier step, `{{input}}` the
    input that was `given` with the chain.

    Raises:
        InvalidRequest: the filled-in text would exceed `MAX_FILLED_CHARS`.
    """
    size = 0

    def text_of(place: re.Match[str]) -> str:
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

    return _PLACE.sub(text_of, template)


def unknown_steps(template: str, earlier: Set[str]) -> Iterator[str]:
    """Yield the places that name no earlier step."""
    for place in _PLACE.finditer(template):
        if place["step"] is not None and place["step"] not in earlier:
            yield place[0]


def misspelt_steps(template: str, earlier: Set[str]) -> Iterator[tuple[str, str]]:
    """Yield text that is no place only because of blanks or capitals, with the place that was probably meant.

    `{{ steps.NAME }}` counts only for an earlier step: other programs, such as GitHub workflows, use the same syntax.
    """
    for found in _SIMILAR.finditer(template):
        place = _PLACE.fullmatch(found[0])
        if place and (place["word"] or place["step"] in earlier):
            continue
        step = (found["step"] or "").strip()
        meant = f"{{{{steps.{step}}}}}" if step else f"{{{{{(found['word'] or '').lower()}}}}}"
        if (step in earlier or not step) and _PLACE.fullmatch(meant):
            yield found[0], meant


def filled_step(chain: Chain, part: Part, previous: PartResult | None, answers: Mapping[str, str]) -> Part:
    """Return a step with the prompt filled in; a following step gets the directory of the previous step.

    `answers` are the answers of the earlier steps by name. The prompt becomes `literal` if the expansion contains `@`
    or a leading `/` and neither was written by the user: an answer must never act as a command of a CLI.

    Raises:
        InvalidRequest: as `expand_template`.
    """
    template = part.request.prompt
    answer = previous.result.text if previous else ""
    if previous and previous.part.dry_run:  # a command is no answer, so the place stays
        answer = "{{previous}}"
    request = replace(part.request, prompt=expand_template(template, answer, answers, chain.input))
    if "@" in request.prompt or request.prompt.lstrip().startswith("/"):
        marks = {name: text and "{" for name, text in answers.items()}
        of_user = expand_template(template, answer and "{", marks, chain.input)
        acts = "@" in of_user or _COMMAND.match(of_user) is not None
        request = replace(request, literal=of_user != request.prompt and not acts)
    if part.follows and previous and previous.workdir:
        request = replace(request, workdir=previous.workdir)
    return replace(part, request=request)


def warnings(chain: Chain) -> Iterator[str]:
    """Yield what stays unfilled in the prompts although it looks like a place."""
    earlier: set[str] = set()
    for index, part in enumerate(chain.parts):
        template, at = part.request.prompt, f"steps[{index}].prompt"
        meant = dict(misspelt_steps(template, earlier))
        for text, place in meant.items():
            has_none = chain.input is None and place == _INPUT
            why = ": no input is given" if has_none else f"; what is filled in is {place}"
            yield f"{at}: {text} stays as it is{why}"
        for place in unknown_steps(template, earlier):
            if place not in meant:
                yield f"{at}: {place} names no earlier step, and stays as it is"
        if chain.input is None and _INPUT in template:
            yield f"{at}: {_INPUT} stays as it is: no input is given"
        earlier.add(part.name)
