"""The callback in stock pipelines against the sampler's own loop, and everything that must not pass silently."""

from typing import Any

import pytest
import torch
from torch import Tensor

from keystep.core.backbones import backbone_for
from keystep.core.callback import StepRefinement
from keystep.core.config import GSNg, IterRef, Refinement, StepConfig
from keystep.core.prompts import Entity, Prompt
from keystep.core.sampling import Sampler
from tests.core.sampling_cases import PROMPTS, largest_difference, pipe_for, sampler_config, use_scheduler
from tests.tiny_models import TINY_MODELS

STEPS = 4
FULL = Refinement(iterref=IterRef(step_index=1, iterations=2, step_size=20.0), gsng=GSNg(start=0, stop=3))
LATE = Refinement(iterref=IterRef(step_index=2, iterations=2, step_size=20.0))
FIRST = Refinement(iterref=IterRef(step_index=0, iterations=2, step_size=20.0))


def tiny_pipe(model: str) -> Any:
    """Of a name such as "sd", or "sd-bf16" for the same in bfloat16."""
    kind, _, half = model.partition("-")
    if half and model not in _halves:
        _halves[model] = TINY_MODELS[kind](seed=0).to(torch.bfloat16)
        _halves[model].set_progress_bar_config(disable=True)
    return _halves[model] if half else pipe_for(model)


_halves: dict[str, Any] = {}


def step_config(model: str, scheduler: str, refinement: Refinement, **changes: Any) -> StepConfig:
    sampler = sampler_config(scheduler, **{"num_inference_steps": STEPS, "height": 64, "width": 64} | changes)
    timesteps = Sampler(backbone_for(tiny_pipe(model)), sampler).timesteps
    timestep = None if refinement.iterref is None else float(timesteps[refinement.iterref.step_index])
    return StepConfig(model=model, sampler=sampler, refinement=refinement, timestep=timestep)


def ready_pipe(model: str, config: StepConfig) -> Any:
    pipe = tiny_pipe(model)
    use_scheduler(pipe, config.sampler)
    return pipe


def by_sampler(model: str, config: StepConfig, prompts: Any, seeds: Any, refined: bool = True) -> Tensor:
    sampler = Sampler(backbone_for(tiny_pipe(model)), config.sampler)
    conditioning = sampler.backbone.encode(prompts)
    refinement = config.refinement if refined else None
    return sampler.advance(sampler.start(seeds), conditioning, refinement=refinement).point.latents


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize(
    ("model", "scheduler"),
    [
        ("sd", "ddpm"),
        ("sd", "pndm-plms"),
        ("sd-bf16", "euler"),
        ("sdxl", "euler"),
        ("sdxl-bf16", "euler"),
        ("sd3", "flow"),
        ("sd3-bf16", "flow"),
    ],
)
def test_images_are_the_samplers(model: str, scheduler: str, guidance_scale: float) -> None:
    """Two prompts, two images each, with refinement before steps 0, 1 and 2: to the last bit, in any precision.

    Euler's start is divided by a sigma and multiplied again on its way into the pipeline. Sampler rounds it so too: the
    random SDXL makes 3 out of 1e-6 in one refinement.
    """
    config = step_config(model, scheduler, FULL, guidance_scale=guidance_scale)
    pipe = ready_pipe(model, config)
    refine = StepRefinement(config, PROMPTS[:2])
    seeds = [5, 3, 1, 7]
    images = pipe(**refine.arguments(pipe, seeds, num_images_per_prompt=2), output_type="latent").images
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    expected = by_sampler(model, config, prompts, seeds)
    assert torch.equal(images, expected)
    assert [(trace.step_index, trace.kind) for trace in refine.traces] == [
        (0, "gsng"),
        (1, "iterref"),
        (1, "gsng"),
        (2, "gsng"),
    ]
    plain = by_sampler(model, config, prompts, seeds, refined=False)
    assert largest_difference(images, plain) > 5e-3 * expected.abs().max().item()


def test_one_argument_is_enough_when_step_0_is_left_alone() -> None:
    config = step_config("sd", "ddpm", LATE)
    refine = StepRefinement(config, PROMPTS[0])
    for seed in (4, 6):  # one object, several calls
        images = ready_pipe("sd", config)(
            PROMPTS[0].text,
            num_inference_steps=STEPS,
            height=64,
            width=64,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=refine,
            output_type="latent",
        ).images
        assert largest_difference(images, by_sampler("sd", config, PROMPTS[:1], [seed])) <= 1e-4
        assert [trace.step_index for trace in refine.traces] == [2]


def own_call(config: StepConfig, **more: Any) -> dict[str, Any]:
    sampler = config.sampler
    arguments = {
        "prompt": PROMPTS[0].text,
        "num_inference_steps": sampler.num_inference_steps,
        "height": 64,
        "width": 64,
        "guidance_scale": sampler.guidance_scale,
        "output_type": "latent",
    }
    return arguments | more


def test_step_0_in_a_call_of_ones_own() -> None:
    config = step_config("sd", "euler-ancestral", FIRST)
    pipe = ready_pipe("sd", config)
    refine = StepRefinement(config, PROMPTS[0])
    generators = [torch.Generator().manual_seed(seed) for seed in (8, 9)]
    latents = refine.latents(pipe, generators, num_images_per_prompt=2)
    call = own_call(config, num_images_per_prompt=2, callback_on_step_end=refine)
    images = pipe(**call, generator=generators, latents=latents).images
    expected = by_sampler("sd", config, [PROMPTS[0]] * 2, [8, 9])
    assert torch.equal(images, expected)
    assert [trace.step_index for trace in refine.traces] == [0]


def test_step_0_without_its_latents_is_an_error() -> None:
    config = step_config("sd", "ddpm", FIRST)
    pipe = ready_pipe("sd", config)
    refine = StepRefinement(config, PROMPTS[0])
    call = own_call(config, callback_on_step_end=refine)
    with pytest.raises(ValueError, match=r"refines before step 0.*refine\.arguments"):
        pipe(**call)
    refine.latents(pipe)  # made, but not passed
    with pytest.raises(ValueError, match="did not start from refined latents"):
        pipe(**call)
    latents = refine.latents(pipe)
    pipe(**call, latents=latents)
    with pytest.raises(ValueError, match="did not start from refined latents"):
        pipe(**call)  # a second call needs its own
    assert not pipe.unet._forward_pre_hooks


def test_latents_that_no_call_starts_from_leave_nothing_behind() -> None:
    config = step_config("sd", "ddpm", FIRST)
    pipe = ready_pipe("sd", config)
    before = len(pipe.unet._forward_pre_hooks)
    refine = StepRefinement(config, PROMPTS[0])
    refine.latents(pipe)
    assert len(pipe.unet._forward_pre_hooks) == before + 1
    del refine
    assert len(pipe.unet._forward_pre_hooks) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 3}, "chosen for 4 sampling steps, and 3 are run"),
        ({"prompt": "a cat"}, "called with other prompts"),
        ({"prompt": ["a cat", "a dog"]}, "called with other prompts"),
    ],
)
def test_a_call_that_does_not_fit_the_config_is_an_error(changes: dict[str, Any], message: str) -> None:
    config = step_config("sd", "ddpm", LATE)
    pipe = ready_pipe("sd", config)
    with pytest.raises(ValueError, match=message):
        pipe(**own_call(config) | changes, callback_on_step_end=StepRefinement(config, PROMPTS[0]))


def test_another_scheduler_is_an_error_that_says_how_to_set_it() -> None:
    config = step_config("sd", "ddpm", LATE)
    pipe = pipe_for("sd")  # comes with DDIM
    refine = StepRefinement(config, PROMPTS[0])
    for call in (
        lambda: refine.arguments(pipe, [0]),
        lambda: refine.latents(pipe),
        lambda: pipe(**own_call(config), callback_on_step_end=refine),
    ):
        with pytest.raises(ValueError, match=r"set pipe\.scheduler = diffusers\.DDPMScheduler\.from_config"):
            call()


def test_prompts_seeds_and_images_have_to_match() -> None:
    config = step_config("sd", "ddpm", LATE)
    pipe = ready_pipe("sd", config)
    with pytest.raises(ValueError, match="at least one prompt"):
        StepRefinement(config, [])
    with pytest.raises(ValueError, match="2 prompts with 3 images each need 6 seeds, got 2"):
        StepRefinement(config, PROMPTS[:2]).arguments(pipe, [0, 1], num_images_per_prompt=3)
    with pytest.raises(ValueError, match="1 images, which 2 prompts cannot share"):
        pipe(**own_call(config), callback_on_step_end=StepRefinement(config, PROMPTS[:2]))
    with pytest.raises(ValueError, match="'dog'"):
        missing = Prompt("a cat", [Entity("dog")])
        pipe(**own_call(config, prompt="a cat"), callback_on_step_end=StepRefinement(config, missing))
