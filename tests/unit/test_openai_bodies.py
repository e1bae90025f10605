"""Random bodies, wrong-typed and truncated ones: each is read, or refused as an invalid request."""

import json
import random

import pytest

from bodies import CHAT, COMPLETION, mutated
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.openai.chat import OpenAIChat, OpenAICompletions
from clinvk.types.errors import InvalidRequest
from standin.document import JSON


def refusal(dialect: Dialect, data: bytes) -> InvalidRequest | None:
    try:
        dialect.parse(data, {})
    except InvalidRequest as error:
        return error
    return None


@pytest.mark.parametrize(
    ("dialect", "body"), [(OpenAIChat(), CHAT), (OpenAICompletions(), COMPLETION)], ids=["chat", "completions"]
)
def test_mutated_body_is_parsed_or_refused_with_its_field(dialect: Dialect, body: JSON) -> None:
    assert refusal(dialect, json.dumps(body).encode()) is None
    chance = random.Random(4)
    refusals = [(data, refusal(dialect, data)) for data in (mutated(body, chance) for _ in range(500))]
    assert not [data for data, told in refusals if told and not told.field and "the body" not in told.message]
    assert {dialect.error(told, "r")[0] for _, told in refusals if told} == {400}
    assert 100 < sum(told is not None for _, told in refusals) < 500
