"""Does a step index still mean the timestep that it meant when it was chosen?"""

from collections.abc import Mapping, Sequence
from typing import Any

TOLERANCE = 0.01
"""Timesteps that differ by less are the same; float32 sigmas times 1000 are good to about 1e-4."""


def check_scheduler(scheduler: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a scheduler other than the one that a setting was chosen with.

    Args:
        scheduler: a diffusers scheduler.
        name: the class it should be.
        arguments: what its configuration should hold, plain values.

    Raises:
        ValueError: class or arguments differ; says what to do.
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


def check_num_steps(scheduler: Any, num_steps: int) -> None:
    """Refuse another number of sampling steps than a setting was chosen for.

    Args:
        scheduler: a diffusers scheduler, after ``set_timesteps``.
        num_steps: what it should be set to.

    Raises:
        ValueError: it has another number, or none yet.
    """
    steps = scheduler.num_inference_steps
    if steps is None:
        raise ValueError(f"the scheduler has no schedule yet: call scheduler.set_timesteps({num_steps}) first")
    if steps != num_steps:
        raise ValueError(
            f"the step was chosen for {num_steps} sampling steps, and {steps} are run: a step index "
            f"means another timestep then. Run the pipeline with num_inference_steps={num_steps}, or "
            f"select the step again for {steps}"
        )


def check_run(expected: Any, scheduler: Any, *, first: float, num_run: int | None, refined: Sequence[int]) -> None:
    """Refuse a pipeline's call that runs through other timesteps than its scheduler has for the number of steps.

    Image-to-image (`strength`), `timesteps`, `sigmas`, `denoising_start`, `denoising_end` and `mu` make such calls.

    Args:
        expected: the scheduler as `set_timesteps` leaves it.
        scheduler: the pipeline's own, in the call.
        first: timestep of the call's first step.
        num_run: steps that the call makes; None if that is not known.
        refined: step indices at which latents are refined, the most telling first.

    Raises:
        ValueError: names a step, its timestep in the call, and the one it was chosen for.
    """
    wanted = [float(timestep) for timestep in expected.timesteps]
    given = [float(timestep) for timestep in scheduler.timesteps]
    start = next((index for index, timestep in enumerate(given) if _same(timestep, first)), None)
    run = [first] if start is None else given[start:][:num_run]
    differ = [index for index, timestep in enumerate(wanted[: len(run)]) if not _same(timestep, run[index])]
    unreached = [index for index in refined if index >= len(run)]
    step_index = next((index for index in refined if index in {*differ, *unreached}), None)
    if step_index is None and not differ:
        return
    step_index = differ[0] if step_index is None else step_index
    there = f"is timestep {run[step_index]:g}" if step_index < len(run) else f"is not run (it ends at {run[-1]:g})"
    raise ValueError(
        f"step index {step_index} was chosen for timestep {wanted[step_index]:g}, and in this call it {there}: the "
        f"call starts at timestep {first:g}, the schedule at {wanted[0]:g}. Leave out what gives a call another "
        "schedule (strength, timesteps, sigmas, denoising_start, denoising_end, mu), or select the step again for it"
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
    if there is not None and _same(there, timestep):
        return
    nearest = min(range(len(given)), key=lambda index: abs(given[index] - timestep))
    raise ValueError(
        f"step index {step_index} was chosen for timestep {timestep:g}, but the scheduler has "
        f"{'no step' if there is None else f'timestep {there:g}'} there (nearest: {given[nearest]:g} at step "
        f"index {nearest}). Give {type(scheduler).__name__} the arguments it had (timestep_spacing, "
        f"steps_offset, shift, ...) in sampler.scheduler_config, or select the step again"
    )


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE


def _plain(value: Any) -> Any:
    """A value of a scheduler's configuration as JSON would give it back."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
