"""Lists of models in the form of the Models API: https://docs.claude.com/en/api/models-list."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import json_bodies
from clinvk.types.errors import InvalidRequest


class Model(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    """An available model. The epoch means that the release date is not known."""

    id: str
    display_name: str
    created_at: Literal["1970-01-01T00:00:00Z"] = "1970-01-01T00:00:00Z"
    lifecycle: Literal["active"] = "active"


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the models, in the order of the whole list."""

    data: Sequence[Model]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ModelListing(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the list of models; unknown parameters are ignored."""

    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of models.")] = 20
    after_id: Annotated[str | None, Meta(description="Only models after this model.")] = None
    before_id: Annotated[str | None, Meta(description="Only models just before this model.")] = None


def page(models: Sequence[Model], query: bytes) -> ModelPage:
    """Return the requested page of a list.

    Raises:
        InvalidRequest: a parameter is invalid, or names no model of the list; names the parameter.
    """
    listing = json_bodies.parameters(query, ModelListing)
    ids = [model.id for model in models]
    if listing.before_id is not None:
        end = _place(ids, listing.before_id, "before_id")
        begin = max(0, end - listing.limit)
        has_more = begin > 0
    else:
        begin = 0 if listing.after_id is None else _place(ids, listing.after_id, "after_id") + 1
        end = begin + listing.limit
        has_more = end < len(ids)
    data = models[begin:end]
    return ModelPage(
        data=data, has_more=has_more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None
    )


def _place(ids: Sequence[str], id_: str, field: str) -> int:
    if id_ not in ids:
        raise InvalidRequest(f"{field} is {id_!r}, which is no model of the list", field)
    return ids.index(id_)
