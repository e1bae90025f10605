"""The model APIs of OpenAI and Anthropic, for the OpenAPI document.

Their schemas are named after the vendor, `OpenAI.ChatBody`, and take fields that they do not list.
"""

import msgspec

from clinvk.api.openapi.operations import (
    Errors,
    Json,
    Kinds,
    answer,
    anything,
    body,
    by_id,
    header,
    operation,
    parameters,
    ref,
    success,
)
from clinvk.dialects import anthropic, sse, vendor
from clinvk.dialects.anthropic import body as anthropic_body
from clinvk.dialects.anthropic import error_bodies as anthropic_errors
from clinvk.dialects.anthropic import message as anthropic_answer
from clinvk.dialects.anthropic import models as anthropic_models
from clinvk.dialects.dialect import (
    BackendNotAllowed,
    BeyondPolicy,
    BodyTooLarge,
    BodyTooSlow,
    BudgetSpent,
    DirectoryNotAllowed,
    ForeignOrigin,
    HostRefused,
    KeyRefused,
    PreviousNotFound,
    RateLimited,
    WrongMediaType,
)
from clinvk.dialects.openai import chat_bodies as chat
from clinvk.dialects.openai import completions, error_bodies, models
from clinvk.dialects.openai.responses import body as responses
from clinvk.dialects.openai.responses import response_object as response
from clinvk.types.errors import (
    AgentFailed,
    AgentOverloaded,
    AgentRateLimited,
    AgentRejected,
    AgentUnauthenticated,
    AgentUnpaid,
    BackendUnavailable,
    ClinvkError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    ResourcesExhausted,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
    ShuttingDown,
    StoreUnavailable,
    TimedOut,
)
from clinvk.types.request import APPROVAL_MODES, SANDBOX_MODES

TAGS = {
    "OpenAI": "The API of OpenAI: clients get `/openai/v1` as their base URL. `/v1` leads here as well.",
    "Anthropic": "The API of Anthropic: clients get `/anthropic` as their base URL, or the server's own address.",
}

_OPENAI, _ANTHROPIC = "OpenAI.", "Anthropic."
_TYPES = {
    _OPENAI: (
        chat.ChatBody,
        chat.ChatAnswer,
        completions.CompletionBody,
        completions.CompletionAnswer,
        responses.ResponseBody,
        response.Response,
        models.ModelList,
        models.Model,
        error_bodies.ErrorAnswer,
    ),
    _ANTHROPIC: (
        anthropic_body.MessagesBody,
        anthropic_answer.Message,
        anthropic.TokenCount,
        anthropic_models.ModelPage,
        anthropic_models.Model,
        anthropic_errors.ErrorAnswer,
    ),
}

_GUARDED: Kinds = (KeyRefused, HostRefused, RateLimited, ShuttingDown, ClinvkError)
_BODY: Kinds = (InvalidRequest, BodyTooSlow, BodyTooLarge, WrongMediaType)
_MODEL: Kinds = (ModelNotFound, *_GUARDED)
_RUN: Kinds = (
    *_BODY,
    ForeignOrigin,
    DirectoryNotAllowed,
    BackendNotAllowed,
    BeyondPolicy,
    BudgetSpent,
    BackendUnavailable,
    ModelNotFound,
    SessionNotFound,
    SessionBusy,
    AgentRejected,
    AgentUnauthenticated,
    AgentUnpaid,
    AgentRateLimited,
    AgentOverloaded,
    AgentFailed,
    TimedOut,
    ResourcesExhausted,
    QueueFull,
    StoreUnavailable,
    *_GUARDED,
)


_OPENAI_ERRORS = Errors(error_bodies.STATUSES, "application/json", ref(error_bodies.ErrorAnswer, _OPENAI))
_ANTHROPIC_ERRORS = Errors(anthropic_errors.STATUSES, "application/json", ref(anthropic_errors.ErrorAnswer, _ANTHROPIC))


def paths() -> dict[str, Json]:
    """Give the operations by path and method."""
    return {**_openai_runs(), **_openai_records(), **_anthropic_runs(), **_anthropic_models()}


def components() -> dict[str, dict[str, Json]]:
    """Give the schemas by name."""
    found: dict[str, dict[str, Json]] = {}
    for group, types in _TYPES.items():
        _, schemas = msgspec.json.schema_components(
            types, schema_hook=anything, ref_template=f"#/components/schemas/{group}{{name}}"
        )
        found |= {group + name: schema for name, schema in schemas.items()}
    return found


def _openai_runs() -> dict[str, Json]:
    asked: Json = {"model": "claude", "messages": [{"role": "user", "content": "What does this project do?"}]}
    responding: Json = {"model": "claude", "input": "What does this project do?"}
    completing: Json = {"model": "claude", "prompt": "What does this project do?"}
    return {
        "/openai/v1/chat/completions": {
            "post": _run("chatCompletion", "Answer a conversation", chat.ChatBody, chat.ChatAnswer, asked, _OPENAI)
        },
        "/openai/v1/responses": {
            "post": _run(
                "createResponse",
                "Answer a conversation, or go on with one",
                responses.ResponseBody,
                response.Response,
                responding,
                _OPENAI,
                (PreviousNotFound,),
            )
        },
        "/openai/v1/completions": {
            "post": _run(
                "completion",
                "Answer a text",
                completions.CompletionBody,
                completions.CompletionAnswer,
                completing,
                _OPENAI,
            )
        },
    }


def _openai_records() -> dict[str, Json]:
    def get(name: str, summary: str, type_: type[msgspec.Struct], kinds: Kinds, *given: Json) -> dict[str, Json]:
        told = {"200": answer("It is.", type_, _OPENAI)}
        return operation(name, "OpenAI", summary, told, kinds, _OPENAI_ERRORS, parameters=[*given])

    kept: Kinds = (InvalidRequest, RunNotFound, StoreUnavailable, *_GUARDED)
    response_id = by_id("response", or_prefix=False)
    return {
        "/openai/v1/responses/{id}": {
            "get": get("getResponse", "Show a response that was stored", response.Response, kept, response_id)
        },
        "/openai/v1/responses/{id}/cancel": {
            "post": get(
                "cancelResponse",
                "End a response that is being made",
                response.Response,
                (*kept, ForeignOrigin),
                response_id,
            )
        },
        "/openai/v1/models": {"get": get("listModels", "List the models", models.ModelList, _GUARDED)},
        "/openai/v1/models/{id}": {
            "get": get("getModel", "Show a model", models.Model, _MODEL, by_id("model", or_prefix=False))
        },
    }


def _anthropic_runs() -> dict[str, Json]:
    asked: dict[str, Json] = {"model": "claude", "messages": [{"role": "user", "content": "What does it do?"}]}
    sent = anthropic_body.MessagesBody
    count = operation(
        "countTokens",
        "Anthropic",
        "Estimate the tokens of a message",
        {"200": answer("About so many; no model is asked.", anthropic.TokenCount, _ANTHROPIC)},
        (*_BODY, *_GUARDED),
        _ANTHROPIC_ERRORS,
        requestBody=body(sent, _example(asked), required=True, group=_ANTHROPIC),
    )
    message: Json = {**asked, "max_tokens": 1024}
    return {
        "/anthropic/v1/messages": {
            "post": _run("createMessage", "Answer a conversation", sent, anthropic_answer.Message, message, _ANTHROPIC)
        },
        "/anthropic/v1/messages/count_tokens": {"post": count},
    }


def _anthropic_models() -> dict[str, Json]:
    listed = {"200": answer("A part of the list.", anthropic_models.ModelPage, _ANTHROPIC)}
    shown = {"200": answer("It is.", anthropic_models.Model, _ANTHROPIC)}
    return {
        "/anthropic/v1/models": {
            "get": operation(
                "listAnthropicModels",
                "Anthropic",
                "List the models",
                listed,
                (InvalidRequest, *_GUARDED),
                _ANTHROPIC_ERRORS,
                parameters=parameters(anthropic_models.ModelListing),
            )
        },
        "/anthropic/v1/models/{id}": {
            "get": operation(
                "getAnthropicModel",
                "Anthropic",
                "Show a model",
                shown,
                _MODEL,
                _ANTHROPIC_ERRORS,
                parameters=[by_id("model", or_prefix=False)],
            )
        },
    }


def _run(
    name: str,
    summary: str,
    asked: type[msgspec.Struct],
    told: type[msgspec.Struct],
    example: Json,
    group: str,
    more: Kinds = (),
) -> dict[str, Json]:
    is_openai = group == _OPENAI
    content: dict[str, Json] = {
        "application/json": {"schema": ref(told, group)},
        sse.MEDIA_TYPE: {"schema": {"type": "string"}, "x-stream": "Server-sent events, with `stream: true`."},
    }
    return operation(
        name,
        "OpenAI" if is_openai else "Anthropic",
        summary,
        {"200": success("The agent has answered.", content, _HEADERS)},
        (*more, *_RUN),
        _OPENAI_ERRORS if is_openai else _ANTHROPIC_ERRORS,
        parameters=[*_GIVEN],
        requestBody=body(asked, _example(example), required=True, group=group),
    )


def _example(value: Json) -> dict[str, Json]:
    return {"minimal": {"summary": "Only what is needed", "value": value}}


_GIVEN = (
    header(vendor.SESSION, f"The session to continue with the last turn alone; `{vendor.NEW_SESSION}` begins one."),
    header(vendor.WORKDIR, "Absolute path of an existing directory that the agent works in.", pattern="^(/.*)?$"),
    header(vendor.APPROVAL, "auto: edits unasked; none: acts unasked.", enum=["", *APPROVAL_MODES]),
    header(vendor.SANDBOX, "read-only: writes nothing; workspace: in its directories only.", enum=["", *SANDBOX_MODES]),
    header(vendor.EVENTS, "`true`: what the agent does with its own tools shows as thinking.", enum=[*vendor.FLAGS]),
)
_HEADERS = {
    "x-clinvk-run-id": "clinvk's id of this run.",
    "x-clinvk-session-id": "The session that it is a turn of, if it is one.",
    "x-clinvk-ignored": "Fields of the body that have no effect, such as `tools`.",
}
