"""A step index must mean the timestep it meant when it was chosen: configs against real schedulers."""

from typing import Any

import pytest
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from keystep.core.config import IterRef, Refinement, SamplerConfig, StepConfig

SD = SamplerConfig(
    scheduler="DDPMScheduler",
    scheduler_config={"steps_offset": 1, "timestep_spacing": "leading"},
    num_inference_steps=50,
    guidance_scale=7.5,
    height=512,
    width=512,
)


def step_config(sampler: SamplerConfig = SD, step_index: int = 8, timestep: float = 821.0) -> StepConfig:
    return StepConfig(
        model="some/model",
        sampler=sampler,
        refinement=Refinement(iterref=IterRef(step_index=step_index)),
        timestep=timestep,
    )


def ready(scheduler: Any, steps: int) -> Any:
    scheduler.set_timesteps(steps)
    return scheduler


def ddpm(steps: int = 50, **changes: Any) -> DDPMScheduler:
    return ready(DDPMScheduler(**{"steps_offset": 1, "timestep_spacing": "leading", **changes}), steps)


def test_the_scheduler_of_the_config_is_accepted():
    # 50 steps, leading, offset 1: 981, 961, ..., so that 821 is at index (981 - 821) / 20 = 8.
    step_config().check_schedule(ddpm())
    step_config(step_index=2, timestep=941).check_schedule(ddpm())
    step_config(step_index=49, timestep=1).check_schedule(ddpm())


def test_flow_matching_timesteps_are_accepted():
    sampler = SamplerConfig(
        **{
            **dict(SD),
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "scheduler_config": {"shift": 3.0},
            "num_inference_steps": 28,
        }
    )
    scheduler = ready(FlowMatchEulerDiscreteScheduler(shift=3.0), 28)
    # Both ends of the grid are shifted ones, and the shift is applied to the grid again.
    low = 3 * 0.001 / (1 + 2 * 0.001)
    grid = [1 + index * (low - 1) / 27 for index in range(28)]
    for index in (0, 5, 27):
        timestep = 1000 * 3 * grid[index] / (1 + 2 * grid[index])
        step_config(sampler, index, timestep).check_schedule(scheduler)


def test_a_config_for_50_steps_used_with_30_says_what_to_do():
    with pytest.raises(ValueError, match=r"chosen for 50 sampling steps, and 30 are run.* num_inference_steps=50"):
        step_config().check_schedule(ddpm(30))


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (ddpm(steps_offset=0), "steps_offset=1 of DDPMScheduler, and the pipeline has 0"),
        (ready(DDIMScheduler(), 50), "chosen with DDPMScheduler, and the pipeline has DDIMScheduler"),
        (ready(PNDMScheduler(), 50), r"diffusers\.DDPMScheduler\.from_config"),
        (DDPMScheduler(steps_offset=1), "call scheduler.set_timesteps"),
    ],
    ids=["argument", "class", "remedy", "unset"],
)
def test_another_scheduler_is_refused(scheduler: Any, message: str):
    with pytest.raises(ValueError, match=message):
        step_config().check_schedule(scheduler)


def test_another_timestep_at_the_step_index_is_refused():
    sampler = SamplerConfig(**{**dict(SD), "scheduler_config": {}})
    with pytest.raises(
        ValueError, match=r"index 8 .* timestep 821, .* timestep 820 there \(nearest: 820 at step index 8"
    ):
        step_config(sampler=sampler).check_schedule(ddpm(steps_offset=0))
    with pytest.raises(ValueError, match=r"timestep 821 there \(nearest: 941 at step index 2\)"):
        step_config(timestep=941).check_schedule(ddpm())


def test_a_list_argument_survives_the_schedulers_configuration():
    sampler = SamplerConfig(
        **{
            **dict(SD),
            "scheduler": "EulerDiscreteScheduler",
            "scheduler_config": {"trained_betas": [0.1, 0.2, 0.3, 0.4]},
        }
    )
    scheduler = EulerDiscreteScheduler(num_train_timesteps=4, trained_betas=[0.1, 0.2, 0.3, 0.4])
    sampler = SamplerConfig(**{**dict(sampler), "num_inference_steps": 2})
    step_config(sampler, 0, 3.0).check_schedule(ready(scheduler, 2))
