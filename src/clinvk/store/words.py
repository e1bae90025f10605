"""The words of runs, in which full-text search looks, and the queries for them.

Every database gets the same words, so each finds the same: letters and digits, casefolded. A sign between words, as in
`foo_bar.baz` or `--flag`, separates them, and a text without spaces between words, as Chinese, is one word a character.
What users type are words, never the syntax of a database.
"""

import re
from typing import NamedTuple

from clinvk.store.rows import case_folded
from clinvk.types.record import RunRecord

INDEXED_CHARS = 200_000
"""How much of a run the index has, in characters."""

_WORD_CHARS = 100
_BEFORE, _AFTER = 60, 140
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_WORD = re.compile(rf"[^\W_]{{1,{_WORD_CHARS}}}")


class RunMatch(NamedTuple):
    """Where a search has found a session: a run, and the text around the hit on one line."""

    run_id: str
    text: str


def _words(text: str) -> list[str]:
    return _WORD.findall(_UNSPACED.sub(r" \g<0> ", case_folded(text)))


def indexed_words(run: RunRecord) -> str:
    """Return the words of the prompts and the answer of a run, for the index."""
    return " ".join(_words(_text(run)[:INDEXED_CHARS]))


def phrases(text: str) -> list[list[str]]:
    """Return what a run must have: for each typed word its parts in a row. The last part may be a beginning."""
    return [words for part in text.split() if (words := _words(part))]


def match_of(run: RunRecord, text: str) -> RunMatch:
    """Return where the run has a searched text: around the first of its words that the run has as typed."""
    whole = _text(run)
    typed = (r"[\W_]*".join(map(re.escape, words)) for words in phrases(text))
    hits = (re.search(rf"(?<![^\W_]){each}", whole, re.IGNORECASE) for each in typed)
    at = next((hit.start() for hit in hits if hit), 0)
    start, end = max(0, at - _BEFORE), at + _AFTER
    shown = " ".join(whole[start:end].split())
    return RunMatch(run.id, f"{'…' if start else ''}{shown}{'…' if end < len(whole) else ''}")


def _text(run: RunRecord) -> str:
    return "\n".join((run.prompt, *(prompt.text for prompt in run.steering), run.output))
