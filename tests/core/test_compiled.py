"""Pipelines under `torch.compile`: refined to the picture of the plain one, whatever was compiled and how."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from keystep.core.backbones import backbone_for
from keystep.core.backbones.compiled import eagerly
from keystep.core.callback import StepRefinement
from keystep.core.config import GSNg, IterRef, Refinement, StepConfig
from keystep.core.fingerprint import pipeline_fingerprint
from keystep.core.generation import generate
from keystep.core.sampling import Sampler
from tests.core.sampling_cases import PROMPTS, largest_difference, sampler_config, use_scheduler
from tests.tiny_models import TINY_MODELS

STEPS = 2
FULL = Refinement(iterref=IterRef(step_index=1, iterations=2), gsng=GSNg(start=0, stop=2))


def whole(pipe: Any, name: str) -> None:
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))


def in_place(pipe: Any, name: str) -> None:
    getattr(pipe, name).compile(backend="eager")


def by_region(pipe: Any, name: str) -> None:
    if name == "transformer":
        pipe.transformer._repeated_blocks = ["JointTransformerBlock"]  # diffusers has the list of other families alone
    getattr(pipe, name).compile_repeated_blocks(backend="eager")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def case(model: str) -> tuple[Any, str, StepConfig]:
    pipe = TINY_MODELS[model]()
    pipe.set_progress_bar_config(disable=True)
    if model == "sd3":  # one block compiles in a third of the time
        pipe.transformer.transformer_blocks = pipe.transformer.transformer_blocks[-1:]
    sampler = sampler_config(
        "flow" if model == "sd3" else "ddpm", num_inference_steps=STEPS, height=64, width=64, guidance_scale=4.0
    )
    timestep = float(Sampler(backbone_for(pipe), sampler).timesteps[1])
    use_scheduler(pipe, sampler)
    config = StepConfig(model="in/memory", sampler=sampler, refinement=FULL, timestep=timestep)
    return pipe, "transformer" if model == "sd3" else "unet", config


def refined(pipe: Any, config: StepConfig) -> Tensor:
    refine = StepRefinement(config, PROMPTS[0])
    latents = pipe(**refine.arguments(pipe, [0]), output_type="latent").images
    assert [(trace.step_index, trace.kind) for trace in refine.traces] == [(0, "gsng"), (1, "iterref"), (1, "gsng")]
    assert all(trace.trace.iterations[0] for trace in refine.traces)
    return latents


@pytest.mark.parametrize(
    ("model", "compiled"),
    [
        ("sd3", whole),
        ("sd3", in_place),
        ("sd3", by_region),
        pytest.param("sd", by_region, marks=pytest.mark.slow),
        pytest.param("sd", whole, marks=pytest.mark.slow),
        pytest.param("sd", in_place, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_denoiser_is_refined(model: str, compiled: Callable[[Any, str], None]) -> None:
    pipe, name, config = case(model)
    expected = refined(pipe, config)
    image = generate(pipe, PROMPTS[0], config, [0]).images[0]
    fingerprint = pipeline_fingerprint(pipe)
    compiled(pipe, name)
    for _ in range(2):  # what is compiled at the first call does not see what is hooked on at the second
        assert largest_difference(refined(pipe, config), expected) <= 1e-4
    pixels = torch.frombuffer(bytearray(generate(pipe, PROMPTS[0], config, [0]).images[0].tobytes()), dtype=torch.uint8)
    theirs = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    assert (pixels.int() - theirs.int()).abs().max() <= 1
    assert pipeline_fingerprint(pipe) == fingerprint
    # The denoiser is compiled still: nothing of ours is left on it.
    denoiser = getattr(pipe, name)
    assert compiled is not whole or hasattr(denoiser, "_orig_mod")
    assert compiled is not in_place or denoiser._compiled_call_impl.__name__ != "_call"
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize("compiled", [whole, pytest.param(in_place, marks=pytest.mark.slow)])
def test_a_compiled_text_encoder_is_read(compiled: Callable[[Any, str], None]) -> None:
    pipe, _, config = case("sd")
    expected = refined(pipe, config)
    compiled(pipe, "text_encoder")
    for _ in range(2):
        assert largest_difference(refined(pipe, config), expected) <= 1e-4


def test_latents_that_were_not_passed_are_noticed_under_compilation_too() -> None:
    pipe, name, config = case("sd3")
    in_place(pipe, name)
    refine = StepRefinement(config, PROMPTS[0])
    call = refine.arguments(pipe, [0])
    del call["latents"]
    with pytest.raises(ValueError, match="did not start from refined latents"):
        pipe(**call)
    assert pipe.transformer._compiled_call_impl.__name__ != "_call"


def test_running_eagerly_may_be_nested_and_ends_with_the_last() -> None:
    torch.compile(torch.nn.Linear(1, 1), backend="eager")(torch.zeros(1, 1))
    stance = torch._dynamo.eval_frame
    with eagerly():
        with eagerly():
            assert stance._stance.stance == "force_eager"
        assert stance._stance.stance == "force_eager"
    assert stance._stance.stance == "default"
