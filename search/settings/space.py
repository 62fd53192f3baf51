"""The space of settings: what a sampler suggests, and the refinement that a suggestion stands for."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keystep.core.config import GSNg, IterRef, LossWeights, Refinement
from keystep.search.spec.search_spec import Range, SearchSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SAME_TIMESTEP = 0.5  # timesteps are whole numbers, or (flow matching) written to the nearest one


class Space:
    """The settings that a spec lets a search choose from, on one schedule.

    A setting is known by its params: `step_index`, `gsng`, `cn`, `iou`, `iterations`, `step_size`, `optimizer`, of
    which those with a single choice are left out.

    Args:
        spec: the search.
        timesteps: of the sampler, one a step: `Sampler.timesteps`, or `keystep.search.spec.schedule.timesteps_of`.

    Attributes:
        trials: settings tried, at most.

    Raises:
        ValueError: a step, a timestep or a range of guidance outside the schedule; with its key.
    """

    def __init__(self, spec: SearchSpec, timesteps: Sequence[float]):
        self.spec = spec.space
        self.trials = spec.search.trials
        self.timesteps = tuple(float(value) for value in timesteps)
        self._scheduler = spec.sampler.scheduler
        self.steps = self._resolved_steps()
        self._check_guidance()
        self.gsng = {gsng_label(choice): choice for choice in self.spec.gsng}
        self._choices: dict[str, tuple[Any, ...] | Range] = {
            "step_index": self.steps,
            "gsng": tuple(self.gsng),
            "cn": self.spec.cn,
            "iou": self.spec.iou,
            "iterations": self.spec.iterations,
            "step_size": self.spec.step_size,
            "optimizer": self.spec.optimizer,
        }
        self._fixed = {
            name: values[0]
            for name, values in self._choices.items()
            if not isinstance(values, Range) and len(values) == 1
        }

    @property
    def varied(self) -> dict[str, tuple[Any, ...] | Range]:
        """The choices of every param, by name: those that have more than one."""
        return {name: values for name, values in self._choices.items() if name not in self._fixed}

    @property
    def size(self) -> int | None:
        """How many settings there are; None if a range makes them innumerable."""
        if self.spec.ranges:
            return None
        return math.prod(len(values) for values in self.varied.values() if not isinstance(values, Range))

    @property
    def iteration_counts(self) -> tuple[int, ...]:
        """The choices of iterations, ascending: the counts at which a longer run is worth keeping."""
        return tuple(sorted(self.spec.iterations))

    def distributions(self) -> "dict[str, BaseDistribution]":
        """What an Optuna sampler draws from, by param."""
        return {name: _distribution(name, values) for name, values in self.varied.items()}

    def grid(self) -> Iterator[dict[str, Any]]:
        """The params of every setting, always in this order: steps turn fastest, so that the first pass over them is
        a whole curve.

        Raises:
            ValueError: there are innumerable settings.
        """
        for name in self.spec.ranges:
            raise ValueError(f"space.{name} is a range, which has no grid: list its values")
        names = list(reversed(self.varied))
        for values in itertools.product(*(self.varied[name] for name in names)):  # pyright: ignore
            chosen = dict(zip(names, values, strict=True))
            yield {name: chosen[name] for name in self.varied}

    def refinement(self, params: Mapping[str, Any]) -> Refinement:
        """The setting that params stand for.

        Raises:
            ValueError: params that are not this space's, or a value outside it.
        """
        if set(params) != set(self.varied):
            raise ValueError(f"params are {', '.join(self.varied) or 'none'}, got {', '.join(params) or 'none'}")
        for name, values in self.varied.items():
            if not _contains(values, params[name]):
                raise ValueError(f"{name} {params[name]!r} is not in the space ({_shown(values)})")
        values = {**self._fixed, **params}
        return Refinement(
            weights=LossWeights(cn=values["cn"], iou=values["iou"]),
            iterref=IterRef(
                step_index=values["step_index"],
                iterations=values["iterations"],
                step_size=values["step_size"],
                schedule=self.spec.schedule,
                optimizer=values["optimizer"],
                threshold=self.spec.threshold,
            ),
            gsng=self.gsng[values["gsng"]],
            attention=self.spec.attention,
        )

    def params(self, refinement: Refinement) -> dict[str, Any]:
        """The params of a setting of this space: `refinement` the other way round.

        Raises:
            ValueError: a setting that is not in the space.
        """
        iterref = refinement.iterref
        if iterref is None:
            raise ValueError("a setting without iterative refinement is not in the space")
        values: dict[str, Any] = {
            "step_index": iterref.step_index,
            "gsng": gsng_label(refinement.gsng),
            "cn": refinement.weights.cn,
            "iou": refinement.weights.iou,
            "iterations": iterref.iterations,
            "step_size": iterref.step_size,
            "optimizer": iterref.optimizer,
        }
        params = {name: values[name] for name in self.varied}
        if self.refinement(params) != refinement:
            raise ValueError(f"the setting is not in the space: {refinement!r}")
        return params

    def guidance_alone(self) -> tuple[Refinement, ...]:
        """Every choice of guidance without iterative refinement, with the weights nearest to 1."""
        weights = LossWeights(cn=_nearest_to_one(self.spec.cn), iou=_nearest_to_one(self.spec.iou))
        return tuple(
            Refinement(weights=weights, gsng=choice, attention=self.spec.attention)
            for choice in self.spec.gsng
            if choice is not None
        )

    def _resolved_steps(self) -> tuple[int, ...]:
        last = len(self.timesteps) - 1
        if self.spec.timesteps is not None:
            steps = tuple(self._step_at(timestep) for timestep in self.spec.timesteps)
            if len(set(steps)) < len(steps):
                raise ValueError("space.timesteps: two of them are the same step of the schedule; leave one out")
            return steps
        if self.spec.steps == "all":
            return tuple(range(last + 1))
        for place, step in enumerate(self.spec.steps):
            if step > last:
                raise ValueError(f"space.steps.{place}: step index {step} is outside the schedule: {self._schedule()}")
        return self.spec.steps

    def _step_at(self, timestep: float) -> int:
        nearest = min(range(len(self.timesteps)), key=lambda step: abs(self.timesteps[step] - timestep))
        if abs(self.timesteps[nearest] - timestep) > SAME_TIMESTEP:
            raise ValueError(
                f"space.timesteps: {timestep:g} is not in the schedule; the nearest is {self.timesteps[nearest]:g}, at "
                f"step index {nearest}: {self._schedule()}"
            )
        return nearest

    def _check_guidance(self) -> None:
        num_steps = len(self.timesteps)
        for place, choice in enumerate(self.spec.gsng):
            if choice is not None and (not choice.step_range(num_steps) or (choice.stop or 0) > num_steps):
                raise ValueError(
                    f"space.gsng.{place}: start {choice.start} and stop {choice.stop} name no steps, or steps outside "
                    f"the schedule: {self._schedule()}"
                )

    def _schedule(self) -> str:
        return (
            f"{self._scheduler} has steps 0..{len(self.timesteps) - 1}, timesteps {self.timesteps[0]:g} to "
            f"{self.timesteps[-1]:g} (sampler.num_inference_steps sets how many)"
        )


def gsng_label(choice: GSNg | None) -> str:
    """`off`, `on`, or what is other than the default: `start=2 stop=10`."""
    if choice is None:
        return "off"
    changed = choice.model_dump(exclude_defaults=True)
    return " ".join(f"{name}={value}" for name, value in changed.items()) or "on"


def _contains(values: tuple[Any, ...] | Range, value: Any) -> bool:
    return values.low <= value <= values.high if isinstance(values, Range) else value in values


def _shown(values: tuple[Any, ...] | Range) -> str:
    return f"{values.low} to {values.high}" if isinstance(values, Range) else ", ".join(map(str, values))


def _nearest_to_one(values: tuple[float, ...] | Range) -> float:
    if isinstance(values, Range):
        return min(max(1.0, values.low), values.high)
    return min(values, key=lambda value: abs(value - 1))


def _distribution(name: str, values: tuple[Any, ...] | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Range):
        return FloatDistribution(values.low, values.high, log=values.log)
    if name == "step_index":
        # Neighbouring steps do alike: evenly spaced ones are numbers to the sampler, not names.
        gaps = {after - before for before, after in itertools.pairwise(sorted(values))}
        if len(gaps) == 1:
            return IntDistribution(min(values), max(values), step=gaps.pop())
    return CategoricalDistribution(values)
