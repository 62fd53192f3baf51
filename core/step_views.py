"""What a model is about at every step: the image it is heading for, and where it looks for each entity."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from keystep.core.backbones.conditioning import Conditioning
from keystep.core.config import Refinement
from keystep.core.prompts import Prompt
from keystep.core.sampling import Sampler
from keystep.core.schedulers import placed_at, scale_model_input
from keystep.core.step_refiner import StepTrace


@dataclass(frozen=True, eq=False)
class StepView:
    """One step of B samples, seen after its refinement and before the scheduler's step.

    Attributes:
        step_index, timestep: where.
        maps: attention to each of the E entities, in [0, 1], as the losses see it.
        estimates: the images that the guided prediction points to, one a sample: the estimated clean images of
            figure 3 in Grimal et al., arXiv 2504.17525.
        traces: of the refinement at this step; empty if there was none.
    """

    step_index: int
    timestep: float
    maps: Float[Tensor, "batch entities h w"]
    estimates: tuple[Image.Image, ...]
    traces: tuple[StepTrace, ...]


def step_views(
    sampler: Sampler, prompt: Prompt, seeds: Sequence[int], refinement: Refinement | None = None
) -> Iterator[StepView]:
    """Sample a prompt with every seed and look at each step. The last view's estimates are the images.

    Costs a denoiser evaluation and a decoding a step more than sampling does.

    Raises:
        ValueError: no seeds, an entity that is not in the prompt, a step that is not there.
    """
    backbone = sampler.backbone
    encoded = backbone.encode([prompt], max_sequence_length=sampler.config.max_sequence_length)
    conditioning = encoded.select([0] * len(seeds))
    for record in sampler.steps(sampler.start(seeds), conditioning, refinement=refinement):
        yield StepView(
            step_index=record.step_index,
            timestep=record.timestep,
            maps=_maps(sampler, record.latents, record.step_index, conditioning),
            estimates=tuple(backbone.decode(record.denoised)),
            traces=record.traces,
        )


@torch.no_grad()
def _maps(sampler: Sampler, latents: Tensor, step_index: int, conditioning: Conditioning) -> Tensor:
    scheduler = placed_at(sampler.refiner.scheduler, step_index)
    timestep = scheduler.timesteps[step_index]
    model_input = scale_model_input(scheduler, latents, timestep)
    return sampler.backbone.entity_maps(model_input, timestep, conditioning).maps.cpu()
