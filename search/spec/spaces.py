"""The part of a search's spec that says what is varied: the steps, and the settings of refinement at them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from keystep.core.config import MAX_ITERATIONS, MAX_NUMBER, AttentionChoice, GSNg
from keystep.core.frozen import FloatPair, FromList, FrozenModel

Optimizer = Literal["gd", "momentum", "adam"]
MAX_CHOICES = 1000  # of one dimension


class Range(FrozenModel):
    """Any number from `low` to `high`, both included.

    Args:
        low: the lowest, at least 0.
        high: the highest, above `low`.
        log: sample the logarithm evenly; `low` must be above 0 then.
    """

    low: float = Field(ge=0)
    high: float = Field(le=MAX_NUMBER)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low must be below high, got {self.low} and {self.high}; for one value write [{self.low}]"
            )
        if self.log and self.low == 0:
            raise ValueError("low must be above 0 with log: true")
        return self


_FLOATS = TypeAdapter(
    tuple[Annotated[float, Field(ge=0, le=MAX_NUMBER)], ...], config={"strict": True, "allow_inf_nan": False}
)
_STEPS = TypeAdapter(tuple[Annotated[int, Field(ge=0, lt=1000)], ...], config={"strict": True})


def _numbers(value: object) -> object:
    """A mapping is a Range, a number the one choice, a list the choices; errors keep their place in the spec."""
    if isinstance(value, Range):
        return value
    if isinstance(value, Mapping):
        return Range.model_validate(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of numbers, or a range {{low: 0.5, high: 2.0}}, got {value!r}")
    return _FLOATS.validate_python(tuple(value))


def _steps(value: object) -> object:
    if value == "all":
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be all, or a list of step indices such as [0, 4, 8], got {value!r}")
    return _STEPS.validate_python(tuple(value))


def _gsng(value: object) -> object:
    """`off` and `on` are False and True in YAML."""
    if value in ("off", False):
        return None
    return GSNg() if value in ("on", True) else value


def _different(values: Any) -> Any:
    if isinstance(values, tuple):
        if not values:
            raise ValueError("must list at least one of its values")
        if len(values) > MAX_CHOICES:
            raise ValueError(f"lists {len(values):,} values; at most {MAX_CHOICES:,} can be told apart: give a range")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ValueError(f"lists {twice[0]!r} twice")
    return values


Numbers = Annotated[tuple[float, ...] | Range, BeforeValidator(_numbers)]
Steps = Annotated[Literal["all"] | tuple[int, ...], BeforeValidator(_steps)]
GsngChoice = Annotated[GSNg | None, BeforeValidator(_gsng)]


class SpaceSpec(FrozenModel):
    """What the search may choose from. Every list is one of its dimensions; a list of one value is fixed.

    Args:
        steps: step indices at which to refine iteratively, 0 the noisiest, or `all`.
        timesteps: the same by the timesteps that the scheduler gives them, instead of steps.
        gsng: guidance at a range of steps beside it: off, on (the first half of sampling), or
            {start: 0, stop: null, step_size: 20}.
        cn: weights of the loss against neglected entities, a list or {low: 0.5, high: 2.0, log: false}.
        iou: weights of the loss against mixed entities, likewise.
        iterations: shifts at the refined step, at most.
        step_size: scales of a shift at the refined step, a list or a range.
        optimizer: gd, momentum, adam.
        schedule: two numbers a, b: of N steps, step i has the step size step_size * sqrt(linspace(a, b, N)[i]).
        threshold: loss at or below which a sample stops before its iterations are done; null never.
        attention: which attention maps the losses see; null leaves it to the model's rule.
    """

    steps: Steps = "all"
    timesteps: Annotated[tuple[Annotated[float, Field(ge=0)], ...] | None, FromList] = None
    gsng: Annotated[tuple[GsngChoice, ...], FromList] = (None,)
    cn: Numbers = (1.0,)
    iou: Numbers = (1.0,)
    iterations: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_ITERATIONS)], ...], FromList] = (50,)
    step_size: Numbers = (20.0,)
    optimizer: Annotated[tuple[Optimizer, ...], FromList] = ("gd",)
    schedule: FloatPair = (1.0, 1.0)
    threshold: float | None = Field(default=None, ge=0)
    attention: AttentionChoice = AttentionChoice()

    _all_different = field_validator("steps", "timesteps", "gsng", "cn", "iou", "iterations", "step_size", "optimizer")(
        _different
    )

    @field_validator("step_size")
    @classmethod
    def _moves(cls, value: tuple[float, ...] | Range) -> tuple[float, ...] | Range:
        if _can_be_zero(value):
            raise ValueError("must be above 0: a step size of 0 moves nothing")
        return value

    @field_validator("schedule")
    @classmethod
    def _some_step_size(cls, value: tuple[float, float]) -> tuple[float, float]:
        if min(value) < 0 or max(value) == 0:
            raise ValueError(f"must be two numbers >= 0, not both 0, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.timesteps is not None and self.steps != "all":
            raise ValueError("steps and timesteps both say where to refine: give one, and leave out the other")
        if _can_be_zero(self.cn) and _can_be_zero(self.iou):
            raise ValueError("cn and iou can both be 0, which would leave no loss: take 0 out of one of them")
        return self

    @property
    def ranges(self) -> dict[str, Range]:
        """The dimensions that are a range, by name: a space without any is finite."""
        values = {"cn": self.cn, "iou": self.iou, "step_size": self.step_size}
        return {name: value for name, value in values.items() if isinstance(value, Range)}


def _can_be_zero(value: tuple[float, ...] | Range) -> bool:
    return value.low == 0 if isinstance(value, Range) else 0 in value
