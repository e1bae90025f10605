"""Steps one after the other, each with what those before it answered."""

import re
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from clinvk.errors import InvalidRequest
from clinvk.orchestrate.performing import Performing
from clinvk.orchestrate.template import expand, misspelt, unknown_steps
from clinvk.plan import Chain, Part, PartResult
from clinvk.runtime.threads import beside_loop

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
