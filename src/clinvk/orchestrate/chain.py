"""Steps one after the other, each with the answers of those before it, by templates with three kinds of places."""

import re
from collections.abc import Iterator, Mapping, Set

from msgspec.structs import replace

from clinvk.orchestrate.parts import Performing
from clinvk.runtime.process.waiting import beside_loop
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Chain, Part, PartResult

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


_INPUT = "{{input}}"
_COMMAND = re.compile(r"\s*/[^\s{]+(?!\S)")


async def perform(performing: Performing, chain: Chain) -> tuple[PartResult, ...]:
    """Run the steps that are not done; give the results of all that ran, the earlier ones first."""
    results = list(chain.done)
    told = {result.part.name: result.result.text for result in results}
    for index, part in enumerate(chain.parts[len(results) :], len(results)):
        previous = results[-1] if results else None
        try:
            filled = await beside_loop(len(part.request.prompt), _filled, chain, part, previous, told)
        except InvalidRequest as exc:
            result = await performing.refuse(index, part, exc)
        else:
            is_moved = filled.request.workdir != part.request.workdir
            result = await performing.perform(index, filled, (part.request.workdir or "") if is_moved else "")
        results.append(replace(result, part=part))
        if not part.dry_run:
            told[part.name] = result.result.text
        if performing.stopped or (result.error and chain.stop_on_failure):
            break
    return tuple(results)


def _filled(chain: Chain, part: Part, previous: PartResult | None, told: Mapping[str, str]) -> Part:
    """Give a step with its prompt filled in by what was `told`, in the directory of the one before if it follows it."""
    template, answer = part.request.prompt, _answer(previous)
    request = replace(part.request, prompt=expand(template, answer, told, chain.input))
    if "@" in request.prompt or request.prompt.lstrip().startswith("/"):
        marks = {name: _marked(text) for name, text in told.items()}
        of_user = expand(template, _marked(answer), marks, chain.input)
        request = replace(request, literal=of_user != request.prompt and not _acts(of_user))
    if part.follows and previous and previous.workdir:
        request = replace(request, workdir=previous.workdir)
    return replace(part, request=request)


def _marked(answer: str) -> str:
    """Give what stands for an answer in what the user has written."""
    return answer and "{"


def _acts(of_user: str) -> bool:
    """Say whether the user has written a command of a CLI or named a file; else no answer may be taken for that."""
    return "@" in of_user or _COMMAND.match(of_user) is not None


def _answer(previous: PartResult | None) -> str:
    """Give what the step before answered; what a dry run shows instead is no answer, so that its place stays."""
    if previous is None:
        return ""
    return "{{previous}}" if previous.part.dry_run else previous.result.text


def warnings(chain: Chain) -> Iterator[str]:
    """Name what stays as it is in the prompts, though it looks as if it were to be filled in."""
    earlier: set[str] = set()
    for index, part in enumerate(chain.parts):
        template, at = part.request.prompt, f"steps[{index}].prompt"
        meant = dict(misspelt(template, earlier))
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
