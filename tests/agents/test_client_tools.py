"""Client tools through the real agents: the official SDKs call tools of their own, as at the vendors."""
# The bodies are plain JSON, as users write them; the SDKs type them as unions of typed dictionaries.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOptionalIterable=false, reportOptionalMemberAccess=false, reportOperatorIssue=false, reportAssignmentType=false

import json

import pytest

from agents.machine import Machine
from agents.test_vendor_sdks import clients
from standin.document import records

CLIS = ("claude", "codex", "gemini")
FAILURES = ('"is_error":true', "The tool failed", "reported tool error")
"""What the model sees of a failed tool, by agent."""

WEATHER = {"type": "object", "properties": {"city": {"type": "string", "minLength": 2}}, "required": ["city"]}


def call_of(cli: str, city: str) -> str:
    """Return a prompt with which the model calls the tool by the name that it sees."""
    name = "mcp_client_get_weather" if cli == "gemini" else "get_weather"
    return f'[[call {name} {{"city": "{city}"}}]]'


@pytest.mark.parametrize("cli", CLIS)
async def test_chat_completions_answer_with_calls_and_take_outputs(machine: Machine, cli: str) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "description": "W", "parameters": WEATHER}}]
    messages = [{"role": "user", "content": f"[[together]] {call_of(cli, 'Rome')} {call_of(cli, 'Oslo')}"}]
    async with clients(machine) as each:
        first = await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
        choice = first.choices[0]
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert {json.loads(call.function.arguments)["city"] for call in calls} == {"Rome", "Oslo"}
        messages += [
            choice.message.model_dump(exclude_none=True),
            *({"role": "tool", "tool_call_id": call.id, "content": f"sun {call.id}"} for call in calls),
        ]
        second = await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
        assert second.choices[0].finish_reason == "stop"
        for call in calls:
            assert f"sun {call.id}" in second.choices[0].message.content
        again = await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
        assert again.choices[0].message.content == second.choices[0].message.content
        assert again.id == second.id != first.id
        assert await each.runs() == 1
        stream = await each.openai.chat.completions.create(
            model=cli, messages=[{"role": "user", "content": call_of(cli, "Rome")}], tools=tools, stream=True
        )
        deltas = [chunk.choices[0] async for chunk in stream if chunk.choices]
        calls = [call for each in deltas for call in each.delta.tool_calls or ()]
        assert {call.index for call in calls} == {0}
        assert [call.function.name for call in calls if call.function.name] == ["get_weather"]
        assert json.loads("".join(call.function.arguments for call in calls)) == {"city": "Rome"}
        assert deltas[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("cli", CLIS)
async def test_messages_answer_with_tool_use_and_take_results(machine: Machine, cli: str) -> None:
    tools = [{"name": "get_weather", "description": "W", "input_schema": WEATHER}]
    messages = [{"role": "user", "content": call_of(cli, "Rome")}]
    async with clients(machine) as each:
        async with each.anthropic.messages.stream(model=cli, max_tokens=99, messages=messages, tools=tools) as stream:
            first = await stream.get_final_message()
        assert first.stop_reason == "tool_use"
        [use] = [block for block in first.content if block.type == "tool_use"]
        assert use.input == {"city": "Rome"}
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "no weather", "is_error": True}
        messages += [
            {"role": "assistant", "content": first.model_dump()["content"]},
            {"role": "user", "content": [result]},
        ]
        second = await each.anthropic.messages.create(model=cli, max_tokens=99, messages=messages, tools=tools)
        assert second.stop_reason == "end_turn"
        assert "no weather" in second.content[0].text
        assert any(mark in second.content[0].text for mark in FAILURES)
        assert await each.runs() == 1


@pytest.mark.parametrize("cli", CLIS)
async def test_responses_answer_with_function_calls_and_take_outputs(machine: Machine, cli: str) -> None:
    tools = [{"type": "function", "name": "get_weather", "description": "W", "parameters": WEATHER, "strict": False}]
    async with clients(machine) as each:
        first = await each.openai.responses.create(model=cli, input=call_of(cli, "Rome"), tools=tools)
        [call] = [item for item in first.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"city": "Rome"}
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
        second = await each.openai.responses.create(
            model=cli, input=[output], tools=tools, previous_response_id=first.id
        )
        assert "sun" in second.output_text
        assert await each.runs() == 1
        conversation = [{"role": "user", "content": call_of(cli, "Rome")}]
        async with each.openai.responses.stream(model=cli, input=conversation, tools=tools, store=False) as stream:
            async for _ in stream:
                pass
            third = await stream.get_final_response()
        [call] = [item for item in third.output if item.type == "function_call"]
        items = [item.model_dump(exclude_none=True) for item in third.output]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        fourth = await each.openai.responses.create(
            model=cli, input=[*conversation, *items, output], tools=tools, store=False
        )
        assert "rain" in fourth.output_text
        assert await each.runs() == 2


@pytest.mark.parametrize("cli", CLIS)
async def test_client_gets_only_the_repaired_call_of_a_strict_tool(machine: Machine, cli: str) -> None:
    function = {"name": "get_weather", "description": "W", "parameters": WEATHER, "strict": True}
    tools = [{"type": "function", "function": function}]
    messages = [{"role": "user", "content": f"{call_of(cli, 'x')} {call_of(cli, 'Rome')}"}]
    async with clients(machine) as each:
        answer = await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
        [call] = answer.choices[0].message.tool_calls or ()
        assert json.loads(call.function.arguments) == {"city": "Rome"}
        assert await each.runs() == 1


@pytest.mark.parametrize("cli", CLIS)
async def test_answers_are_right_after_a_call_of_a_tool_that_nobody_has(machine: Machine, cli: str) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    one = call_of(cli, "Rome")
    messages = [{"role": "user", "content": f"[[call missing {{}}]] {one} {one}"}]
    async with clients(machine) as each:
        for _ in range(2):
            answer = await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
            [call] = answer.choices[0].message.tool_calls or ()
            messages += [
                answer.choices[0].message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": f"sun {call.id}"},
            ]
        answer = await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
        assert answer.choices[0].finish_reason == "stop"
        assert f"sun {call.id}" in (answer.choices[0].message.content or "")
        assert await each.runs() == 1


LONG = '{"city":"a city with a long name"}'
"""Arguments that the stand-in sends in several pieces."""
FUNCTIONS = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]


async def test_arguments_of_claude_stream_in_pieces(machine: Machine) -> None:
    prompt = f"[[call get_weather {LONG}]]"
    messages = [{"role": "user", "content": prompt}]
    function = {"type": "function", "name": "get_weather", "description": "W", "parameters": WEATHER, "strict": False}
    tool = {"name": "get_weather", "description": "W", "input_schema": WEATHER}
    async with clients(machine) as each:
        chat = await each.openai.chat.completions.create(
            model="claude", messages=messages, tools=FUNCTIONS, stream=True
        )
        calls = [chunk.choices[0].delta.tool_calls or () async for chunk in chat if chunk.choices]
        responses = await each.openai.responses.create(model="claude", input=prompt, tools=[function], stream=True)
        items = [event.delta async for event in responses if event.type == "response.function_call_arguments.delta"]
        messages_api = await each.anthropic.messages.create(
            model="claude", max_tokens=99, messages=messages, tools=[tool], stream=True
        )
        blocks = [event.delta.partial_json async for event in messages_api if event.type == "content_block_delta"]
        for pieces in ([call.function.arguments for delta in calls for call in delta], items, blocks):
            assert len(pieces) > 1
            assert "".join(pieces) == LONG
        [run] = [run for run in (await each.server.client.get("/api/v1/runs")).json()["runs"] if run["session_id"]]
        await each.server.client.post(f"/api/v1/runs/{run['id']}/cancel")
        events = (await each.server.client.get(f"/api/v1/runs/{run['id']}/events")).text
        assert events.count("a city with") == 1


async def test_pieces_of_a_second_call_of_claude_are_hidden_without_parallel_calls(machine: Machine) -> None:
    messages = [{"role": "user", "content": f"[[together]] [[call get_weather {LONG}]] [[call get_weather {LONG}]]"}]
    async with clients(machine) as each:
        stream = await each.openai.chat.completions.create(
            model="claude", messages=messages, tools=FUNCTIONS, stream=True, parallel_tool_calls=False
        )
        calls = [call async for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert "".join(call.function.arguments for call in calls) == LONG


async def test_stream_fails_if_claude_begins_a_call_again(machine: Machine) -> None:
    """The client has the beginning of a call that the model does not make. A whole answer has only the second call."""
    async with clients(machine) as each:
        body = {"model": "claude", "tools": FUNCTIONS}
        for stream in (False, True):
            prompt = f"[[midstream=2 times=1]] [[call get_weather {LONG}]] {stream}"
            answer = await each.server.client.post(
                "/openai/v1/chat/completions",
                json={**body, "messages": [{"role": "user", "content": prompt}], "stream": stream},
            )
            assert answer.status_code == 200, answer.text
            assert ("broke off" in answer.text) == stream
        assert (await each.server.client.get("/health")).json()["parked_runs"] == 1


NAMES = (
    *("a.b", "a_b", "a b", "ünï", "x" * 64, "mcp__a__b", "Bash", "ToolSearch", "StructuredOutput", "WebSearch"),
    *("exec_command", "shell", "request_user_input", "apply_patch", "update_plan", "run_shell_command", "Task"),
)
"""Names that an agent cannot take, or has for tools of its own."""


@pytest.mark.parametrize("cli", CLIS)
async def test_tools_of_any_name_are_offered_and_called(machine: Machine, cli: str) -> None:
    tools = [{"type": "function", "function": {"name": name, "description": f"<{name}>"}} for name in NAMES]
    async with clients(machine) as each:
        messages = [{"role": "user", "content": "hello"}]
        await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)
        request = machine.requests()[-1]
        offered = records(request, "tools")
        if cli == "gemini":
            offered = records(offered[0], "functionDeclarations")
        by_name = {
            name: str(tool["name"])
            for name in NAMES
            for tool in offered
            if f"<{name}>" in json.dumps(tool, ensure_ascii=False)
        }
        assert set(NAMES) - by_name.keys() == set()
        assert len(offered) == len(NAMES) + (cli == "codex")  # its request_user_input
        calls = " ".join(f"[[call {name} {{}}]]" for name in by_name.values())
        messages = [{"role": "user", "content": f"[[together]] {calls}"}]
        answer = (await each.openai.chat.completions.create(model=cli, messages=messages, tools=tools)).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert sorted(call.function.name for call in answer.message.tool_calls) == sorted(NAMES)


async def test_tools_with_a_schema_of_the_vendor_are_called(machine: Machine) -> None:
    async with clients(machine) as each:
        bash = {"type": "bash_20250124", "name": "bash"}
        messages = [{"role": "user", "content": '[[call bash {"command": "ls"}]]'}]
        message = await each.anthropic.messages.create(model="codex", max_tokens=99, messages=messages, tools=[bash])
        [use] = [block for block in message.content if block.type == "tool_use"]
        assert (use.name, use.input) == ("bash", {"command": "ls"})
        shell = {"type": "local_shell"}
        first = await each.openai.responses.create(
            model="claude", input='[[call local_shell {"command": ["ls", "-l"]}]]', tools=[shell]
        )
        [call] = [item for item in first.output if item.type == "local_shell_call"]
        assert (call.action.type, call.action.command) == ("exec", ["ls", "-l"])
        output = {"type": "local_shell_call_output", "id": call.call_id, "call_id": call.call_id, "output": "a.txt"}
        conversation = [{"role": "user", "content": '[[call local_shell {"command": ["ls", "-l"]}]]'}]
        items = [item.model_dump(exclude_none=True) for item in first.output]
        second = await each.openai.responses.create(
            model="claude", input=[*conversation, *items, output], tools=[shell], store=False
        )
        assert "a.txt" in second.output_text
        patch = {"type": "update_file", "path": "a.py", "diff": "@@"}
        third = await each.openai.responses.create(
            model="claude", input=f"[[call apply_patch {json.dumps(patch)}]]", tools=[{"type": "apply_patch"}]
        )
        [call] = [item for item in third.output if item.type == "apply_patch_call"]
        assert call.operation.path == "a.py"
        assert await each.runs() == 3


async def test_gemini_with_client_tools_obeys_no_file_of_the_project(machine: Machine) -> None:
    folder = machine.project / ".gemini"
    touch = f"touch {machine.project}/started"
    server = {"command": "sh", "args": ["-c", touch]}
    hooks = {"BeforeAgent": [{"hooks": [{"type": "command", "command": touch}]}]}
    (folder / "policies").mkdir(parents=True)
    (folder / "skills" / "marked").mkdir(parents=True)
    settings = {"mcpServers": {"own": server}, "hooks": hooks, "tools": {"core": ["run_shell_command"]}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "policies" / "deny.toml").write_text('[[rule]]\ntoolName = "*"\ndecision = "deny"\npriority = 999\n')
    (folder / "skills" / "marked" / "SKILL.md").write_text("---\nname: marked\ndescription: marked text\n---\nx")
    (folder / "system.md").write_text("marked text")
    (machine.project / ".env").write_text("GEMINI_SYSTEM_MD=true\n")
    tools = [{"name": "get_weather", "description": "W", "input_schema": WEATHER}]
    async with clients(machine) as each:
        messages = [{"role": "user", "content": call_of("gemini", "Rome")}]
        body = {"model": "gemini", "max_tokens": 99, "messages": messages, "tools": tools}
        answer = (await each.server.client.post("/anthropic/v1/messages", json=body)).json()
        assert [block["input"] for block in answer["content"]] == [{"city": "Rome"}]
    [request] = machine.requests()
    declared = [one["name"] for tool in records(request, "tools") for one in records(tool, "functionDeclarations")]
    assert declared == ["mcp_client_get_weather"]
    assert "marked text" not in json.dumps(request)
    assert not (machine.project / "started").exists()


OUTPUTS = {
    "number": ["42"],
    "list": ["[1,2]"],
    "null": ["null"],
    "true": ["true"],
    "quoted": ['"s"'],
    "empty": [""],
    "object": ['{"a":1}'],
    "object with content": ['{"content":[{"type":"text","text":"x"}]}'],
    "other letters": ["schön 雨 🌧"],
    "long": ["word " * 60_000],
    "two parts": ["one", "two"],
}
"""The texts of outputs, by the argument of the call."""

NO_OUTPUT = {"claude": "(get_weather completed with no output)"}
"""What the model sees of an empty output, by agent."""

FUNCTION = FUNCTIONS[0]["function"]
REQUESTS = {
    "chat": ("/openai/v1/chat/completions", "messages", {"tools": FUNCTIONS}),
    "responses": ("/openai/v1/responses", "input", {"tools": [{"type": "function", **FUNCTION}]}),
    "messages": (
        "/anthropic/v1/messages",
        "messages",
        {"tools": [{"name": "get_weather", "input_schema": WEATHER}], "max_tokens": 9},
    ),
}
"""The path, the field of the conversation, and other fields, by API."""


def output_of(arguments: str, kind: str) -> object:
    texts = OUTPUTS[json.loads(arguments)["city"]]
    return texts[0] if len(texts) == 1 else [{"type": kind, "text": text} for text in texts]


def answered(answer) -> list[object]:
    """Return the answer of an API with calls, and the outputs, as parts of the next conversation."""
    if choices := answer.get("choices"):
        message = choices[0]["message"]
        calls = [(call["id"], call["function"]["arguments"]) for call in message["tool_calls"]]
        return [
            message,
            *({"role": "tool", "tool_call_id": id_, "content": output_of(each, "text")} for id_, each in calls),
        ]
    if items := answer.get("output"):
        calls = [(call["call_id"], call["arguments"]) for call in items]
        kind = "function_call_output"
        return [
            *items,
            *({"type": kind, "call_id": id_, "output": output_of(each, "input_text")} for id_, each in calls),
        ]
    calls = [(use["id"], json.dumps(use["input"])) for use in answer["content"]]
    results = [{"type": "tool_result", "tool_use_id": id_, "content": output_of(each, "text")} for id_, each in calls]
    return [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": results}]


def seen_outputs(request, cli: str) -> dict[str, str]:
    """Return what the model sees of the outputs, by the argument of the call."""
    if cli == "gemini":
        parts = [part for content in request["contents"] for part in content["parts"]]
        calls = [part["functionCall"]["args"]["city"] for part in parts if "functionCall" in part]
        answers = [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]
        texts = [each.get("output", str(each or "")) for each in answers]
        marks = ("<untrusted_context>\n", "\n</untrusted_context>")
        return {city: text.replace(marks[0], "").replace(marks[1], "") for city, text in zip(calls, texts, strict=True)}
    if cli == "codex":
        calls = {item["call_id"]: json.loads(item["arguments"]) for item in request["input"] if "arguments" in item}
        answers = {item["call_id"]: item["output"] for item in request["input"] if "output" in item}
        assert [] not in answers.values()  # an output without a part is nothing that the vendor documents
    else:
        blocks = [block for message in request["messages"] for block in message["content"] if isinstance(block, dict)]
        calls = {block["id"]: block["input"] for block in blocks if block["type"] == "tool_use"}
        answers = {block["tool_use_id"]: block["content"] for block in blocks if block["type"] == "tool_result"}
    texts = {
        id_: each if isinstance(each, str) else "\n".join(part["text"] for part in each)
        for id_, each in answers.items()
    }
    return {call["city"]: texts[id_] for id_, call in calls.items()}


APIS = [*REQUESTS]
MATRIX = [pair for first in range(3) for pair in zip(CLIS, APIS[first:] + APIS[:first], strict=True)]
"""Each agent with each API; the first three cases have all agents and all APIs."""


@pytest.mark.first(3)
@pytest.mark.parametrize(("cli", "api"), MATRIX)
async def test_model_gets_each_output_as_the_client_sends_it(machine: Machine, cli: str, api: str) -> None:
    path, conversation, fields = REQUESTS[api]
    calls = " ".join(call_of(cli, name) for name in OUTPUTS)
    messages: list[object] = [{"role": "user", "content": f"[[together]] {calls}"}]
    async with clients(machine) as each:
        body = {"model": cli, **fields}
        first = (await each.server.client.post(path, json={**body, conversation: messages})).json()
        messages += answered(first)
        second = await each.server.client.post(path, json={**body, conversation: messages})
        assert second.status_code == 200, second.text
        assert await each.runs() == 1
    expected = {name: "\n".join(texts) or NO_OUTPUT.get(cli, "") for name, texts in OUTPUTS.items()}
    assert seen_outputs(machine.requests()[-1], cli) == expected
