"""Forms that an MCP server or an agent shows: elicitation (https://modelcontextprotocol.io/specification)."""

import msgspec

from clinvk.backends.shared import decode_line
from clinvk.types.interaction import FieldOption, InteractionAnswer, QuestionField


class _Constant(msgspec.Struct, frozen=True):
    const: str
    title: str = ""


class _Items(msgspec.Struct, frozen=True, rename="camel"):
    enum: tuple[str, ...] = ()
    any_of: tuple[_Constant, ...] = ()


class _Field(msgspec.Struct, frozen=True, rename="camel"):
    """A field, with the attributes of a JSON Schema."""

    type: str = "string"
    title: str | None = None
    description: str | None = None
    enum: tuple[str, ...] = ()
    one_of: tuple[_Constant, ...] = ()
    items: _Items = _Items()

    @property
    def label(self) -> str:
        """The title with the description, as far as the form has them."""
        if self.title and self.description:
            return f"{self.title} ({self.description})"
        return self.title or self.description or ""

    @property
    def labels_by_value(self) -> dict[str, str]:
        """The labels of the values by value; empty if any value is valid."""
        if self.type == "boolean":
            return {"true": "yes", "false": "no"}
        return dict.fromkeys(self.enum or self.items.enum, "") | {
            one.const: one.title for one in self.one_of or self.items.any_of
        }


_VALUES: dict[str, msgspec.json.Decoder[object]] = {
    "boolean": msgspec.json.Decoder(bool),
    "integer": msgspec.json.Decoder(int),
    "number": msgspec.json.Decoder(int | float),
}


class Form(msgspec.Struct, frozen=True):
    """The fields of a form by name."""

    properties: dict[str, _Field] = {}

    @property
    def questions(self) -> tuple[QuestionField, ...]:
        """The fields as the fields of an interaction."""
        return tuple(
            QuestionField(
                id=name,
                label=field.label or name,
                options=tuple(FieldOption(value, title) for value, title in field.labels_by_value.items()),
                multiple=field.type == "array",
            )
            for name, field in self.properties.items()
        )

    def result(self, answer: InteractionAnswer) -> dict[str, object]:
        """Return the response to a request that shows the form."""
        if answer.choice in ("deny", "deny_and_stop"):
            return {"action": "decline"}
        return {"action": "accept", "content": self._content(answer)}

    def _content(self, answer: InteractionAnswer) -> dict[str, object]:
        """Return the values, without empty ones, in the types of the form."""
        content: dict[str, object] = {}
        for name, value in answer.answers.items():
            if isinstance(value, str) and (decoder := _VALUES.get(self.properties[name].type)):
                content[name] = decode_line(decoder, value.encode())
            elif value:
                content[name] = value
        return {name: value for name, value in content.items() if value is not None}
