"""Lists of models in the form of OpenAI's API: https://platform.openai.com/docs/api-reference/models."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be asked for. When it came out is not known here."""

    id: Annotated[str, Meta(description="What `model` of a request calls it.", examples=["claude/opus"])]
    object: Literal["model"] = "model"
    created: Literal[0] = 0
    owned_by: Annotated[str, Meta(description="Its backend.")]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    data: list[Model]
    object: Literal["list"] = "list"
