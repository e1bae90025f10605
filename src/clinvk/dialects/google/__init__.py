"""Google's Gemini API: `models/{model}:generateContent`, `:streamGenerateContent`, `:countTokens`, models, and errors.

https://ai.google.dev/api. The path has the model and the form of the answer, so each request has a dialect of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from clinvk.dialects import json_bodies, sse, vendor
from clinvk.dialects.client_tools import ToolChoice, function
from clinvk.dialects.conversation import Conversation
from clinvk.dialects.dialect import Call
from clinvk.dialects.google import answer
from clinvk.dialects.google import body as bodies
from clinvk.dialects.google.answer import PULSE, ContentEncoder
from clinvk.dialects.google.body import CountTokensBody, FunctionDeclaration, GenerateContentBody, GenerationConfig
from clinvk.dialects.google.schema import Schema, answer_schema, json_schema
from clinvk.dialects.vendor import ModelName
from clinvk.types.errors import ClinvkError
from clinvk.types.events import RunFinished, RunResult
from clinvk.types.request import ClientTool, RunRequest
from clinvk.types.run import RunFacts

_encode = msgspec.json.Encoder().encode


class _Path(msgspec.Struct, frozen=True):
    """The name of the model in a path."""

    id: ModelName


class TokenCount(msgspec.Struct, frozen=True, rename="camel"):
    """How many tokens a request has, about."""

    total_tokens: int


class Google(vendor.ModelApi):
    """The dialect of `/gemini/v1beta/models/{model}:generateContent` and `:streamGenerateContent`."""

    pulse = PULSE
    fields: Mapping[str, str] = {
        **vendor.FIELDS,
        "prompt": "contents",
        "images": "contents",
        "system_prompt": "systemInstruction",
        "stop": "generationConfig.stopSequences",
        "effort": "generationConfig.thinkingConfig",
        "output_schema": "generationConfig.responseSchema",
    }

    def __init__(self, stream: bool = False, model: str = "", is_sse: bool = True) -> None:
        self._stream = stream
        self._model = model
        self._is_sse = is_sse
        self.stream_type = sse.MEDIA_TYPE if is_sse else self.result_type

    def of_path(self, path_params: Mapping[str, str], query: bytes) -> Self:
        """Return the dialect of a request. Without `alt=sse` a stream is a JSON array.

        Raises:
            InvalidRequest: the model has no name, or a name that is too long.
        """
        model = json_bodies.converted({"id": path_params["id"]}, _Path, "parameter").id
        is_sse = parse_qs(query.decode("latin-1")).get("alt") == ["sse"]
        return type(self)(self._stream, model, is_sse)

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request body.

        Raises:
            InvalidRequest: names the field.
        """
        return self._call(bodies.decode(body, GenerateContentBody), headers)

    def _call(self, body: GenerateContentBody, headers: Mapping[str, str]) -> Call:
        config = body.generation_config or GenerationConfig()
        thinking = config.thinking_config or bodies.ThinkingConfig()
        choice = (body.tool_config and body.tool_config.function_calling_config) or bodies.FunctionCallingConfig()
        tools = body.tools or ()
        request = RunRequest(
            prompt="",
            model=self._model,
            max_tokens=config.max_output_tokens,
            stop=config.stop_sequences or (),
            thinking=bool(thinking.include_thoughts),
            effort=_effort(thinking),
            output_schema=_schema(config),
            client_tools=tuple(_tools(tools, is_strict=choice.mode == "VALIDATED")),
        )
        conversation = Conversation(bodies.system(body.system_instruction), tuple(bodies.turns(body.contents)))
        options = vendor.header_options(headers)
        call = vendor.call(request, conversation, options, "contents", choice=_tool_choice(choice))
        is_hosted = any(tool.function_declarations is None for tool in tools)
        stop = vendor.ignored_stop(request, self.fields["stop"])
        ignored = (*(("tools",) if is_hosted else ()), *stop)
        return replace(call, stream=self._stream, model=self._model, ignored=ignored, fails_in_stream=self._stream)

    def count(self, body: bytes, headers: Mapping[str, str]) -> TokenCount:
        """Return the answer to a request for a token estimate; raise what `parse` raises."""
        parsed = bodies.decode(body, CountTokensBody)
        asked = parsed.generate_content_request or GenerateContentBody(contents=parsed.contents or [])
        return TokenCount(vendor.estimate(self._call(asked, headers).request))

    def encoder(self, call: Call, facts: RunFacts) -> ContentEncoder:
        """Return the encoder of one stream."""
        return ContentEncoder(call, facts, self._is_sse)

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the answer for a finished run."""
        assert isinstance(result.ending, RunFinished), "a run that failed is an error"
        return answer.response(answer.parts(result, call), call, facts, result.ending)

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return status and body for an error."""
        made = answer.error_answer(error)
        return made.error.code, _encode(made)


def _tools(tools: Sequence[bodies.Tool], is_strict: bool) -> Iterator[ClientTool]:
    """Yield the functions of the client."""
    for index, tool in enumerate(tools):
        for number, each in enumerate(tool.function_declarations or ()):
            place = f"tools[{index}].functionDeclarations[{number}].parameters"
            yield function(each.name, each.description, _arguments(each), is_strict, place)


def _arguments(declaration: FunctionDeclaration) -> Schema | None:
    if declaration.parameters_json_schema is not None:
        return declaration.parameters_json_schema
    return json_schema(declaration.parameters) if declaration.parameters else None


def _tool_choice(config: bodies.FunctionCallingConfig) -> ToolChoice:
    names = tuple(config.allowed_function_names or ())
    match config.mode:
        case "ANY":
            return ToolChoice("required", names)
        case "NONE":
            return ToolChoice("none")
        case _:
            return ToolChoice("auto", names)


def _effort(thinking: bodies.ThinkingConfig) -> str | None:
    """Return the level, or the effort nearest to the budget of thinking tokens; the model decides if it is negative."""
    level, budget = (thinking.thinking_level or "").lower(), thinking.thinking_budget
    if level and level != "thinking_level_unspecified":
        return level
    return None if budget is None or budget < 0 else vendor.effort_of(budget)


def _schema(config: GenerationConfig) -> Schema | None:
    """Return the schema of the answer. JSON without a schema is any object or array."""
    schema = config.response_json_schema or (config.response_schema and json_schema(config.response_schema)) or None
    if schema is None and config.response_mime_type != "application/json":
        return None
    return answer_schema(schema, is_text=config.response_mime_type == "text/x.enum")


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An available model."""

    name: str
    display_name: str
    supported_generation_methods: tuple[str, ...] = ("generateContent", "streamGenerateContent", "countTokens")


class ModelPage(msgspec.Struct, frozen=True):
    """All models, in one page."""

    models: Sequence[Model]


def model(name: str) -> Model:
    """Return the model with a name."""
    return Model(name=f"models/{name}", display_name=name)
