"""The production path: refinement inside a stock diffusers pipeline, through its official arguments alone."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from core.backbones import backbone_for
from core.backbones.base import Backbone
from core.backbones.conditioning import Conditioning
from core.config import StepConfig
from core.prompts import Prompt
from core.sampling import image_tokens, noise_dtype
from core.schedulers import from_pipeline_start, scale_model_input, set_schedule, to_pipeline_start
from core.step_refiner import StepRefiner, StepTrace

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
    step ends in an error. Images are those of `core.sampling.Sampler` for the same generators.

    Classifier-free guidance may be on or off. One object serves any number of calls, one after the other.

    Args:
        config: what was selected, for the model and the sampler of the pipeline.
        prompt: one prompt, or the list of prompts that the pipeline is called with.

    Attributes:
        traces: what the refinements of the last call did, in order; row b is image b.

    Raises:
        ValueError: no prompts; at the first step of a call: another scheduler, schedule or prompt than the
            config's and this object's, or a refinement before step 0 whose latents were not passed.
    """

    tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(self, config: StepConfig, prompt: Prompt | Sequence[Prompt]):
        super().__init__()
        self.step_config = config
        self.prompts = (prompt,) if isinstance(prompt, Prompt) else tuple(prompt)
        if not self.prompts:
            raise ValueError("StepRefinement needs at least one prompt, got none")
        self.traces: tuple[StepTrace, ...] = ()
        self._started: _Started | None = None
        self._run: tuple[StepRefiner, Conditioning] | None = None

    def arguments(self, pipe: Any, seeds: Sequence[int], *, num_images_per_prompt: int = 1) -> dict[str, Any]:
        """All arguments of the pipeline's call: prompts, sampler settings, generators and this callback.

        Args:
            pipe: the pipeline that will be called.
            seeds: one an image; the images of the first prompt come first.
            num_images_per_prompt: images of each prompt.

        Returns:
            Keyword arguments; add to them as you like (`output_type`, `negative_prompt`, ...).

        Raises:
            ValueError: the pipeline's scheduler is not the config's (says how to set it), or not one seed an image.
        """
        images = len(self.prompts) * num_images_per_prompt
        if len(seeds) != images:
            raise ValueError(
                f"{len(self.prompts)} prompts with {num_images_per_prompt} images each need {images} seeds, "
                f"got {len(seeds)}"
            )
        sampler = self.step_config.sampler
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        arguments: dict[str, Any] = {
            "prompt": [prompt.text for prompt in self.prompts],
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
        if refiner.acts_at(0, self.step_config.refinement):
            arguments["latents"] = self._start(backbone, refiner, generators, num_images_per_prompt)
        return arguments

    def latents(self, pipe: Any, generator: Generators = None, *, num_images_per_prompt: int = 1) -> Tensor:
        """The noise that the pipeline would draw from `generator`, refined before step 0, for its `latents`.

        The generators move on as they would in the pipeline: pass the same ones to it.

        Args:
            pipe: the pipeline that will be called.
            generator: one an image in a list, or one for all, or None for torch's own.
            num_images_per_prompt: images of each prompt.

        Returns:
            (B, C, h, w), B images of the config's size, the images of the first prompt first.

        Raises:
            ValueError: the pipeline's scheduler is not the config's.
        """
        return self._start(*self._ready(pipe), generator, num_images_per_prompt)

    def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict) -> dict[str, Any]:
        """What the pipeline calls at the end of each step: refines the latents before the next one."""
        latents = callback_kwargs["latents"]
        if step_index == 0 or self._run is None:
            self._begin(pipeline, latents, callback_kwargs["prompt_embeds"])
        assert self._run is not None
        refiner, conditioning = self._run
        refinement, following = self.step_config.refinement, step_index + 1
        if following < refiner.num_steps and refiner.acts_at(following, refinement):
            refined = refiner.refine(latents, following, conditioning, refinement)
            callback_kwargs["latents"] = refined.latents
            self.traces += refined.traces
        return callback_kwargs

    def _ready(self, pipe: Any) -> tuple[Backbone, StepRefiner]:
        """The pipeline with its scheduler set to the config's schedule, which is checked."""
        sampler = self.step_config.sampler
        backbone = backbone_for(pipe, self.step_config.refinement.attention)
        scheduler = copy.deepcopy(pipe.scheduler)
        tokens = image_tokens(backbone, sampler.height, sampler.width)
        device = pipe._execution_device
        set_schedule(scheduler, sampler.num_inference_steps, image_tokens=tokens, device=device)
        self.step_config.check_schedule(scheduler)
        return backbone, StepRefiner(backbone, scheduler)

    def _start(self, backbone: Backbone, refiner: StepRefiner, generator: Generators, images: int) -> Tensor:
        sampler = self.step_config.sampler
        conditioning = self._encode(backbone, len(self.prompts) * images)
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
        self._started = _Started(_called_denoiser(backbone.pipe), expected, refined.traces)
        return start

    def _begin(self, pipe: Any, latents: Tensor, prompt_embeds: Tensor) -> None:
        """Checks the call that has just made its first step, and prepares for the others."""
        refinement = self.step_config.refinement
        self.step_config.check_schedule(pipe.scheduler)
        backbone = backbone_for(pipe, refinement.attention)
        refiner = StepRefiner(backbone, copy.copy(pipe.scheduler))
        conditioning = self._encode(backbone, len(latents))
        _check_prompts(prompt_embeds[-len(latents) :], conditioning)
        started, self._started, self.traces = self._started, None, ()
        if refiner.acts_at(0, refinement):
            if started is None or not started.seen:
                raise ValueError(
                    "the config refines before step 0, which no callback can do, and this call did not start from "
                    "refined latents: call pipe(**refine.arguments(pipe, seeds)), or pass "
                    "latents=refine.latents(pipe, generator) beside callback_on_step_end=refine"
                )
            self.traces = started.traces
        self._run = refiner, conditioning

    def _encode(self, backbone: Backbone, images: int) -> Conditioning:
        """Conditioning of all images, those of the first prompt first, as pipelines order them."""
        count = len(self.prompts)
        if images % count:
            raise ValueError(
                f"the pipeline makes {images} images, which {count} prompts cannot share: give StepRefinement the "
                "prompts of the call, in its order"
            )
        encoded = backbone.encode(self.prompts, max_sequence_length=self.step_config.sampler.max_sequence_length)
        return encoded.select([row for row in range(count) for _ in range(images // count)])


class _Started:
    """Latents that were refined before step 0, until the denoiser sees its next input: is it they?"""

    def __init__(self, denoiser: nn.Module, expected: Tensor, traces: tuple[StepTrace, ...]):
        self.expected, self.traces = expected, traces
        self.seen = False
        self._handle = denoiser.register_forward_pre_hook(self._look, with_kwargs=True)

    def forget(self) -> None:
        self._handle.remove()

    def _look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forget()
        given = next(
            value for value in (*args, kwargs.get("sample"), kwargs.get("hidden_states")) if isinstance(value, Tensor)
        )
        # With guidance the batch comes twice; half precision rounds.
        rows = given[-len(self.expected) :].float()
        self.seen = rows.shape == self.expected.shape and torch.allclose(rows, self.expected.float(), 1e-2, 1e-2)


def _called_denoiser(pipe: Any) -> nn.Module:
    """The module that the pipeline calls: the compiled one, if it was compiled."""
    return getattr(pipe, "unet", None) or pipe.transformer


def _check_prompts(given: Tensor, conditioning: Conditioning) -> None:
    """Refuses text embeddings (B, L, D) of other texts: a token that differs by more than rounding can explain."""
    ours = conditioning.prompt_embeds
    same = given.shape == ours.shape
    if same:
        apart = (given.float() - ours.float()).norm(dim=-1)
        same = bool((apart <= 0.25 * ours.float().norm(dim=-1).mean()).all())
    if not same:
        raise ValueError(
            "the pipeline was called with other prompts than StepRefinement has (or with embeddings, clip_skip or a "
            "max_sequence_length of its own): give both the same texts in the same order"
        )
