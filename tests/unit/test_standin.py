"""The stand-in answers as its directives say, in each wire format."""

import http.client
import json
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from standin.directive import BadDirective, parse
from standin.document import JSON, Record, record, records, string
from standin.process import Address, running
from standin.wire import Call, written

WIRES = ("anthropic", "openai", "gemini")


class Client:
    """A client of one wire format."""

    def __init__(self, address: Address, wire: str) -> None:
        self.address = Address(address.root, uuid4().hex)
        self.wire = wire

    def post(self, prompt: str, *, stream: bool = True, turns: list[Record] | None = None) -> tuple[int, bytes]:
        path, body = self.request(prompt, stream, turns or [])
        url = urlsplit(self.address.url)
        connection = http.client.HTTPConnection(url.netloc, timeout=30)
        try:
            connection.request("POST", url.path + path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def events(self, prompt: str, turns: list[Record] | None = None) -> list[Record]:
        status, data = self.post(prompt, turns=turns)
        assert status == 200, data
        return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]

    def deltas(self, prompt: str) -> list[str]:
        """Return the pieces of text of a streamed answer."""
        return [text for event in self.events(prompt) for text in self._texts(event)]

    def _texts(self, event: Record) -> list[str]:
        match self.wire:
            case "anthropic":
                return [string(event["delta"], "text")] if "text" in record(event, "delta") else []
            case "openai":
                return [string(event, "delta")] if event["type"] == "response.output_text.delta" else []
            case _:
                return [string(part, "text") for part in parts(event) if "text" in part and not part.get("thought")]

    def request(self, prompt: str, stream: bool, turns: list[Record]) -> tuple[str, Record]:
        later: list[JSON] = [*turns]
        tools: list[JSON] = [{"name": "Bash"}, {"name": "apply_patch", "type": "custom"}]
        match self.wire:
            case "anthropic":
                first: JSON = {"role": "user", "content": [{"type": "text", "text": prompt}]}
                return "/v1/messages?beta=true", {
                    "model": "m",
                    "stream": stream,
                    "messages": [first, *later],
                    "tools": tools,
                }
            case "openai":
                first = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}
                return "/v1/responses", {"model": "m", "stream": stream, "input": [first, *later], "tools": tools}
            case _:
                method = "streamGenerateContent?alt=sse" if stream else "generateContent"
                first = {"role": "user", "parts": [{"text": prompt}]}
                declared: JSON = [{"functionDeclarations": [{"name": "run_shell_command"}]}]
                return f"/v1beta/models/m:{method}", {"contents": [first, *later], "tools": declared}


def parts(event: Record) -> list[Record]:
    return [
        part for candidate in records(event, "candidates") for part in records(record(candidate, "content"), "parts")
    ]


@pytest.fixture(params=WIRES)
def client(request: pytest.FixtureRequest, standin: Address) -> Client:
    return Client(standin, request.param)


@pytest.fixture
def claude(standin: Address) -> Client:
    return Client(standin, "anthropic")


def test_words_are_streamed_one_per_chunk(client: Client) -> None:
    assert client.deltas("hello [[words=3]]") == ["word1 ", "word2 ", "word3"]


def test_say_is_answered_verbatim(client: Client) -> None:
    assert "".join(client.deltas('[[say=" two  spaces,\ta tab"]]')) == " two  spaces,\ta tab"


def test_echo_repeats_the_prompt(client: Client) -> None:
    assert "".join(client.deltas("please [[echo]]")) == "please [[echo]]"


def test_unstreamed_answer_is_complete(client: Client) -> None:
    status, data = client.post("[[words=2]]", stream=False)
    assert status == 200
    assert b"word1 word2" in data


def test_errors_have_the_requested_status(client: Client) -> None:
    assert [client.post(f"[[error={status}]]")[0] for status in (400, 401, 429, 500, 529)] == [400, 401, 429, 500, 529]


def test_error_can_apply_to_the_first_requests_only(client: Client) -> None:
    assert [client.post("[[error=500 times=2]]")[0] for _ in range(3)] == [500, 500, 200]


def test_dropped_stream_ends_in_the_middle_of_its_body(client: Client) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.post("[[words=5 drop=2]]")
    assert b"word2" in caught.value.partial
    assert b"word3" not in caught.value.partial


def test_stream_can_report_an_error(client: Client) -> None:
    _, data = client.post("[[words=5 midstream=2]]")
    assert b"word2" in data
    assert b"word3" not in data
    assert b"Overloaded" in data


def test_delay_precedes_each_chunk(client: Client) -> None:
    start = time.monotonic()
    client.deltas("[[words=3 delay=0.1]]")
    assert time.monotonic() - start >= 0.3


def test_usage_matches_the_directive(client: Client) -> None:
    last = client.events("[[usage=100,20,30,10]]")[-2 if client.wire == "anthropic" else -1]
    wanted: dict[str, Record] = {
        "anthropic": {
            "usage": {
                **dict.fromkeys(("cache_creation_input_tokens",), 0),
                "input_tokens": 80,
                "cache_read_input_tokens": 20,
                "output_tokens": 30,
            }
        },
        "openai": {
            "usage": {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 20},
                "output_tokens": 30,
                "output_tokens_details": {"reasoning_tokens": 10},
                "total_tokens": 130,
            }
        },
        "gemini": {
            "usageMetadata": {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 20,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 10,
                "totalTokenCount": 130,
            }
        },
    }
    found = record(last, "response") if client.wire == "openai" else last
    assert wanted[client.wire].items() <= found.items()


def test_client_disconnect_is_recorded(client: Client) -> None:
    url = urlsplit(client.address.url)
    path, body = client.request("[[hang=30]]", True, [])
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("POST", url.path + path, json.dumps(body))
    connection.close()
    until = time.monotonic() + 30
    while time.monotonic() < until and [entry["outcome"] for entry in client.address.requests()] != ["left"]:
        time.sleep(0.02)
    assert [entry["outcome"] for entry in client.address.requests()] == ["left"]


def test_requests_are_found_by_caller_and_text(client: Client) -> None:
    client.post("a needle [[words=1]]")
    client.post("hay [[words=1]]")
    (found,) = client.address.requests("needle")
    assert (found["user"], found["status"], found["outcome"]) == ("a needle [[words=1]]", 200, "answered")
    assert len(client.address.requests()) == 2


def test_stand_in_exits_with_its_parent() -> None:
    with running() as address:
        pass
    with pytest.raises(OSError, match="refused"):
        address.requests()


def test_misspelled_directive_is_rejected_with_its_name(claude: Client) -> None:
    status, data = claude.post("[[wrods=3]]")
    assert status == 400
    assert b"wrods" in data


def test_several_texts_become_several_blocks(claude: Client) -> None:
    events = claude.events('[[say="one"]] [[say="two"]]')
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1]


def test_thinking_comes_first(claude: Client) -> None:
    kinds = [
        string(event["content_block"], "type")
        for event in claude.events("[[think=2 words=1]]")
        if "content_block" in event
    ]
    assert kinds == ["thinking", "text"]


def test_tool_calls_are_made_in_sequence_then_results_are_reported(claude: Client) -> None:
    prompt = '[[call Bash {"command": "a"}]] [[call Other {"x": [[1]]}]]'

    def ask(*turns: Record) -> list[Record]:
        return records(json.loads(claude.post(prompt, stream=False, turns=[*turns])[1]), "content")

    (first,) = ask()
    assert (first["name"], first["input"]) == ("Bash", {"command": "a"})
    answer: Record = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "1", "content": "out", "is_error": True}],
    }
    (second,) = ask({"role": "assistant", "content": [first]}, answer)
    assert (second["name"], second["input"]) == ("Other", {"x": [[1]]})
    (last,) = ask({"role": "assistant", "content": [first]}, answer, {"role": "assistant", "content": [second]}, answer)
    assert last["text"] == 'RESULTS [{"is_error":true,"output":"out"},{"is_error":true,"output":"out"}]'


def test_tool_calls_can_be_made_together() -> None:
    found = parse('[[call A {}]] [[call b.c "text"]] [[together]]', "")
    assert found.turns == [[Call("A", {}), Call("b.c", "text")]]


def test_script_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('[[["A", {"x": 1}], ["exec", "code", "space"]], [["B", {}]]]')
    turns = parse(f"go [[script {tmp_path}/s.json]]", "").turns
    assert turns == [[Call("A", {"x": 1}), Call("exec", "code", "space")], [Call("B", {})]]


def test_tool_is_called_even_if_the_cli_does_not_offer_it(claude: Client) -> None:
    content = records(json.loads(claude.post("[[tool=write path=/x]]", stream=False)[1]), "content")
    assert content[0]["name"] == "Write"


def test_codex_code_mode_gets_a_program(standin: Address) -> None:
    client = Client(standin, "openai")
    offer: Record = {"type": "additional_tools", "tools": [{"type": "custom", "name": "exec"}]}
    _, data = client.post('[[tool=shell cmd="ls"]]', stream=False, turns=[offer])
    (item,) = records(json.loads(data), "output")
    assert (item["type"], item["input"]) == ("custom_tool_call", 'text(await tools.exec_command({"cmd":"ls"}));')


def test_gemini_router_always_gets_json(standin: Address) -> None:
    client = Client(standin, "gemini")
    url = urlsplit(client.address.url)
    body = {
        "contents": [{"role": "user", "parts": [{"text": "[[error=500]]"}]}],
        "generationConfig": {"responseMimeType": "application/json"},
    }
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("POST", url.path + "/v1beta/models/m:generateContent", json.dumps(body))
    answer = connection.getresponse()
    text = string(parts(json.loads(answer.read()))[0], "text")
    connection.close()
    assert json.loads(text)["model_choice"] == "flash"


@pytest.mark.parametrize(
    "bad",
    [
        "[[words=many]]",
        "[[words]]",
        "[[delay=x]]",
        "[[tool=dig]]",
        "[[call]]",
        "[[call A {]]",
        "[[script /no/file]]",
        '[[say="x]]',
        "[[usage=1,a]]",
    ],
)
def test_invalid_directive_is_rejected(bad: str) -> None:
    with pytest.raises(BadDirective):
        parse(bad, "")


def test_other_double_brackets_are_text() -> None:
    assert parse("if [[ -f x ]]; see [[page]]", "words=5").values == {"words": "5"}


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (["<system-reminder>\nx [[error=500]]\n</system-reminder>\n", "real"], "real"),
        (["<environment_context>\n<cwd>/</cwd>\n</environment_context>real"], "real"),
        (["# AGENTS.md instructions for /x\n\n<INSTRUCTIONS>\na\n</INSTRUCTIONS>"], ""),
        (["use <b> tags"], "use <b> tags"),
    ],
)
def test_text_that_a_cli_prepends_is_not_part_of_the_prompt(sent: list[str], wanted: str) -> None:
    assert written(sent) == wanted
