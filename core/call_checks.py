"""Is a pipeline's call the one that a config is for? What differs is refused or said, never passed over."""

import copy
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.compiled import watched
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.config import StepConfig
from keystep.core.sampling import image_tokens
from keystep.core.schedule import TOLERANCE, check_num_steps, check_run
from keystep.core.schedulers import set_schedule
from keystep.core.step_refiner import StepTrace

ADAPTER_OPTIONS = ("cross_attention_kwargs", "joint_attention_kwargs")


def check_call(config: StepConfig, pipe: Any, backbone: Backbone, latents: Tensor, timestep: float) -> Any:
    """Refuse a call whose steps are not the config's, and warn of one with another guidance or size.

    Args:
        config: what was selected.
        pipe: the pipeline, which has just made its first step.
        backbone: of it.
        latents: (B, C, h, w), after that step.
        timestep: that it handed to the callback.

    Returns:
        A copy of the pipeline's scheduler for `StepRefiner`, with the whole schedule.

    Raises:
        ValueError: another scheduler or schedule, one that starts or ends elsewhere; says both timesteps.
    """
    sampler = config.sampler
    config.check_scheduler(pipe.scheduler)
    expected = copy.deepcopy(pipe.scheduler)
    tokens = image_tokens(backbone, sampler.height, sampler.width)
    set_schedule(expected, sampler.num_inference_steps, image_tokens=tokens, device=latents.device)
    config.check_schedule(expected)
    if pipe.scheduler.num_inference_steps is not None:
        check_num_steps(pipe.scheduler, sampler.num_inference_steps)
    check_run(
        expected,
        pipe.scheduler,
        first=timestep,
        num_run=getattr(pipe, "num_timesteps", None),
        refined=config.refinement.steps(len(expected.timesteps)),
    )
    guidance = getattr(pipe, "guidance_scale", None)
    if guidance is not None and max(1.0, float(guidance)) != sampler.guidance_scale:
        _warn(
            f"the config was selected with guidance_scale {sampler.guidance_scale:g}, and this call has "
            f"{float(guidance):g}: its evidence does not hold there"
        )
    shape = backbone.latent_shape(sampler.height, sampler.width)
    if tuple(latents.shape[1:]) != shape:
        height, width = (size * pipe.vae_scale_factor for size in latents.shape[2:])
        _warn(
            f"the config was selected on images of {sampler.height} x {sampler.width} px, and this call makes "
            f"{height} x {width}: its evidence does not hold there"
        )
    return copy.copy(pipe.scheduler)


def check_timestep_now(scheduler: Any, step_index: int, timestep: float) -> None:
    """Refuse a step that the pipeline made at another timestep than the scheduler has for it.

    Two calls of one pipeline at once come out so, since they share its scheduler.

    Raises:
        ValueError: names both.
    """
    there = float(scheduler.timesteps[step_index])
    if abs(there - timestep) > TOLERANCE:
        raise ValueError(
            f"the pipeline made step {step_index} at timestep {timestep:g}, and its schedule has {there:g} there: if "
            "another thread uses this pipeline too, give each one its own, or call keystep.generate, which takes turns"
        )


def call_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a pipeline's call goes to its denoiser, and scales adapters there; of its arguments or attributes."""
    return {name: values[name] for name in ADAPTER_OPTIONS if values.get(name) is not None}


def checked_prompts(given: Tensor | None, conditioning: Conditioning) -> Conditioning:
    """The conditioning with the call's own text embeddings, which a scaled adapter may have changed a little.

    Refused are those of other texts: a token that differs by more than rounding can explain.

    Args:
        given: the call's, (B, L, D), or (2B, L, D) with the unconditional ones first.
        conditioning: of the texts that are refined for.

    Raises:
        ValueError: other texts, or embeddings that the pipeline did not show.
    """
    if given is None:
        raise ValueError(
            "this pipeline does not show its callback the prompt_embeds: add "
            "callback_on_step_end_tensor_inputs=refine.tensor_inputs to the call"
        )
    ours = conditioning.prompt_embeds
    given = given[-len(ours) :]
    same = given.shape == ours.shape
    if same:
        apart = (given.float() - ours.float()).norm(dim=-1)
        same = bool((apart <= 0.25 * ours.float().norm(dim=-1).mean()).all())
    if not same:
        raise ValueError(
            "the pipeline was called with other prompts than StepRefinement has (or with embeddings, prompt_2, "
            "prompt_3 or a max_sequence_length of its own): give both the same texts in the same order"
        )
    return replace(conditioning, prompt_embeds=given.to(ours.dtype))


class Started:
    """Latents that were refined before step 0, until the denoiser sees its next input: is it they?

    Args:
        denoiser: the module that the pipeline calls: the compiled one, if it was compiled.
        expected: (B, C, h, w), its input at step 0.
        traces: of the refinement.
        clip_skip: that the prompts were encoded with.
    """

    def __init__(
        self, denoiser: nn.Module, expected: Tensor, traces: tuple[StepTrace, ...], clip_skip: int | None = None
    ):
        self.expected, self.traces, self.clip_skip = expected, traces, clip_skip
        self.seen = False
        found = weakref.WeakMethod(self._look)
        self._watch = watched(denoiser, lambda args, kwargs: (look := found()) and look(args, kwargs))
        # Of latents that no call ever starts from, nothing stays on the denoiser.
        weakref.finalize(self, self._watch.remove)

    def forget(self) -> None:
        """Stops looking."""
        self._watch.remove()

    def _look(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        # Other threads may use the denoiser before the call that these latents are for.
        given = next(
            value for value in (*args, kwargs.get("sample"), kwargs.get("hidden_states")) if isinstance(value, Tensor)
        )
        # With guidance the batch comes twice; half precision rounds.
        rows = given[-len(self.expected) :].float()
        if rows.shape == self.expected.shape and torch.allclose(rows, self.expected.float(), 1e-2, 1e-2):
            self.seen = True
            self.forget()


def called_denoiser(pipe: Any) -> nn.Module:
    """The module that the pipeline calls: the compiled one, if it was compiled."""
    unet = getattr(pipe, "unet", None)
    return pipe.transformer if unet is None else unet


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
