"""`StepRefinement.arguments` beside whatever a stock call takes, and mistakes in what users pass."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from keystep.core.backbones import backbone_for
from keystep.core.call_checks import called_denoiser
from keystep.core.callback import StepRefinement
from keystep.core.config import GSNg, IterRef, Refinement
from keystep.core.generation import generate
from keystep.core.prompts import Entity
from keystep.core.sampling import Sampler
from tests.core.sampling_cases import PROMPTS
from tests.core.test_callback import ready_pipe, step_config, tiny_pipe

LATE = Refinement(iterref=IterRef(step_index=2, iterations=2))
EARLY = Refinement(gsng=GSNg(start=0, stop=2))
NEGATIVE = "a blurry photo"
ROOT = Path(__file__).parents[2]


def scheduler_of(model: str) -> str:
    return "flow" if model == "sd3" else "ddpm"


@pytest.mark.parametrize("refinement", [EARLY, LATE])
@pytest.mark.parametrize("model", ["sd", "sdxl", "sd3"])
def test_a_negative_prompt_beside_the_arguments(model: str, refinement: Refinement) -> None:
    """The images are the sampler's own with the same negative prompt, and others than without."""
    config = step_config(model, scheduler_of(model), refinement)
    pipe = ready_pipe(model, config)
    refine = StepRefinement(config, PROMPTS[0])
    images = pipe(**refine.arguments(pipe, [0]), negative_prompt=NEGATIVE, output_type="latent").images
    sampler = Sampler(backbone_for(tiny_pipe(model)), config.sampler)
    conditioning = sampler.backbone.encode([PROMPTS[0]], negative_prompt=NEGATIVE)
    expected = sampler.advance(sampler.start([0]), conditioning, refinement=refinement).point.latents
    assert torch.equal(images, expected)
    pipe = ready_pipe(model, config)
    within = pipe(**refine.arguments(pipe, [0], negative_prompt=NEGATIVE, output_type="latent")).images
    assert torch.equal(within, expected)
    assert not torch.equal(pipe(**refine.arguments(pipe, [0]), output_type="latent").images, expected)


def test_several_prompts_take_a_negative_prompt_each() -> None:
    config = step_config("sd", "ddpm", EARLY)
    pipe = ready_pipe("sd", config)
    refine = StepRefinement(config, PROMPTS[:2])
    call = refine.arguments(pipe, [0, 1], output_type="latent", negative_prompt=[NEGATIVE, ""])
    made = pipe(**call).images
    assert made.shape[0] == 2 and made.isfinite().all()


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("sd", {"guidance_rescale": 0.7, "eta": 0.0, "return_dict": True, "output_type": "np"}),
        ("sdxl", {"guidance_rescale": 0.7, "output_type": "pt", "negative_prompt_2": NEGATIVE, "negative_prompt": "b"}),
        ("sd3", {"negative_prompt_3": NEGATIVE, "skip_guidance_layers": [1], "output_type": "np"}),
    ],
)
def test_what_else_a_stock_call_takes(model: str, more: dict[str, Any]) -> None:
    config = step_config(model, scheduler_of(model), LATE)
    pipe = ready_pipe(model, config)
    refine = StepRefinement(config, PROMPTS[0])
    pipe(**refine.arguments(pipe, [0]), **more)
    assert [trace.step_index for trace in refine.traces] == [2]


@pytest.mark.parametrize("model", ["sdxl", "sd3"])  # SD's stock call with clip_skip fails in the transformers at hand
def test_clip_skip_is_what_the_refinement_sees_too(model: str) -> None:
    late = step_config(model, scheduler_of(model), LATE)
    pipe = ready_pipe(model, late)
    refine = StepRefinement(late, PROMPTS[0])
    images = pipe(**refine.arguments(pipe, [0]), clip_skip=1, output_type="latent").images
    sampler = Sampler(backbone_for(tiny_pipe(model)), late.sampler)
    conditioning = sampler.backbone.encode([PROMPTS[0]], clip_skip=1)
    expected = sampler.advance(sampler.start([0]), conditioning, refinement=LATE).point.latents
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    early = step_config(model, scheduler_of(model), EARLY)
    pipe = ready_pipe(model, early)
    refine = StepRefinement(early, PROMPTS[0])
    with pytest.raises(ValueError, match=r"step 0 was refined for clip_skip=None, and the call has clip_skip=1"):
        pipe(**refine.arguments(pipe, [0]), clip_skip=1)
    pipe(**refine.arguments(pipe, [0], clip_skip=1), output_type="latent")
    assert [trace.step_index for trace in refine.traces] == [0, 1]


@pytest.mark.parametrize("model", ["sd", "sd3"])
def test_the_scale_of_adapters_reaches_every_call_of_the_denoiser(model: str) -> None:
    config = step_config(model, scheduler_of(model), Refinement(gsng=GSNg(start=0, stop=3)))
    pipe = ready_pipe(model, config)
    name = "joint_attention_kwargs" if model == "sd3" else "cross_attention_kwargs"
    # Stock SD reads "scale" with peft alone; what it does not know it passes on.
    options: Any = {"scale": 0.5} if model == "sd3" else {"note": 1}
    more: dict[str, Any] = {name: options}
    seen: list[Any] = []
    handle = called_denoiser(pipe).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get(name)), with_kwargs=True
    )
    refine = StepRefinement(config, PROMPTS[0])
    try:
        pipe(**refine.arguments(pipe, [0], **more), output_type="latent")
    finally:
        handle.remove()
    assert len(seen) == 4 + 3 and all(given is not None for given in seen)


def test_an_ip_adapter_is_refused_with_its_remedy() -> None:
    from diffusers import UNet2DConditionModel

    from tests.tiny_models import tiny_sd

    pipe = tiny_sd()
    arguments = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    pipe.unet = UNet2DConditionModel(**{**arguments, "encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"})
    with pytest.raises(ValueError, match=r"takes text_proj beside the prompt .*pipe\.unload_ip_adapter\(\)"):
        backbone_for(pipe)


def test_as_many_seeds_as_wanted_make_as_many_images() -> None:
    config = step_config("sd", "ddpm", EARLY)
    pipe = ready_pipe("sd", config)
    refine = StepRefinement(config, PROMPTS[0])
    images = pipe(**refine.arguments(pipe, seeds=range(3)), output_type="latent").images
    made = [pipe(**refine.arguments(pipe, [seed]), output_type="latent").images[0] for seed in range(3)]
    torch.testing.assert_close(images, torch.stack(made), atol=1e-3, rtol=0)
    two = StepRefinement(config, PROMPTS[:2])
    assert two.arguments(pipe, [0, 1, 2, 3])["num_images_per_prompt"] == 2
    with pytest.raises(ValueError, match="2 prompts with 1 images each need 2 seeds, got 3"):
        two.arguments(pipe, [0, 1, 2])
    with pytest.raises(ValueError, match="2 prompts with 1 images each need 2 seeds, got 0"):
        two.arguments(pipe, [])


TEXT = "a photo of a cat"


@pytest.mark.parametrize("use", ["StepRefinement", "generate"])
@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (TEXT, "a prompt names the entities that have to be in the picture, and str 'a photo of a cat' does not"),
        ([PROMPTS[0], TEXT], "str 'a photo of a cat' does not: write Prompt"),
        (None, "NoneType None does not"),
        ([["a", "b"]], r"list \['a', 'b'\] does not"),
        (Entity("cat"), "Entity Entity"),
    ],
)
def test_text_is_told_what_it_lacks(use: str, prompt: Any, said: str) -> None:
    config = step_config("sd", "ddpm", LATE)
    with pytest.raises(ValueError, match=said):
        if use == "generate":
            generate(tiny_pipe("sd"), prompt, config, [0])
        else:
            StepRefinement(config, prompt)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (0, r"seeds is a list, one an image, got 0: write seeds=\[0\]"),
        ("0-3", "seeds is a list of integers"),
        ([0.5], "a seed is an integer in 0..2.*64 - 1, got float 0.5"),
        ([-1], "got int -1"),
        (None, "seeds is a list of integers"),
    ],
)
def test_seeds_that_are_none(seeds: Any, said: str) -> None:
    config = step_config("sd", "ddpm", LATE)
    pipe = ready_pipe("sd", config)
    with pytest.raises(ValueError, match=said):
        generate(pipe, PROMPTS[0], config, seeds)
    with pytest.raises(ValueError, match=said):
        StepRefinement(config, PROMPTS[0]).arguments(pipe, seeds)


def test_a_path_in_the_place_of_a_config() -> None:
    for config in ("step_config.json", {"model": "m"}, PROMPTS[0]):
        with pytest.raises(ValueError, match=r"a StepConfig is needed, got .*StepConfig\.load\('step_config\.json'\)"):
            StepRefinement(config, PROMPTS[0])  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="a StepConfig is needed"):
            generate(tiny_pipe("sd"), PROMPTS[0], config, [0])  # pyright: ignore[reportArgumentType]


def test_prompts_that_are_none() -> None:
    """In a process of its own: here the types that signatures state are checked first."""
    cases = """
from keystep.core.prompts import Entity, Prompt
for text, entities in (("a cat", "cat"), ("a cat", Entity("cat")), ("a cat", ["cat"]), (["a cat"], [])):
    try:
        Prompt(text, entities)
    except ValueError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", cases], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    lines = said.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        "entities is a list, got 'cat': write [Entity('cat', 'red')], or parse_entities('red cat, dog')"
    )
    assert lines[1].startswith("entities is a list, got Entity(noun='cat', attribute=None)")
    assert lines[2] == "entities must be Entity values, got 'cat'; Entity('cat', 'red') is one"
    assert lines[3] == "the text of a prompt is a string, got ['a cat']"
