"""Lists of models in the form of OpenAI's API: https://platform.openai.com/docs/api-reference/models."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """An available model. The release date is not known."""

    id: Annotated[str, Meta(description="The value for `model` in requests.", examples=["claude/opus"])]
    object: Literal["model"] = "model"
    created: Literal[0] = 0
    owned_by: Annotated[str, Meta(description="The backend of the model.")]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    data: list[Model]
    object: Literal["list"] = "list"
