"""The base of every value that a user writes: frozen, strict about types, and plain about mistakes."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

Item = TypeVar("Item")
SHOWN = 200  # characters of a wrong value
MAX_SHOWN = 10**30


def _list_as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def did_you_mean(word: str, choices: list[str]) -> str:
    """``; did you mean 'x'?`` if one of the choices is close to the word, else nothing."""
    close = get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


FromList = BeforeValidator(_list_as_tuple)
"""Lets a tuple field also be written as a list, which is what JSON and YAML have."""

FloatPair = Annotated[tuple[float, float], FromList]


class FrozenModel(BaseModel):
    """A pydantic model that cannot change after it was checked.

    Types are not coerced (``"3"`` and ``True`` are no integers; an integer is a float, a list is a tuple),
    NaN and infinity are refused, and an unknown field is an error that lists the fields there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            allowed = list(cls.model_fields)
            unknown = [str(key) for key in data if key not in cls.model_fields]
            if unknown:
                names = ", ".join(repr(name) for name in unknown)
                raise ValueError(
                    f"{cls.__name__} has no field {names}{did_you_mean(unknown[0], allowed)} "
                    f"(the fields are {', '.join(allowed)})"
                )
        return data

    @classmethod
    def from_plain(cls, data: object, source: str) -> Self:
        """Check plain data (what JSON or YAML gave) and build the value.

        Args:
            data: a mapping of plain values, nested as the fields are.
            source: where the data came from, for the message: a path, a name.

        Raises:
            ValueError: one line a mistake, each with the path of its field.
        """
        if not isinstance(data, Mapping):
            raise ValueError(
                f"{source}: expected a mapping with the fields {', '.join(cls.model_fields)}, got {type(data).__name__}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ValueError(f"{source} is not a valid {cls.__name__}:\n{mistakes(error)}") from None


def mistakes(error: ValidationError) -> str:
    """The mistakes of a validation error, one a line: ``refinement.iterref.iterations: ... (got 0)``."""
    lines = []
    for detail in error.errors(include_url=False):
        place = ".".join(str(part) for part in detail["loc"]) or error.title
        message = detail["msg"].removeprefix("Value error, ")
        given = detail["input"]
        # Our own messages (value_error) say what they got where it matters.
        simple = isinstance(given, str | int | float) and detail["type"] != "value_error"
        shown = f" (got {_short(given)})" if simple or given is None else ""
        lines.append(f"  {place}: {message}{shown}")
    return "\n".join(lines)


def _short(value: object) -> str:
    """The value as Python writes it, its middle left out if it is long; digits are not counted out one by one."""
    if isinstance(value, int) and abs(value) > MAX_SHOWN:
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 4 :]}"
