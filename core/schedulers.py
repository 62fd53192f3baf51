"""Diffusers schedulers as values: built from a config, their memory read out and put back.

Which there are, and what each remembers, is in `keystep.core.known_schedulers`.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor

from keystep.core.config import SamplerConfig
from keystep.core.known_schedulers import MEMORY
from keystep.core.points import StateValue


def make_scheduler(
    base: Mapping[str, Any], config: SamplerConfig, *, image_tokens: int, device: torch.device | str = "cpu"
) -> Any:
    """The scheduler that `config` names, with the pipeline's own settings under its overrides, ready at step 0.

    Args:
        base: `pipe.scheduler.config`.
        config: class, overrides and number of steps.
        image_tokens: patches of the image as a transformer sees it, for schedules that shift with the
            resolution (`use_dynamic_shifting`).
        device: where the timesteps are kept.

    Raises:
        ValueError: a scheduler that is not in `MEMORY`.
    """
    if config.scheduler not in MEMORY:
        raise ValueError(
            f"scheduler {config.scheduler!r} cannot be stopped and resumed; choose one of {', '.join(MEMORY)}"
        )
    scheduler = getattr(diffusers, config.scheduler).from_config(base, **config.scheduler_config)
    set_schedule(scheduler, config.num_inference_steps, image_tokens=image_tokens, device=device)
    return scheduler


def set_schedule(scheduler: Any, num_steps: int, *, image_tokens: int, device: torch.device | str = "cpu") -> None:
    """Sets the timesteps as the stock pipelines do, shifted for the number of image tokens where configured."""
    shift = {}
    if scheduler.config.get("use_dynamic_shifting"):
        shift["mu"] = dynamic_shift(scheduler.config, image_tokens)
    scheduler.set_timesteps(num_steps, device=device, **shift)


def to_pipeline_start(scheduler: Any, latents: Tensor) -> Tensor:
    """What a stock pipeline has to be given as `latents` to start from these: it multiplies them by a sigma."""
    return latents / getattr(scheduler, "init_noise_sigma", 1.0)


def from_pipeline_start(scheduler: Any, start: Tensor) -> Tensor:
    """What a stock pipeline starts from, given `start` (or having drawn it)."""
    return start * getattr(scheduler, "init_noise_sigma", 1.0)


def dynamic_shift(config: Mapping[str, Any], image_tokens: int) -> float:
    """`mu` of resolution-dependent shifting: linear in the number of image tokens (Esser et al., 2403.03206).

    It is `base_shift` at `base_image_seq_len` tokens and `max_shift` at `max_image_seq_len`.
    """
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return image_tokens * slope + (low - slope * few)


def schedule_id(scheduler: Any) -> str:
    """16 hex digits that name the schedule: class, settings and timesteps."""
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    parts = [type(scheduler).__name__, settings, scheduler.timesteps.tolist()]
    text = json.dumps(parts, sort_keys=True, default=lambda value: getattr(value, "tolist", value.__repr__)())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_memory(scheduler: Any) -> dict[str, StateValue]:
    """What the scheduler remembers, copied: later steps do not change it."""
    return {name: _copied(getattr(scheduler, name)) for name in MEMORY[type(scheduler).__name__]}


def write_memory(scheduler: Any, memory: Mapping[str, StateValue], step_index: int) -> None:
    """Puts the scheduler at `step_index` with the memory that `read_memory` gave there."""
    for name, value in memory.items():
        own = _copied(value)
        setattr(scheduler, name, list(own) if isinstance(own, tuple) else own)
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = step_index
    if hasattr(scheduler, "is_scale_input_called"):
        # Only there to warn about callers that never scale; a resumed run has scaled already.
        scheduler.is_scale_input_called = True


def placed_at(scheduler: Any, step_index: int) -> Any:
    """A copy of the scheduler that stands before a step, to scale its input; shallow, so it must not be stepped."""
    placed = copy.copy(scheduler)
    write_memory(placed, {}, step_index)
    return placed


def scale_model_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """The denoiser's input, shape of `latents`; differentiable. Schedulers without scaling give it back."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)


def denoised(scheduler: Any, noise_pred: Tensor, latents: Tensor, step_index: int) -> Tensor:
    """The image that the prediction points to, x0, in latent space; shape of `latents`, unclipped.

    Flow matching, by its own scheduler or another's flow prediction: `x - sigma * v`. Otherwise, with
    `x = a * x0 + s * noise` in the variance-preserving scale: `(x - s * eps) / a` for epsilon, `a * x - s * v` for
    v prediction (Salimans and Ho, 2202.00512).
    """
    kind = scheduler.config.get("prediction_type")
    if "FlowMatch" in type(scheduler).__name__ or kind == "flow_prediction":
        return latents - scheduler.sigmas[step_index] * noise_pred
    if kind == "sample":
        return noise_pred
    if hasattr(scheduler, "sigmas"):
        sigma = scheduler.sigmas[step_index].float()
        signal = (sigma**2 + 1) ** -0.5
        noise = sigma * signal
    else:
        variance = scheduler.alphas_cumprod[int(scheduler.timesteps[step_index])]
        signal, noise = variance**0.5, (1 - variance) ** 0.5
    if hasattr(scheduler, "is_scale_input_called"):
        latents = latents * signal  # Euler and LMS keep x in the variance-exploding scale
    if kind == "v_prediction":
        return signal * latents - noise * noise_pred
    return (latents - noise * noise_pred) / signal


def _copied(value: Any) -> StateValue:
    if isinstance(value, Tensor):
        return value.clone()
    return tuple(_copied(item) for item in value) if isinstance(value, list | tuple) else value
