"""Calls that are not the config's: other timesteps, models, guidance, sizes. Refused or said, never passed over."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

from keystep.core.callback import StepRefinement
from keystep.core.config import GSNg, IterRef, Refinement, StepConfig
from keystep.core.generation import generate, load_pipeline
from tests.core.sampling_cases import PROMPTS, pipe_for, sampler_config
from tests.core.test_callback import own_call, ready_pipe, step_config
from tests.tiny_models import tiny_sd

AT_1 = Refinement(iterref=IterRef(step_index=1, iterations=1))
PICTURE = Image.new("RGB", (64, 64), (90, 140, 200))


def refined_call(pipe: Any, config: StepConfig, **more: Any) -> StepRefinement:
    refine = StepRefinement(config, PROMPTS[0])
    arguments = own_call(config, callback_on_step_end=refine) | more
    pipe(**{name: value for name, value in arguments.items() if value is not None})
    return refine


def image_to_image(model: str, config: StepConfig) -> Any:
    """The stock pipeline of the same components. Four steps of DDPM are 751, 501, 251, 1 (leading, offset 1)."""
    pipe = ready_pipe(model, config)
    kind = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3"}[model]
    extra = {"requires_safety_checker": False} if model == "sd" else {}
    made = getattr(diffusers, f"{kind}Img2ImgPipeline")(**pipe.components, **extra)
    made.set_progress_bar_config(disable=True)
    return made


# At half strength four steps are the last two. Flow matching: a line from 1 to shift(0.001), shifted by 3x / (1 + 2x).
@pytest.mark.parametrize(
    ("model", "scheduler", "chosen", "there"),
    [("sd", "ddpm", 501, 1), ("sdxl", "ddpm", 501, 1), ("sd3", "flow", 857.692, 8.92857)],
)
def test_image_to_image_is_refused_with_both_timesteps(model: str, scheduler: str, chosen: float, there: float) -> None:
    config = step_config(model, scheduler, AT_1)
    pipe = image_to_image(model, config)
    more = {"image": PICTURE, "callback_on_step_end_tensor_inputs": StepRefinement.tensor_inputs}
    if model != "sd3":
        more |= {"height": None, "width": None}
    with pytest.raises(
        ValueError,
        match=rf"step index 1 was chosen for timestep {chosen:g}, and in this call it is "
        rf"timestep {there:g}: .*strength",
    ):
        refined_call(pipe, config, strength=0.5, **more)
    refine = refined_call(pipe, config, strength=1.0, **more)  # the config's own timesteps
    assert [trace.step_index for trace in refine.traces] == [1]


def test_a_pipeline_that_hides_its_embeddings_is_told_to_show_them() -> None:
    config = step_config("sd3", "flow", AT_1)
    pipe = image_to_image("sd3", config)
    with pytest.raises(ValueError, match=r"callback_on_step_end_tensor_inputs=refine\.tensor_inputs"):
        refined_call(pipe, config, image=PICTURE, strength=1.0)


@pytest.mark.parametrize(
    ("model", "scheduler", "changes", "message"),
    [
        (
            "sd",
            "ddpm",
            {"timesteps": [800, 600, 300, 10]},
            "chosen for timestep 501, and in this call it is timestep 600",
        ),
        # The refined step is as it was, the way to it is not.
        ("sd", "ddpm", {"timesteps": [900, 501, 251, 1]}, "step index 0 was chosen for timestep 751, .* timestep 900"),
        ("sd3", "flow", {"sigmas": [0.9, 0.6, 0.3, 0.1]}, "step index 1 was chosen for timestep 857.692"),
        (
            "sdxl",
            "ddpm",
            {"denoising_end": 0.3},
            "chosen for timestep 501, and in this call it is not run .*ends at 751",
        ),
        (
            "sdxl",
            "ddpm",
            {"timesteps": [800, 600, 300, 10]},
            "chosen for timestep 501, and in this call it is timestep 600",
        ),
    ],
)
def test_a_schedule_of_the_calls_own_is_refused(model: str, scheduler: str, changes: Any, message: str) -> None:
    config = step_config(model, scheduler, AT_1)
    pipe = ready_pipe(model, config)
    custom = {"num_inference_steps": None} if "timesteps" in changes or "sigmas" in changes else {}
    with pytest.raises(ValueError, match=message):
        refined_call(pipe, config, **custom, **changes)


def test_guidance_alone_is_held_to_its_schedule_too() -> None:
    config = step_config("sd", "ddpm", Refinement(gsng=GSNg(start=1, stop=3)))
    assert config.timestep is None
    with pytest.raises(ValueError, match=r"step index 1 was chosen for timestep 501, .* timestep 600"):
        refined_call(ready_pipe("sd", config), config, num_inference_steps=None, timesteps=[800, 600, 300, 10])


def test_a_call_that_ends_after_the_refined_step_is_the_configs() -> None:
    """As a base model in front of a refiner makes it: every step that it runs is at the config's timestep."""
    config = step_config("sdxl", "ddpm", AT_1)
    refine = refined_call(ready_pipe("sdxl", config), config, denoising_end=0.6)
    assert [trace.step_index for trace in refine.traces] == [1]


@pytest.mark.parametrize("model", ["sd", "sdxl", "sd3"])
def test_another_guidance_scale_or_size_is_said_with_both(model: str) -> None:
    config = step_config(model, "flow" if model == "sd3" else "ddpm", AT_1)
    pipe = ready_pipe(model, config)
    with pytest.warns(UserWarning, match=r"selected with guidance_scale 4, and this call has 2\.5"):
        refined_call(pipe, config, guidance_scale=2.5)
    with pytest.warns(UserWarning, match="images of 64 x 64 px, and this call makes 64 x 96"):
        refined_call(pipe, config, width=96)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        refined_call(pipe, config)
    off = step_config(model, "flow" if model == "sd3" else "ddpm", AT_1, guidance_scale=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        refined_call(ready_pipe(model, off), off, guidance_scale=0.0)  # off either way


def embedded_config(model: str = "keystep/shapes-sd", **changes: Any) -> StepConfig:
    sampler = sampler_config("ddpm", num_inference_steps=2, guidance_scale=1.5, height=64, width=64)
    return StepConfig(model=model, sampler=sampler, refinement=Refinement(gsng=GSNg(start=1, stop=2)), **changes)


def test_another_model_is_said_and_another_family_refused(tmp_path: Path) -> None:
    config, prompt = embedded_config(), PROMPTS[0]
    pipe = load_pipeline(config)
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        generate(pipe, prompt, config, [0])
    pipe.save_pretrained(tmp_path / "mine")
    other = load_pipeline(str(tmp_path / "mine"))
    other.scheduler = pipe.scheduler
    other.set_progress_bar_config(disable=True)
    said = rf"selected on 'keystep/shapes-sd', and this pipeline was loaded from '{tmp_path}/mine'"
    refine = StepRefinement(config, prompt)
    for use in (
        lambda: generate(other, prompt, config, [0]),
        lambda: refine.arguments(other, [0]),
        lambda: other(**refine.arguments(other, [0])),
    ):
        with pytest.warns(UserWarning, match=said):
            use()
    pipe.unet = other.unet  # a denoiser of another origin in the config's pipeline
    with pytest.warns(UserWarning, match=said):
        generate(pipe, prompt, config, [0])
    wrong = "selected on '.*', a Stable Diffusion 1.x model, and this pipeline is a Stable Diffusion XL one"
    for chosen in (config, embedded_config("elsewhere/model", family="Stable Diffusion 1.x")):
        with pytest.raises(ValueError, match=wrong):
            generate(pipe_for("sdxl"), prompt, chosen, [0])


def test_a_model_made_in_memory_is_not_complained_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe = tiny_sd()
        pipe.set_progress_bar_config(disable=True)
        generate(pipe, PROMPTS[0], embedded_config("some/model"), [0])
