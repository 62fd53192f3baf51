"""Numbers on the command line: finite ones alone, which a range of typer's lets by."""

import math

import typer


def finite(value: float | None) -> float | None:
    """The value, as a callback of a typer option.

    Raises:
        BadParameter: infinity, or not a number.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value
