"""The endpoints of the model APIs of OpenAI, Anthropic and Google, in the order of the OpenAPI document."""

import re
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from clinvk.api.endpoints import model_apis
from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.api.http.middleware import ANTHROPIC, OPENAI
from clinvk.api.openapi import endpoint as doc
from clinvk.api.openapi.endpoint import Endpoint, Json, Operation, Returns, Route, examples, header, json_endpoint
from clinvk.dialects import dialect, sse, vendor
from clinvk.dialects.anthropic import body as anthropic_body
from clinvk.dialects.anthropic import message as anthropic_message
from clinvk.dialects.google import Google
from clinvk.dialects.google import answer as google_answer
from clinvk.dialects.google import body as google_body
from clinvk.dialects.openai import chat_bodies
from clinvk.dialects.openai.chat import OpenAICompletions
from clinvk.dialects.openai.responses import body as response_body
from clinvk.dialects.openai.responses import response_object
from clinvk.types import errors
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES

_MODEL_PROMPT = (
    *(*doc.ANY_PROMPT, errors.ModelNotFound, errors.TimedOut),
    *(errors.AgentRejected, errors.AgentUnauthenticated, errors.AgentUnpaid),
    *(errors.AgentRateLimited, errors.AgentOverloaded),
)
_RESPONSE = (errors.RunNotFound, *doc.STORED)
_MODEL = (errors.ModelNotFound, *doc.GUARDED)
_COUNT = (errors.InvalidRequest, *doc.BODY, *doc.GUARDED)

_RESPONSE_PATH = "/openai/v1/responses/{id}"
_OF_RESPONSE: Sequence[tuple[doc.Method, str, doc.Handler, doc.ErrorDocs]] = (
    ("DELETE", "", model_apis.delete_response, (*doc.POLICY, errors.SessionBusy)),
    ("POST", "/cancel", model_apis.cancel_response, (errors.ForeignOrigin,)),
    ("GET", "/input_items", model_apis.list_input_items, ()),
)

_REQUEST_HEADERS = (
    header(vendor.SESSION, f"The session to continue with the last turn alone; `{vendor.NEW_SESSION}` begins one."),
    header(vendor.WORKDIR, "Absolute path of an existing directory that the agent works in.", pattern="^(/.*)?$"),
    header(vendor.APPROVAL, "auto: edits without asking; none: acts without asking.", enum=["", *APPROVAL_MODES]),
    header(vendor.SANDBOX, "read-only: writes nothing; workspace: in its directories only.", enum=["", *SANDBOX_MODES]),
    header(vendor.EVENTS, "`true`: the agent's tool calls appear as thinking.", enum=["", "true", "false", "1", "0"]),
    header(vendor.TOOLS, "Whose tools the model may call.", enum=["", *dialect.TOOLS_MODES]),
    header(vendor.ON_BUSY, "queue: wait while the session has a run in progress.", enum=["", "reject", "queue"]),
)
_RESPONSE_HEADERS = {
    "x-clinvk-run-id": "The run id.",
    "x-clinvk-session-id": "The session id, if the run belongs to a session.",
    "x-clinvk-ignored": "Fields of the body that have no effect, such as `tools`.",
}
_EVENTS: Json = {"schema": doc.TEXT_EVENT, "x-stream": "Server-sent events, with `stream: true`."}
_PROMPT = "What does this project do?"
_INPUT: dict[str, Json] = {"input": _PROMPT}
_QUESTION: dict[str, Json] = {"messages": [{"role": "user", "content": _PROMPT}]}


_GOOGLE_MODEL = "/gemini/v1beta/models/{id:path}"
_GOOGLE_ANSWER = google_answer.GenerateContentResponse
_GOOGLE_STREAM: dict[str, Json] = {
    "application/json": {"schema": {"type": "array", "items": doc.ref(_GOOGLE_ANSWER, "Google.")}},
    sse.MEDIA_TYPE: {"schema": doc.TEXT_EVENT, "x-stream": "Server-sent events, with `?alt=sse`."},
}
_GOOGLE_EXAMPLES = examples(
    "minimal",
    "Required fields only",
    {"contents": [{"role": "user", "parts": [{"text": _PROMPT}]}]},
)
_ANSWERED = "The agent has answered."


def _minimal(fields: Mapping[str, Json]) -> Mapping[str, Json]:
    return examples("minimal", "Required fields only", {"model": "claude", **fields})


def _model_run(
    route: Route,
    name: str,
    summary: str,
    body: type[msgspec.Struct],
    fields: Mapping[str, Json],
    answer: type[msgspec.Struct],
    *more: type[errors.ClinvkError],
) -> Endpoint:
    """Return the endpoint of a model API; `fields` are the body of an example."""
    returns = Returns(_ANSWERED, answer, _RESPONSE_HEADERS, {sse.MEDIA_TYPE: _EVENTS})
    refusals = (*more, *_MODEL_PROMPT)
    return Endpoint(
        route,
        Operation(name, summary, returns, refusals, headers=_REQUEST_HEADERS, body=body, examples=_minimal(fields)),
    )


def _google_run(name: str, summary: str, returns: Returns) -> Endpoint:
    """Return the endpoint of a method of Google's API."""
    app = partial(PromptEndpoint, Google(stream=name == "streamGenerateContent"))
    headers, body = _REQUEST_HEADERS, google_body.GenerateContentBody
    return Endpoint(
        Route("POST", f"{_GOOGLE_MODEL}:{name}", app, "prompt"),
        Operation(name, summary, returns, _MODEL_PROMPT, headers=headers, body=body, examples=_GOOGLE_EXAMPLES),
    )


_RESPONSES = partial(PromptEndpoint, model_apis.RESPONSES, expand_references=model_apis.expand_references)

MODEL_APIS = (
    _model_run(
        Route("POST", "/openai/v1/chat/completions", partial(PromptEndpoint, OPENAI), "prompt"),
        "chatCompletion",
        "Answer a conversation",
        chat_bodies.ChatBody,
        _QUESTION,
        chat_bodies.ChatAnswer,
    ),
    _model_run(
        Route("POST", "/openai/v1/responses", _RESPONSES, "prompt"),
        "createResponse",
        "Answer a conversation, or continue one",
        response_body.ResponseBody,
        _INPUT,
        response_object.Response,
        errors.PreviousNotFound,
    ),
    _model_run(
        Route("POST", "/openai/v1/completions", partial(PromptEndpoint, OpenAICompletions()), "prompt"),
        "completion",
        "Answer a text",
        chat_bodies.CompletionBody,
        {"prompt": _PROMPT},
        chat_bodies.CompletionAnswer,
    ),
    json_endpoint(
        "GET",
        _RESPONSE_PATH,
        model_apis.get_response,
        _RESPONSE,
        returns=Returns("The response.", response_object.Response, content={sse.MEDIA_TYPE: _EVENTS}),
        owner="response",
    ),
    *(
        json_endpoint(method, f"{_RESPONSE_PATH}{below}", handler, (*_RESPONSE, *more), owner="response")
        for method, below, handler, more in _OF_RESPONSE
    ),
    json_endpoint(
        "POST",
        "/openai/v1/responses/input_tokens",
        model_apis.count_input_tokens,
        _COUNT,
        body=response_body.InputTokensBody,
        examples=_minimal(_INPUT),
    ),
    json_endpoint("GET", "/openai/v1/models", model_apis.list_models, doc.GUARDED),
    json_endpoint("GET", "/openai/v1/models/{id:path}", model_apis.get_model, _MODEL),
    _model_run(
        Route("POST", "/anthropic/v1/messages", partial(PromptEndpoint, ANTHROPIC), "prompt"),
        "createMessage",
        "Answer a conversation",
        anthropic_body.MessagesBody,
        {**_QUESTION, "max_tokens": 1024},
        anthropic_message.Message,
    ),
    json_endpoint(
        "POST",
        "/anthropic/v1/messages/count_tokens",
        model_apis.count_tokens,
        _COUNT,
        body=anthropic_body.MessagesBody,
        examples=_minimal(_QUESTION),
    ),
    json_endpoint("GET", "/anthropic/v1/models", model_apis.list_anthropic_models, doc.GUARDED),
    json_endpoint("GET", "/anthropic/v1/models/{id:path}", model_apis.get_anthropic_model, _MODEL),
    _google_run("generateContent", "Answer a conversation", Returns(_ANSWERED, _GOOGLE_ANSWER, _RESPONSE_HEADERS)),
    _google_run(
        "streamGenerateContent",
        "Answer a conversation in pieces",
        Returns(_ANSWERED, None, _RESPONSE_HEADERS, _GOOGLE_STREAM, (_GOOGLE_ANSWER,)),
    ),
    json_endpoint(
        "POST",
        f"{_GOOGLE_MODEL}:countTokens",
        model_apis.count_google_tokens,
        _COUNT,
        body=google_body.CountTokensBody,
        examples=_GOOGLE_EXAMPLES,
    ),
    json_endpoint("GET", "/gemini/v1beta/models", model_apis.list_google_models, doc.GUARDED),
    json_endpoint("GET", _GOOGLE_MODEL, model_apis.get_google_model, _MODEL),
    Endpoint(Route("GET", "/v1/models", partial(doc.json_app, model_apis.list_models_of_either))),
    Endpoint(Route("GET", "/v1/models/{id:path}", partial(doc.json_app, model_apis.get_model_of_either))),
)

_NOT_OFFERED: Mapping[str, str] = {
    r"\w+ (cachedContents|interactions)": "stored content; send the whole conversation with generateContent",
    r"\w+ (embeddings|models/.+:(batchE|e)mbed\w+)": "embeddings; use the API of an embedding model",
    r"POST models/.+:\w+": "this method; use generateContent, streamGenerateContent or countTokens",
    r"\w+ (files|uploads)": "files; put images and text files into the messages, as base64",
    r"\w+ (messages/)?batches": "batches; send the requests one by one, or run many prompts with POST /api/v1/parallel",
    r"\w+ (images|videos)": "images and videos; use the API of an image model",
    r"\w+ (audio|realtime)": "audio; use the API of an audio model",
    r"\w+ moderations": "moderations; use the API of a moderation model",
    r"\w+ conversations": "conversations; continue a response with previous_response_id",
    r"POST responses/compact": "compaction, which agents do themselves; continue a response with previous_response_id",
    r"GET responses$": "the WebSocket mode and the list of responses; send POST with stream: true, or GET /api/v1/runs",
}
"""What the vendors offer and clinvk does not, and what to use instead, by patterns of method and path below `/v1`."""

_REQUEST = re.compile(r"(\w+ )(?:(?:/openai|/anthropic)?/v1|/gemini/v1beta)/(.+)")


def not_offered(request: str) -> str:
    """Return why there is no such request, and what to use instead; empty for a request that no vendor offers.

    A request is a method and a path, such as `POST /openai/v1/embeddings`.
    """
    if found := _REQUEST.fullmatch(request):
        for pattern, what_and_instead in _NOT_OFFERED.items():
            if re.match(rf"{pattern}(/|$)", found[1] + found[2]):
                return f"{request}: clinvk does not offer {what_and_instead}"
    return ""
