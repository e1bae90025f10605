"""What a type allows, in words, for messages about bodies, parameters and settings."""

from msgspec import inspect

NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
"""The pattern of a text that is not blank, with all that `str.strip` takes for space."""

NO_NUL = r"^[^\x00]*$"
"""The pattern of a text without NUL characters."""

_PATTERNS = {NOT_BLANK: " that is not blank", NO_NUL: " without NUL"}


def options(type_: inspect.Type) -> list[inspect.Type]:
    """Return the members of a union, null excluded, without the limits that JSON Schema alone has."""
    match type_:
        case inspect.Metadata(extra={"allowed": str()}):
            return [type_]
        case inspect.Metadata(type=bare):
            return options(bare)
        case inspect.UnionType(types=types):
            return [option for each in types for option in options(each)]
        case inspect.NoneType() | inspect.RawType():
            return []
        case _:
            return [type_]


def allowed_values(types: list[inspect.Type]) -> str:
    """Return the values that any of the types allows, in words: `a whole number from 0 to 9 or one of all, none`."""
    words = [str(value) for type_ in types if isinstance(type_, inspect.LiteralType) for value in type_.values if value]
    descriptions = [f"one of {', '.join(words)}" if len(words) > 1 else words[0]] if words else []
    descriptions += [_described(type_) for type_ in types if not isinstance(type_, inspect.LiteralType)]
    return " or ".join(dict.fromkeys(descriptions)) or "null"


def _described(type_: inspect.Type) -> str:
    match type_:
        case inspect.Metadata(extra={"allowed": str(description)}):
            words = description
        case inspect.StrType() as text:
            words = "a text" + _lengths(text.min_length, text.max_length, "characters")
            words += _PATTERNS.get(text.pattern or "", "")
        case inspect.DateType():
            words = "a day such as 2026-11-25"
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType() as number:
            words = "a whole number" + _bounds(number)
        case inspect.FloatType() as number:
            words = "a number" + _bounds(number)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) as items:
            each = allowed_values(options(item))
            lengths = _lengths(items.min_length, items.max_length, "items")
            words = f"a list{lengths}, each item {each}" if lengths or each != "a text" else "a list of texts"
        case inspect.DictType() | inspect.StructType():
            words = "a JSON object"
        case _:
            words = "valid JSON"
    return words


def _lengths(low: int | None, high: int | None, what: str) -> str:
    if low == high == 1:
        return f" of one {what.removesuffix('s')}"
    if low is not None and high is not None:
        return f" of {low} to {high} {what}"
    if low is not None:
        return f" of at least {low} {what.removesuffix('s') if low == 1 else what}"
    return "" if high is None else f" of at most {high} {what}"


def _bounds(number: inspect.IntType | inspect.FloatType) -> str:
    if number.ge is not None and number.le is not None:
        return f" from {number.ge:.16g} to {number.le:.16g}"
    limits = (("above", number.gt), ("of at least", number.ge), ("below", number.lt), ("up to", number.le))
    bounds = [f"{word} {limit:.16g}" for word, limit in limits if limit is not None]
    return f" {' and '.join(bounds)}" if bounds else ""
