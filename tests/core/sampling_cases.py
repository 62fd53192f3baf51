"""Pipelines, schedulers and settings that the tests of sampling and of the callback share."""

from typing import Any

import diffusers
import torch
from torch import Tensor

from keystep.core.config import SamplerConfig
from keystep.core.prompts import Entity, Prompt
from tests.tiny_models import TINY_MODELS

PROMPTS = (
    Prompt("a red circle and a blue star", (Entity("circle", "red"), Entity("star", "blue"))),
    Prompt("a cat", (Entity("cat"),)),
    Prompt("a moon and a ring", (Entity("moon"), Entity("ring"))),
)
SEEDS = (3, 1, 7)
STEPS = 5
GUIDANCE = 4.0
HEIGHT, WIDTH = 64, 96

UNET_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "pndm-plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm-runge-kutta": ("PNDMScheduler", {"skip_prk_steps": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpm++3m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
}
FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow-dynamic": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
}
CASES = [
    *((model, name) for model in ("sd", "sdxl") for name in UNET_SCHEDULERS),
    *(("sd3", name) for name in FLOW_SCHEDULERS),
]
SCHEDULERS = UNET_SCHEDULERS | FLOW_SCHEDULERS

_pipes: dict[str, Any] = {}


def pipe_for(model: str) -> Any:
    """A tiny pipeline, made once, with the scheduler that it came with."""
    if model not in _pipes:
        pipe = TINY_MODELS[model](seed=0)
        pipe.set_progress_bar_config(disable=True)
        _pipes[model] = (pipe, pipe.scheduler)
    pipe, pipe.scheduler = _pipes[model]
    return pipe


def sampler_config(name: str, **changes: Any) -> SamplerConfig:
    """The shared settings with one of the schedulers."""
    scheduler, overrides = SCHEDULERS[name]
    settings = {
        "scheduler": scheduler,
        "scheduler_config": overrides,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "height": HEIGHT,
        "width": WIDTH,
    }
    return SamplerConfig(**settings | changes)


def use_scheduler(pipe: Any, config: SamplerConfig) -> None:
    """Gives the pipeline the scheduler of the settings, as its user would."""
    kind = getattr(diffusers, config.scheduler)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **config.scheduler_config)


def stock_latents(pipe: Any, config: SamplerConfig, prompts: Any = PROMPTS, seeds: Any = SEEDS, **more: Any) -> Tensor:
    """What the stock pipeline itself makes, before decoding: (B, C, h, w)."""
    use_scheduler(pipe, config)
    return pipe(
        prompt=[prompt.text for prompt in prompts],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        height=config.height,
        width=config.width,
        output_type="latent",
        **more,
    ).images


def largest_difference(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape and left.isfinite().all()
    return (left - right).abs().max().item()
