"""Does a step index still mean the timestep that it meant when it was chosen?"""

from collections.abc import Mapping
from typing import Any

TOLERANCE = 0.01
"""Timesteps that differ by less are the same; float32 sigmas times 1000 are good to about 1e-4."""


def check_scheduler(scheduler: Any, name: str, arguments: Mapping[str, Any], num_steps: int) -> None:
    """Refuse a scheduler other than the one that a setting was chosen with.

    Args:
        scheduler: a diffusers scheduler, after ``set_timesteps``.
        name: the class it should be.
        arguments: what its configuration should hold, plain values.
        num_steps: the sampling steps it should be set to.

    Raises:
        ValueError: class, arguments or number of steps differ; says what to do.
    """
    remedy = (
        f"set pipe.scheduler = diffusers.{name}.from_config(pipe.scheduler.config, "
        "**config.sampler.scheduler_config), or select the step again for the scheduler at hand"
    )
    found = type(scheduler).__name__
    if found != name:
        raise ValueError(f"the step was chosen with {name}, and the pipeline has {found}: {remedy}")
    for key, wanted in arguments.items():
        value = _plain(scheduler.config.get(key))
        if value != wanted:
            raise ValueError(
                f"the step was chosen with {key}={wanted!r} of {name}, and the pipeline has {value!r}: {remedy}"
            )
    steps = scheduler.num_inference_steps
    if steps is None:
        raise ValueError(f"the scheduler has no schedule yet: call scheduler.set_timesteps({num_steps}) first")
    if steps != num_steps:
        raise ValueError(
            f"the step was chosen for {num_steps} sampling steps, and {steps} are run: a step index "
            f"means another timestep then. Run the pipeline with num_inference_steps={num_steps}, or "
            f"select the step again for {steps}"
        )


def check_timestep(scheduler: Any, step_index: int, timestep: float) -> None:
    """Refuse a schedule that has another timestep at the step index.

    Args:
        scheduler: a diffusers scheduler, after ``set_timesteps``.
        step_index: a position in its schedule.
        timestep: what was there when the step was chosen.

    Raises:
        ValueError: names what is there, and where the timestep is now.
    """
    given = [float(value) for value in scheduler.timesteps]
    there = given[step_index] if step_index < len(given) else None
    if there is not None and abs(there - timestep) <= TOLERANCE:
        return
    nearest = min(range(len(given)), key=lambda index: abs(given[index] - timestep))
    raise ValueError(
        f"step index {step_index} was chosen for timestep {timestep:g}, but the scheduler has "
        f"{'no step' if there is None else f'timestep {there:g}'} there (nearest: {given[nearest]:g} at step "
        f"index {nearest}). Give {type(scheduler).__name__} the arguments it had (timestep_spacing, "
        f"steps_offset, shift, ...) in sampler.scheduler_config, or select the step again"
    )


def _plain(value: Any) -> Any:
    """A value of a scheduler's configuration as JSON would give it back."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
