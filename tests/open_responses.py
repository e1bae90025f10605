"""Check responses and the events of streams against the types of Open Responses: https://www.openresponses.org."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import openresponses_types
from openresponses_types import ResponseResource
from pydantic import BaseModel

Json = dict[str, Any]


def _event_types() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield each kind of event with its type."""
    for name, type_ in vars(openresponses_types).items():
        if name.endswith("StreamingEvent"):
            kind = type_.model_fields["type"].annotation
            yield next(iter(kind)).value, type_


EVENTS: Mapping[str, type[BaseModel]] = dict(_event_types())


def check_response(response: Json) -> Json:
    """Return a response after its check. The package takes no schema in the form of an answer, unlike its source."""
    form = response["text"]["format"]
    schemaless = {
        **response,
        "text": {**response["text"], "format": {**form, "schema": None} if "schema" in form else form},
    }
    ResponseResource.model_validate(schemaless)
    return response


def check_event(event: Json) -> Json:
    """Return an event of a stream after its check."""
    if "response" in event:
        check_response(event["response"])
        assert event["type"] in EVENTS
        assert isinstance(event["sequence_number"], int)
    else:
        EVENTS[event["type"]].model_validate(event)
    return event


def events_of(lines: Iterable[str]) -> list[Json]:
    """Return the events of a stream, each after its check; the name of an event is its type."""
    events: list[Json] = []
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            events.append(check_event(json.loads(value)))
            assert events[-1]["type"] == name
        else:
            assert not field, line
    return events
