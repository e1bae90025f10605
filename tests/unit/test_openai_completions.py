"""OpenAI's older completions: what is read of a body, and the bytes of the answers."""

import json

import pytest

from clinvk.dialects.dialect import Call
from clinvk.dialects.openai.chat import OpenAICompletions
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, TextDelta, ThinkingDelta, Usage, gather
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

FACTS = RunFacts(run_id="r1", backend="claude", started_at=1_700_000_000.9)
ANSWER: list[Event] = [RunStarted("m"), ThinkingDelta("hmm"), TextDelta("Hi"), RunFinished("max_turns", Usage(2, 1))]
USAGE = (
    '"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0}}'
)


def parse(**fields: object) -> Call:
    return OpenAICompletions().parse(json.dumps({"model": "claude", "prompt": "say", **fields}).encode(), {})


def stream(call: Call, events: list[Event]) -> str:
    encoder = OpenAICompletions().encoder(call, FACTS)
    return b"".join(encoder.feed(event, 0.0) for event in events).decode()


def chunk(choice: str, tail: str = "") -> str:
    head = '{"id":"cmpl-r1","object":"text_completion","created":1700000000,"model":"claude","choices":['
    return f"data: {head}{choice}]{tail}}}\n\n"


def piece(text: str, reason: str = "null", tail: str = "") -> str:
    return chunk(f'{{"text":"{text}","index":0,"logprobs":null,"finish_reason":{reason}}}', tail)


@pytest.mark.parametrize("prompt", ["/help @x", ["/help @x"]])
def test_text_is_the_prompt(prompt: object) -> None:
    request = RunRequest(
        prompt="/help @x", model="claude", literal=True, ephemeral=True, max_tokens=16, stop=("\n",), thinking=False
    )
    call = parse(prompt=prompt, max_tokens=16, stop="\n", n=1, best_of=1, logprobs=5, suffix="", user="u")
    assert (call.request, call.model, call.stream) == (request, "claude", False)


def test_chat_id_header_sets_the_chat_of_the_call() -> None:
    body = json.dumps({"model": "claude", "prompt": "say"}).encode()
    call = OpenAICompletions().parse(body, {"x-openwebui-chat-id": "c-1"})
    assert call.chat
    assert (call.chat.name, call.chat.answered) == ("c-1", None)


@pytest.mark.parametrize(
    ("fields", "place", "said"),
    [
        ({"prompt": ""}, "prompt", "not blank"),
        ({"prompt": []}, "prompt", "one answer"),
        ({"prompt": ["a", "b"]}, "prompt", "one answer"),
        ({"prompt": [[5, 6]]}, "prompt[0]", "tokens"),
        ({"n": 2}, "n", "must be 1"),
        ({"suffix": "end"}, "suffix", "fills no gap"),
    ],
)
def test_invalid_field_is_named_in_the_error(fields: dict[str, object], place: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        parse(**fields)
    assert told.value.field == place
    assert said in told.value.message


def test_answer_matches_the_golden_bytes() -> None:
    assert OpenAICompletions().result(parse(), gather(ANSWER), FACTS).decode() == (
        '{"id":"cmpl-r1","object":"text_completion","created":1700000000,"model":"claude","choices":'
        f'[{{"text":"Hi","index":0,"logprobs":null,"finish_reason":"length"}}],{USAGE}}}'
    )


def test_stream_matches_the_golden_bytes() -> None:
    expected = [piece("Hi"), piece("", '"length"'), "data: [DONE]\n\n"]
    assert stream(parse(stream=True), ANSWER) == "".join(expected)


def test_usage_is_the_last_chunk_if_requested() -> None:
    said = stream(parse(stream=True, stream_options={"include_usage": True}), ANSWER)
    null = ',"usage":null'
    expected = [piece("Hi", tail=null), piece("", '"length"', null), chunk("", f",{USAGE}"), "data: [DONE]\n\n"]
    assert said == "".join(expected)


def test_echo_precedes_the_answer() -> None:
    call = parse(echo=True)
    assert json.loads(OpenAICompletions().result(call, gather(ANSWER), FACTS))["choices"][0]["text"] == "sayHi"
    assert stream(call, ANSWER).startswith(piece("say") + piece("Hi"))


def test_failure_in_the_stream_is_a_final_error() -> None:
    said = stream(parse(), [RunStarted(), RunFailed("agent_rate_limited", "too many")])
    assert said == (
        'data: {"error":{"message":"too many","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}\n\n'
    )
