"""The refinement of one denoising step: iterative refinement, then guidance, on a batch of latents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from keystep.core.backbones import backbone_for
from keystep.core.backbones.base import Backbone
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.config import Refinement
from keystep.core.inference import outside_inference
from keystep.core.losses import combined_loss
from keystep.core.refine import RefineTrace, guidance_shift, iterative_refinement
from keystep.core.schedulers import placed_at, scale_model_input
from keystep.core.turns import alone_with

NO_ENTITIES = "the prompt names no entities, so that there is nothing to refine"
"""The failure that traces give for such a sample, which is left as it is at no cost."""


@dataclass(frozen=True)
class StepTrace:
    """What a refinement did at one step: `kind` is "iterref" or "gsng"."""

    step_index: int
    kind: str
    trace: RefineTrace


@dataclass(frozen=True, eq=False)
class Refined:
    """Latents (B, C, h, w) after the refinement of one step, and on the way after given iteration counts."""

    latents: Tensor
    traces: tuple[StepTrace, ...] = ()
    snapshots: Mapping[int, Tensor] = field(default_factory=dict)


class StepRefiner:
    """Refines latents before any step of one schedule.

    Args:
        backbone: the model.
        scheduler: with its timesteps set; read, never stepped or changed.
    """

    def __init__(self, backbone: Backbone, scheduler: Any):
        self.scheduler = scheduler
        self.num_steps = len(scheduler.timesteps)
        self._backbones = {backbone.attention.model_dump_json(): backbone}
        self._pipe = backbone.pipe
        self._denoiser = backbone.denoiser

    def acts_at(self, step_index: int, refinement: Refinement) -> bool:
        """Whether the refinement changes latents before this step."""
        at_iterref = refinement.iterref is not None and refinement.iterref.step_index == step_index
        return at_iterref or (refinement.gsng is not None and step_index in refinement.gsng.step_range(self.num_steps))

    def check(self, refinement: Refinement) -> None:
        """Refuses iterative refinement at a step that is not there.

        Raises:
            ValueError: names the step and the number of steps.
        """
        iterref = refinement.iterref
        if iterref is not None and iterref.step_index >= self.num_steps:
            raise ValueError(
                f"iterref.step_index is {iterref.step_index}, and there are {self.num_steps} steps: it must be "
                f"in 0..{self.num_steps - 1}"
            )

    def refine(
        self,
        latents: Tensor,
        step_index: int,
        conditioning: Conditioning,
        refinement: Refinement,
        *,
        snapshots: Sequence[int] = (),
        skip_iterref: bool = False,
    ) -> Refined:
        """The latents as the refinement leaves them before the step; unchanged where it does not act.

        Args:
            latents: (B, C, h, w), before the step and not scaled.
            step_index: position in the schedule.
            conditioning: of the same samples.
            refinement: what to do, and where.
            snapshots: iteration counts after which to keep iterative refinement's latents too.
            skip_iterref: iterative refinement of this step is done already.
        """
        named = conditioning.entity_mask.any(dim=1).tolist()
        rows = [row for row, has_entities in enumerate(named) if has_entities]
        if len(rows) == len(latents):
            with alone_with(self._denoiser):
                return self._refine(latents, step_index, conditioning, refinement, snapshots, skip_iterref)
        if rows:
            with alone_with(self._denoiser):
                some = conditioning.select(rows)
                refined = self._refine(latents[rows], step_index, some, refinement, snapshots, skip_iterref)
        else:
            refined = Refined(latents[:0], self._nothing(step_index, refinement, skip_iterref), {})
        kept = {count: _among(latents, rows, refined.snapshots.get(count)) for count in snapshots}
        traces = tuple(replace(step, trace=_spread(step.trace, rows, len(latents))) for step in refined.traces)
        return Refined(_among(latents, rows, refined.latents), traces, kept)

    def _nothing(self, step_index: int, refinement: Refinement, skip_iterref: bool) -> tuple[StepTrace, ...]:
        """The traces of a step at which there is no sample to refine."""
        iterref, gsng = refinement.iterref, refinement.gsng
        kinds = ["iterref"] if iterref is not None and iterref.step_index == step_index and not skip_iterref else []
        if gsng is not None and step_index in gsng.step_range(self.num_steps):
            kinds.append("gsng")
        return tuple(StepTrace(step_index, kind, RefineTrace((), (), (), 0.0)) for kind in kinds)

    def _refine(
        self,
        latents: Tensor,
        step_index: int,
        conditioning: Conditioning,
        refinement: Refinement,
        snapshots: Sequence[int],
        skip_iterref: bool,
    ) -> Refined:
        """As `refine`, where every sample has entities."""
        iterref, gsng = refinement.iterref, refinement.gsng
        loss = self._loss(step_index, conditioning, refinement)
        traces: list[StepTrace] = []
        kept: Mapping[int, Tensor] = {}
        if iterref is not None and iterref.step_index == step_index and not skip_iterref:
            result = iterative_refinement(
                loss, latents, iterref, num_steps=self.num_steps, step_index=step_index, snapshots=snapshots
            )
            latents, kept = result.latents, result.snapshots
            traces.append(StepTrace(step_index, "iterref", result.trace))
        if gsng is not None and step_index in gsng.step_range(self.num_steps):
            result = guidance_shift(loss, latents, gsng, num_steps=self.num_steps, step_index=step_index)
            latents = result.latents
            traces.append(StepTrace(step_index, "gsng", result.trace))
        return Refined(latents, tuple(traces), kept)

    def _loss(
        self, step_index: int, conditioning: Conditioning, refinement: Refinement
    ) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """Loss (n,) of the latents (n, C, h, w) of the samples `rows` before this step, differentiable."""
        scheduler = placed_at(self.scheduler, step_index)
        for name, value in vars(scheduler).items():
            setattr(scheduler, name, outside_inference(value))
        timestep = scheduler.timesteps[step_index]
        choice = refinement.attention.model_dump_json()
        if choice not in self._backbones:
            self._backbones[choice] = backbone_for(self._pipe, refinement.attention)
        backbone = self._backbones[choice]

        def loss(latents: Tensor, rows: Sequence[int]) -> Tensor:
            model_input = scale_model_input(scheduler, latents, timestep)
            maps = backbone.entity_maps(model_input, timestep, conditioning.select(rows))
            return combined_loss(maps.maps, maps.mask, refinement.weights)

        return loss


def _among(latents: Tensor, rows: Sequence[int], refined: Tensor | None) -> Tensor:
    """The latents of all samples, with those at `rows` refined."""
    whole = latents.clone()
    if rows and refined is not None:
        whole[list(rows)] = refined
    return whole


def _spread(trace: RefineTrace, rows: Sequence[int], count: int) -> RefineTrace:
    """The trace of the samples at `rows` as one of all `count`, where the others have nothing to refine."""
    place = {row: number for number, row in enumerate(rows)}
    return RefineTrace(
        losses=tuple(trace.losses[place[row]] if row in place else () for row in range(count)),
        iterations=tuple(trace.iterations[place[row]] if row in place else 0 for row in range(count)),
        failures=tuple(trace.failures[place[row]] if row in place else NO_ENTITIES for row in range(count)),
        seconds=trace.seconds,
    )
