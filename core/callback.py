"""The production path: refinement inside a stock diffusers pipeline, through its official arguments alone."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from keystep.core.backbones import backbone_for
from keystep.core.backbones.base import Backbone
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.call_checks import (
    ADAPTER_OPTIONS,
    Started,
    call_options,
    called_denoiser,
    check_call,
    check_timestep_now,
    checked_prompts,
)
from keystep.core.config import StepConfig
from keystep.core.identity import check_model
from keystep.core.prompts import Prompt
from keystep.core.sampling import image_tokens, noise_dtype
from keystep.core.schedulers import from_pipeline_start, scale_model_input, set_schedule, to_pipeline_start
from keystep.core.step_refiner import StepRefiner, StepTrace
from keystep.core.turns import alone_with
from keystep.core.user_values import as_config, as_prompts, as_seeds

Generators = torch.Generator | list[torch.Generator] | None


class StepRefinement(PipelineCallback):
    """Refines a stock StableDiffusion, StableDiffusionXL or StableDiffusion3 pipeline as a StepConfig says.

    Everything that the config fixes goes to the pipeline at once:

        refine = StepRefinement(StepConfig.load("step.json"), prompt)
        images = pipe(**refine.arguments(pipe, seeds=[0])).images

    The object itself is the pipeline's `callback_on_step_end`. Pipelines call it at the end of every step, so it
    refines before steps 1, 2, ...; what comes before step 0 has to be in the `latents` that the pipeline starts
    from. `arguments` puts them there. A call that you compose yourself needs no more than the callback if the
    config leaves step 0 alone, and `latents=refine.latents(pipe, generator)` if it does not; without it the first
    step ends in an error. Images are those of `keystep.core.sampling.Sampler` for the same generators.

    Classifier-free guidance may be on or off. One object serves any number of calls, one after the other. Threads
    that share a pipeline take turns in refining; the pipeline's own scheduler is not made for two calls at once, so
    give each thread its own pipeline, or use `generate`, whose calls take turns altogether.

    Args:
        config: what was selected, for the model and the sampler of the pipeline.
        prompt: one prompt, or the list of prompts that the pipeline is called with.

    Attributes:
        traces: what the refinements of the last call did, in order; row b is image b.

    Raises:
        ValueError: no prompts, or something that is no prompt; at the first step of a call: another family of
            models, scheduler, schedule or prompt than the config's and this object's, or a refinement before step 0
            whose latents were not passed. Another model, guidance scale or size than the config's is a warning.
    """

    tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(self, config: StepConfig, prompt: Prompt | Sequence[Prompt]):
        super().__init__()
        self.step_config = as_config(config)
        self.prompts = as_prompts(prompt)
        if not self.prompts:
            raise ValueError("StepRefinement needs at least one prompt, got none")
        self.traces: tuple[StepTrace, ...] = ()
        self._started: Started | None = None
        self._run: _Run | None = None

    def arguments(
        self, pipe: Any, seeds: Sequence[int], *, num_images_per_prompt: int | None = None, **more: Any
    ) -> dict[str, Any]:
        """All arguments of the pipeline's call: prompts, sampler settings, generators and this callback.

        Args:
            pipe: the pipeline that will be called.
            seeds: one an image; the images of the first prompt come first.
            num_images_per_prompt: images of each prompt; None is as many as there are seeds for.
            more: what else the call shall have (`output_type`, `negative_prompt`, `clip_skip`, ...). It may also be
                added to what comes back; `clip_skip` and `cross_attention_kwargs` belong here if the config refines
                before step 0, which is done at once.

        Returns:
            Keyword arguments. One prompt is a string, as stock calls want it beside a `negative_prompt`.

        Raises:
            ValueError: the pipeline's scheduler is not the config's (says how to set it), or not one seed an image.
        """
        count = len(self.prompts)
        seeds = as_seeds(seeds)
        if num_images_per_prompt is None:
            num_images_per_prompt = max(1, len(seeds) // count)
        if len(seeds) != count * num_images_per_prompt:
            raise ValueError(
                f"{count} prompts with {num_images_per_prompt} images each need {count * num_images_per_prompt} seeds, "
                f"got {len(seeds)}"
            )
        sampler = self.step_config.sampler
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        texts = [prompt.text for prompt in self.prompts]
        arguments: dict[str, Any] = {
            "prompt": texts[0] if count == 1 else texts,
            "num_images_per_prompt": num_images_per_prompt,
            "num_inference_steps": sampler.num_inference_steps,
            "guidance_scale": sampler.guidance_scale,
            "height": sampler.height,
            "width": sampler.width,
            "generator": generators,
            "callback_on_step_end": self,
        }
        if sampler.max_sequence_length is not None:
            arguments["max_sequence_length"] = sampler.max_sequence_length
        backbone, refiner = self._ready(pipe)
        backbone.call_options = call_options(more)
        if refiner.acts_at(0, self.step_config.refinement):
            arguments["latents"] = self._start(
                backbone, refiner, generators, num_images_per_prompt, more.get("clip_skip")
            )
        return arguments | more

    def latents(
        self,
        pipe: Any,
        generator: Generators = None,
        *,
        num_images_per_prompt: int = 1,
        clip_skip: int | None = None,
    ) -> Tensor:
        """The noise that the pipeline would draw from `generator`, refined before step 0, for its `latents`.

        The generators move on as they would in the pipeline: pass the same ones to it.

        Args:
            pipe: the pipeline that will be called.
            generator: one an image in a list, or one for all, or None for torch's own.
            num_images_per_prompt: images of each prompt.
            clip_skip: of the call.

        Returns:
            (B, C, h, w), B images of the config's size, the images of the first prompt first.

        Raises:
            ValueError: the pipeline's scheduler is not the config's.
        """
        return self._start(*self._ready(pipe), generator, num_images_per_prompt, clip_skip)

    def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict) -> dict[str, Any]:
        """What the pipeline calls at the end of each step: refines the latents before the next one."""
        latents = callback_kwargs["latents"]
        if step_index == 0 or self._run is None:
            self._begin(pipeline, latents, callback_kwargs.get("prompt_embeds"), float(timesteps))
        run = self._run
        assert run is not None
        if run.thread != threading.get_ident():
            raise ValueError("one StepRefinement is used by two calls at once: make one for each call")
        refinement, following = self.step_config.refinement, step_index + 1
        if following < run.refiner.num_steps and run.refiner.acts_at(following, refinement):
            check_timestep_now(run.refiner.scheduler, step_index, float(timesteps))
            refined = run.refiner.refine(latents, following, run.conditioning, refinement)
            callback_kwargs["latents"] = refined.latents
            self.traces += refined.traces
        return callback_kwargs

    def _ready(self, pipe: Any) -> tuple[Backbone, StepRefiner]:
        """The pipeline with its scheduler set to the config's schedule, which is checked."""
        sampler = self.step_config.sampler
        backbone = backbone_for(pipe, self.step_config.refinement.attention)
        check_model(self.step_config, backbone)
        scheduler = copy.deepcopy(pipe.scheduler)
        tokens = image_tokens(backbone, sampler.height, sampler.width)
        device = pipe._execution_device
        self.step_config.check_scheduler(scheduler)
        set_schedule(scheduler, sampler.num_inference_steps, image_tokens=tokens, device=device)
        self.step_config.check_schedule(scheduler)
        return backbone, StepRefiner(backbone, scheduler)

    def _start(
        self, backbone: Backbone, refiner: StepRefiner, generator: Generators, images: int, clip_skip: int | None
    ) -> Tensor:
        sampler = self.step_config.sampler
        conditioning = self._encode(backbone, len(self.prompts) * images, clip_skip)
        shape = (len(conditioning), *backbone.latent_shape(sampler.height, sampler.width))
        device = backbone.pipe._execution_device
        noise = randn_tensor(shape, generator=generator, device=device, dtype=noise_dtype(backbone))
        scheduler = refiner.scheduler
        latents = from_pipeline_start(scheduler, noise)
        refined = refiner.refine(latents, 0, conditioning, self.step_config.refinement)
        start = to_pipeline_start(scheduler, refined.latents)
        latents = from_pipeline_start(scheduler, start)
        expected = scale_model_input(copy.copy(scheduler), latents, scheduler.timesteps[0])
        if self._started is not None:
            self._started.forget()
        self._started = Started(called_denoiser(backbone.pipe), expected, refined.traces, clip_skip)
        return start

    def _begin(self, pipe: Any, latents: Tensor, prompt_embeds: Tensor | None, timestep: float) -> None:
        """Checks the call that has just made its first step, and prepares for the others."""
        config = self.step_config
        started, self._started, self.traces = self._started, None, ()
        if started is not None:
            started.forget()
        backbone = backbone_for(pipe, config.refinement.attention)
        check_model(config, backbone)
        scheduler = check_call(config, pipe, backbone, latents, timestep)
        backbone.call_options = call_options({name: getattr(pipe, name, None) for name in ADAPTER_OPTIONS})
        refiner = StepRefiner(backbone, scheduler)
        clip_skip = getattr(pipe, "clip_skip", None)
        conditioning = self._encode(backbone, len(latents), clip_skip)
        conditioning = checked_prompts(prompt_embeds, conditioning)
        if refiner.acts_at(0, config.refinement):
            if started is None or not started.seen:
                raise ValueError(
                    "the config refines before step 0, which no callback can do, and this call did not start from "
                    "refined latents: call pipe(**refine.arguments(pipe, seeds)), or pass "
                    "latents=refine.latents(pipe, generator) beside callback_on_step_end=refine"
                )
            if started.clip_skip != clip_skip:
                raise ValueError(
                    f"step 0 was refined for clip_skip={started.clip_skip}, and the call has clip_skip={clip_skip}: "
                    "give it to refine.arguments(pipe, seeds, clip_skip=...), or to refine.latents, too"
                )
            self.traces = started.traces
        self._run = _Run(refiner, conditioning, threading.get_ident())

    def _encode(self, backbone: Backbone, images: int, clip_skip: int | None) -> Conditioning:
        """Conditioning of all images, those of the first prompt first, as pipelines order them."""
        count = len(self.prompts)
        if images % count:
            raise ValueError(
                f"the pipeline makes {images} images, which {count} prompts cannot share: give StepRefinement the "
                "prompts of the call, in its order"
            )
        with alone_with(backbone.denoiser):
            encoded = backbone.encode(
                self.prompts,
                max_sequence_length=self.step_config.sampler.max_sequence_length,
                clip_skip=clip_skip,
            )
        return encoded.select([row for row in range(count) for _ in range(images // count)])


@dataclass(frozen=True)
class _Run:
    """A call under way, and the thread that it is made in."""

    refiner: StepRefiner
    conditioning: Conditioning
    thread: int
