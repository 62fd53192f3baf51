"""From a config to images in two calls: load the pipeline, generate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from keystep.core.backbones import Backbone, backbone_for
from keystep.core.config import StepConfig
from keystep.core.dtypes import dtype_argument
from keystep.core.hub import hub_trouble, weights_trouble
from keystep.core.identity import check_model
from keystep.core.prompts import Prompt
from keystep.core.sampling import Sampler
from keystep.core.shapes.models import resolve_model
from keystep.core.step_refiner import StepTrace
from keystep.core.turns import alone_with
from keystep.core.user_values import as_config, as_prompts, as_seeds
from keystep.core.weight_files import hub_hint, weights_problem


@dataclass(frozen=True)
class ImageTrace:
    """What the refinement of one step did to one image.

    Attributes:
        step_index: before which step.
        kind: "iterref" or "gsng".
        losses: before each shift; lower is better.
        iterations: shifts made.
        failure: why the latents were left where they were; None if all went well.
    """

    step_index: int
    kind: str
    losses: tuple[float, ...]
    iterations: int
    failure: str | None


@dataclass(frozen=True)
class Generated:
    """Images and, entry by entry, what they were made from and how their refinement went."""

    images: tuple[Image.Image, ...]
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    traces: tuple[tuple[ImageTrace, ...], ...]


def generate(
    pipe: Any,
    prompts: Prompt | Sequence[Prompt],
    config: StepConfig,
    seeds: Sequence[int],
    *,
    refine: bool = True,
    negative_prompt: str = "",
    batch_size: int = 8,
) -> Generated:
    """Images of every prompt with every seed, sampled and refined as the config says.

    An image depends on its prompt, its seed and the config alone: not on `batch_size`, and not on the others. It is
    what the stock pipeline makes with `StepRefinement`. The pipeline is not changed; its scheduler need not be the
    config's. Threads that share a pipeline take turns, a whole call each. A prompt without entities is drawn as it is.

    Args:
        pipe: a loaded StableDiffusion, StableDiffusionXL or StableDiffusion3 pipeline.
        prompts: one or more.
        config: the setting.
        seeds: of `torch.Generator`, each with every prompt.
        refine: False gives the images as they are without refinement, for comparison.
        negative_prompt: of all images.
        batch_size: images at a time, at least 1; memory grows with it.

    Returns:
        `len(prompts) * len(seeds)` images; those of the first prompt come first.

    Raises:
        ValueError: no prompts or seeds, a `batch_size` below 1, an entity that is not in its prompt, or a schedule
            or family of models other than the config's. Another model than the config's is a warning.
    """
    config, prompts, seeds = as_config(config), as_prompts(prompts), as_seeds(seeds)
    if not prompts or not seeds or batch_size < 1:
        raise ValueError(
            f"generate needs prompts, seeds and a batch_size of at least 1, got {len(prompts)} prompts, "
            f"{len(seeds)} seeds and batch_size {batch_size}"
        )
    backbone = backbone_for(pipe, config.refinement.attention)
    check_model(config, backbone)
    with alone_with(backbone.denoiser):
        return _generate(backbone, prompts, config, seeds, refine, negative_prompt, batch_size)


def _generate(
    backbone: Backbone,
    prompts: tuple[Prompt, ...],
    config: StepConfig,
    seeds: Sequence[int],
    refine: bool,
    negative_prompt: str,
    batch_size: int,
) -> Generated:
    sampler = Sampler(backbone, config.sampler)
    config.check_schedule(sampler.refiner.scheduler)
    rows = [(prompt, seed) for prompt in prompts for seed in seeds]
    images: list[Image.Image] = []
    traces: list[tuple[ImageTrace, ...]] = []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        conditioning = backbone.encode(
            [prompt for prompt, _ in batch],
            negative_prompt=negative_prompt,
            max_sequence_length=config.sampler.max_sequence_length,
        )
        start = sampler.start([seed for _, seed in batch])
        end = sampler.advance(start, conditioning, refinement=config.refinement if refine else None)
        images += sampler.decode(end.point)
        traces += [tuple(_image_trace(step, row) for step in end.traces) for row in range(len(batch))]
    return Generated(
        images=tuple(images),
        prompts=tuple(prompt for prompt, _ in rows),
        seeds=tuple(seed for _, seed in rows),
        traces=tuple(traces),
    )


def _image_trace(step: StepTrace, row: int) -> ImageTrace:
    return ImageTrace(
        step_index=step.step_index,
        kind=step.kind,
        losses=step.trace.losses[row],
        iterations=step.trace.iterations[row],
        failure=step.trace.failures[row],
    )


def load_pipeline(model: str | StepConfig, *, dtype: torch.dtype | None = None, **arguments: Any) -> Any:
    """The stock diffusers pipeline of a model, ready for a config. Weights come from safetensors alone.

    Args:
        model: a hub id, a path, or an embedded model (`keystep/shapes-sd`, `keystep/shapes-sd3`); or a StepConfig,
            whose model, revision, variant and dtype are loaded and whose scheduler is set.
        dtype: of the weights; None is the config's, or float32 without one. `torch_dtype` is taken for it too.
        arguments: more for `from_pretrained`, such as `variant` for files called *.fp16.safetensors.

    Raises:
        ValueError: an embedded model that does not exist, or `use_safetensors=False`.
        OSError: the model cannot be loaded; says what can.
    """
    dtype = dtype or arguments.pop("torch_dtype", None)
    if isinstance(model, str):
        # Without a dtype, parts of a checkpoint saved in half precision load as that and others do not.
        return _load(model, dtype_argument(dtype or torch.float32) | arguments)
    settings = {"revision": model.revision, "variant": model.variant, **dtype_argument(dtype or model.torch_dtype)}
    pipe = _load(model.model, settings | arguments)
    scheduler = getattr(diffusers, model.sampler.scheduler)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **model.sampler.scheduler_config)
    return pipe


def _load(model: str, settings: dict[str, Any]) -> Any:
    if not settings.setdefault("use_safetensors", True):
        raise ValueError(f"use_safetensors=False would unpickle the weights of {model!r}, which can run any code")
    place = resolve_model(model)
    revision, variant = settings.get("revision"), settings.get("variant")
    problem = weights_problem(place, variant, given=settings)
    if problem is not None:
        raise OSError(f"{model!r} cannot be loaded: {problem}")
    trouble = hub_trouble(place, revision=revision)
    if trouble is not None:
        raise OSError(f"{trouble}. An embedded model, such as keystep/shapes-sd, needs no hub")
    try:
        return DiffusionPipeline.from_pretrained(place, **settings)
    except (OSError, ValueError) as error:
        reason = weights_trouble(place, revision=revision, variant=variant)
        if reason is not None:
            raise OSError(reason) from error
        reason = str(error).split(". ")[0].split(" (")[0]
        hint = hub_hint(str(error), settings.get("variant"))
        raise OSError(
            f"{model!r} cannot be loaded; give a hub id that can be reached from here, a folder that holds a diffusers "
            f"pipeline, or an embedded model such as keystep/shapes-sd ({reason}){hint}"
        ) from error
