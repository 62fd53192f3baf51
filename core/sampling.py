"""The denoising loop as a resumable value: stop before any step, store the point, go on later, in any batch.

A sample's trajectory depends on its prompt, its seed and the settings alone, and is the stock pipeline's own.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.config import Refinement, SamplerConfig
from keystep.core.points import Point
from keystep.core.schedulers import (
    denoised,
    from_pipeline_start,
    make_scheduler,
    read_memory,
    scale_model_input,
    schedule_id,
    to_pipeline_start,
    write_memory,
)
from keystep.core.step_refiner import Refined, StepRefiner, StepTrace

__all__ = ["Advanced", "Point", "Sampler", "StepRecord", "StepTrace", "image_tokens", "noise_dtype"]


@dataclass(frozen=True, eq=False)
class StepRecord:
    """One denoising step, as it went.

    Attributes:
        step_index, timestep: where; the timestep is the scheduler's own.
        latents: (B, C, h, w) before the step, after its refinement.
        denoised: (B, C, h, w), the image that the guided prediction points to (x0), in latent space.
        point: after the step.
        traces: of the refinement at this step; empty if there was none.
        snapshots: points before this step after the iteration counts that were asked for.
    """

    step_index: int
    timestep: float
    latents: Tensor
    denoised: Tensor
    point: Point
    traces: tuple[StepTrace, ...]
    snapshots: Mapping[int, Point]


@dataclass(frozen=True, eq=False)
class Advanced:
    """Where a run stopped, what its refinements did, and the snapshots by number of iterations."""

    point: Point
    traces: tuple[StepTrace, ...] = ()
    snapshots: Mapping[int, Point] = field(default_factory=dict)


class Sampler:
    """Denoising with one backbone and one set of sampler settings. Holds no trajectory: those are Points.

    Args:
        backbone: the model.
        config: scheduler, number of steps, guidance, size.

    Attributes:
        latent_shape: (C, h, w) of one sample.
        device, dtype: where latents are, and what noise is drawn in.
        timesteps: (num_steps,), the scheduler's own, the noisiest first.
        schedule: names the schedule; points of another one are refused.
        refiner: refines latents before any step of the schedule.

    Raises:
        ValueError: a scheduler that cannot be resumed, or a size that the model cannot have.
    """

    def __init__(self, backbone: Backbone, config: SamplerConfig):
        self.backbone = backbone
        self.config = config
        self.latent_shape = backbone.latent_shape(config.height, config.width)
        self.device = torch.device(backbone.pipe._execution_device)
        self.dtype = noise_dtype(backbone)
        self._scheduler = make_scheduler(
            backbone.pipe.scheduler.config,
            config,
            image_tokens=image_tokens(backbone, config.height, config.width),
            device=self.device,
        )
        self.timesteps: Tensor = self._scheduler.timesteps
        self.schedule = schedule_id(self._scheduler)
        self._draws_noise = "generator" in inspect.signature(self._scheduler.step).parameters
        self.refiner = StepRefiner(backbone, self._scheduler)

    @property
    def num_steps(self) -> int:
        """Steps of a whole run, `len(timesteps)`: some schedulers (PNDM) take more than the steps asked for."""
        return len(self.timesteps)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON that names the settings, for `keystep.core.latents.content_key`."""
        return {**self.config.model_dump(mode="json"), "schedule": self.schedule, "dtype": str(self.dtype)}

    def start(self, seeds: Sequence[int]) -> Point:
        """Pure noise, one sample a seed: what a stock pipeline draws from `torch.Generator().manual_seed(seed)`.

        Raises:
            ValueError: no seeds.
        """
        if not seeds:
            raise ValueError("start needs at least one seed, got none")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = [torch.randn((1, *self.latent_shape), generator=g, dtype=self.dtype) for g in generators]
        return Point(
            latents=from_pipeline_start(self._scheduler, torch.cat(noise).to(self.device)),
            step_index=0,
            noise_streams=_states(generators),
            schedule=self.schedule,
            scheduler_state=read_memory(self._scheduler),
        )

    def advance(
        self,
        point: Point,
        conditioning: Conditioning,
        until: int | None = None,
        refinement: Refinement | None = None,
        snapshots: Sequence[int] = (),
    ) -> Advanced:
        """Runs from `point` to just before step `until`, whose own refinement is not done yet.

        Args:
            point: of this schedule, B samples.
            conditioning: of the same B samples.
            until: in `point.step_index..num_steps`; None runs to the end.
            refinement: applied at the steps it names among those run; None samples as the stock pipeline does.
            snapshots: iteration counts of iterative refinement after which to keep the point too. Going on from
                one with the same refinement does not repeat the iterations.

        Raises:
            ValueError: a point of another schedule, size or number of samples; steps out of range.
        """
        traces: list[StepTrace] = []
        kept: dict[int, Point] = {}
        for record in self.steps(point, conditioning, until, refinement, snapshots):
            point = record.point
            traces.extend(record.traces)
            kept.update(record.snapshots)
        return Advanced(point, tuple(traces), kept)

    def steps(
        self,
        point: Point,
        conditioning: Conditioning,
        until: int | None = None,
        refinement: Refinement | None = None,
        snapshots: Sequence[int] = (),
    ) -> Iterator[StepRecord]:
        """As `advance`, a record a step, for those who look at what happens on the way."""
        until = self.num_steps if until is None else until
        self._check(point, conditioning, until, refinement)
        return self._run(point.to(self.device), conditioning, until, refinement, snapshots)

    def decode(self, point: Point) -> list[Image.Image]:
        """The images of a finished point, as the stock pipeline decodes them.

        Raises:
            ValueError: the point is not at the end.
        """
        if point.step_index != self.num_steps:
            raise ValueError(
                f"only a finished point can be decoded: this one is before step {point.step_index} of "
                f"{self.num_steps}, advance it first"
            )
        return self.backbone.decode(point.latents.to(self.device))

    def _run(
        self,
        point: Point,
        conditioning: Conditioning,
        until: int,
        refinement: Refinement | None,
        snapshots: Sequence[int],
    ) -> Iterator[StepRecord]:
        scheduler = copy.deepcopy(self._scheduler)
        write_memory(scheduler, point.scheduler_state, point.step_index)
        generators = [_generator(state) for state in point.noise_streams]
        noise = {"generator": generators} if self._draws_noise else {}
        for step_index in range(point.step_index, until):
            timestep = self.timesteps[step_index]
            refined = self._refined(point, conditioning, refinement, snapshots)
            before, latents = point, refined.latents
            with torch.no_grad():
                model_input = scale_model_input(scheduler, latents, timestep)
                guidance = self.config.guidance_scale
                noise_pred = self.backbone.noise_pred(model_input, timestep, conditioning, guidance)
                estimate = denoised(scheduler, noise_pred, latents, step_index)
                after = scheduler.step(noise_pred, timestep, latents, **noise, return_dict=False)[0]
            point = Point(
                latents=after,
                step_index=step_index + 1,
                noise_streams=_states(generators),
                schedule=self.schedule,
                scheduler_state=read_memory(scheduler),
            )
            yield StepRecord(
                step_index=step_index,
                timestep=float(timestep),
                latents=latents,
                denoised=estimate,
                point=point,
                traces=refined.traces,
                snapshots={k: before.after_iterref(kept) for k, kept in refined.snapshots.items()},
            )

    def _refined(
        self, point: Point, conditioning: Conditioning, refinement: Refinement | None, snapshots: Sequence[int]
    ) -> Refined:
        """The point's latents after the refinement of the step that it is before."""
        if refinement is None:
            return Refined(point.latents)
        step_index = point.step_index
        refined = self.refiner.refine(
            point.latents, step_index, conditioning, refinement, snapshots=snapshots, skip_iterref=point.iterref_done
        )
        if step_index > 0 or not self.refiner.acts_at(0, refinement):
            return refined
        # Rounded as in a pipeline, which is given them divided: its images are these to the last bit.
        start = to_pipeline_start(self._scheduler, refined.latents)
        return replace(refined, latents=from_pipeline_start(self._scheduler, start))

    def _check(self, point: Point, conditioning: Conditioning, until: int, refinement: Refinement | None) -> None:
        if point.schedule != self.schedule:
            raise ValueError(
                f"the point belongs to schedule {point.schedule}, this sampler has {self.schedule}: use the "
                "sampler settings that the point was made with, or start again"
            )
        if point.latents.shape[1:] != self.latent_shape:
            shape = tuple(point.latents.shape[1:])
            raise ValueError(f"the point's latents are {shape}, this sampler's size needs {self.latent_shape}")
        if len(point) != len(conditioning):
            raise ValueError(f"{len(point)} samples and {len(conditioning)} rows of conditioning")
        if not point.step_index <= until <= self.num_steps:
            raise ValueError(f"until must be in {point.step_index}..{self.num_steps}, got {until}")
        if refinement is not None:
            self.refiner.check(refinement)


def image_tokens(backbone: Backbone, height: int, width: int) -> int:
    """Patches of an image of height x width pixels, as a transformer sees them; latent pixels for a UNet."""
    patch = backbone.denoiser.config.get("patch_size") or 1  # pyright: ignore
    _, rows, columns = backbone.latent_shape(height, width)
    return (rows // patch) * (columns // patch)


def noise_dtype(backbone: Backbone) -> torch.dtype:
    """What the stock pipelines draw noise in: the dtype of the text embeddings."""
    encoder = backbone.pipe.text_encoder
    return (backbone.pipe.text_encoder_2 if encoder is None else encoder).dtype


def _states(generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([generator.get_state() for generator in generators])


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    # A copy of the row: torch reads a view's storage from its beginning, not from where the view starts.
    generator.set_state(state.clone())
    return generator
