"""Stored points of trajectories: where settings run alike, the first one to come along runs for all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from keystep.core.config import IterRef, Refinement
from keystep.core.latents import LatentStore, content_key
from keystep.core.points import Point
from keystep.core.prompts import Prompt
from keystep.core.write_behind import WriteBehind
from keystep.search.images.stops import Stops, Worth
from keystep.search.settings.space import Space

ALONE, SETTLED = "keystep.alone", "keystep.settled"  # kept with a point's scheduler state


@dataclass(eq=False)
class Sample:
    """One image on its way.

    Attributes:
        prompt, seed: what it is of.
        point: where it stands, one row.
        alone: denoiser evaluations from noise to there.
        spent: those of them that were not saved by a stored point.
        iterations: of iterative refinement, that are in the latents already.
        settled: iterative refinement stopped at its threshold: more iterations change nothing.
        failure: why refinement left the latents where they were, or None.
    """

    prompt: Prompt
    seed: int
    point: Point
    alone: float = 0.0
    spent: float = 0.0
    iterations: int = 0
    settled: bool = False
    failure: str | None = None


class Prefixes:
    """Points of one model and one sampler in a latent store, under names that say what was done up to them.

    Before the first step that a setting acts at, its trajectory is the unrefined one. From the start of its guidance
    (GSNg) to the step of its iterative refinement (IterRef) it is that of all settings with the same guidance, loss
    weights and attention. In the iterations it is that of all settings that differ in their number alone.

    Args:
        store: of the points; another one that holds the same may take its place.
        identity: JSON that names pipeline and sampler.
        space: of the search: the points that its settings begin from are kept.
        precise: latents are in float32 or better, so that a refinement that goes on from its latents after some
            iterations is the one that never stopped. In half precision the latents are rounded there.
    """

    def __init__(self, store: LatentStore | WriteBehind, identity: Mapping[str, Any], space: Space, *, precise: bool):
        self.store = store
        self._identity = content_key(identity)
        self._space = space
        self._precise = precise
        self._num_steps = len(space.timesteps)
        self._worth = Worth(space)
        # Weights out of a range are never met again, and with them no guided prefix.
        self._recurring = not {"cn", "iou"} & set(space.spec.ranges)

    def furthest(self, prompt: Prompt, seed: int, refinement: Refinement, *, held_out: bool) -> Sample | None:
        """The stored sample from which a setting has least to do, on the CPU; None if it starts from noise."""
        iterref = refinement.iterref
        if iterref is not None:
            for count in self._reusable(iterref):
                sample = self._get(self._snapshot_key(prompt, seed, refinement, count), prompt, seed)
                if sample is not None and (count == iterref.iterations or self._goes_on(iterref) or sample.settled):
                    sample.iterations = count
                    return sample
        for step in reversed(self.stops(refinement, held_out=held_out).read):
            sample = self._get(self._key(prompt, seed, step, self._done(prompt, refinement, step)), prompt, seed)
            if sample is not None:
                return sample
        return None

    def stops(self, refinement: Refinement, *, held_out: bool) -> Stops:
        """The steps before which points of a setting's prefix are stored, for images of either part."""
        branch = self._num_steps if refinement.iterref is None else refinement.iterref.step_index
        gsng = refinement.gsng
        alike = self._num_steps if gsng is None or self._recurring else gsng.start
        stops = self._worth.stops(branch, iterated=refinement.iterref is not None, held_out=held_out)
        return Stops(*(tuple(step for step in each if step <= alike or step == branch) for each in stops))

    def keep(self, sample: Sample, point: Point, refinement: Refinement) -> None:
        """Stores a sample of a setting's prefix as it stands before one of its stops: `point`, one row, on the CPU."""
        key = self._key(
            sample.prompt, sample.seed, point.step_index, self._done(sample.prompt, refinement, point.step_index)
        )
        self._put(key, point, sample.alone, settled=False)

    def counts(self, iterref: IterRef) -> tuple[int, ...]:
        """The iteration counts at which a run of IterRef is worth keeping."""
        known = self._worth.counts
        return tuple(
            count
            for count in known
            if count < iterref.iterations
            or (count == iterref.iterations and count < known[-1] and self._goes_on(iterref))
        )

    def keep_snapshot(
        self, sample: Sample, point: Point, refinement: Refinement, count: int, *, alone: float, settled: bool
    ) -> None:
        """Stores a sample after `count` iterations of IterRef, which cost `alone` evaluations from noise."""
        self._put(self._snapshot_key(sample.prompt, sample.seed, refinement, count), point, alone, settled)

    def _reusable(self, iterref: IterRef) -> Iterator[int]:
        """Iteration counts whose points may serve, the best first."""
        yield iterref.iterations
        if self._goes_on(iterref) or iterref.threshold is not None:
            yield from (count for count in reversed(self._space.iteration_counts) if count < iterref.iterations)

    def _goes_on(self, iterref: IterRef) -> bool:
        """Whether the latents alone say how the iterations go on: an optimiser with a memory starts again."""
        return self._precise and iterref.optimizer == "gd"

    def _done(self, prompt: Prompt, refinement: Refinement, step: int) -> dict[str, Any]:
        """What a setting has done to the latents before a step, its iterative refinement left out."""
        gsng = refinement.gsng
        if gsng is None:
            return {}
        shifted = gsng.step_range(self._num_steps)
        if not shifted or shifted.start >= step:
            return {}
        guided = gsng.model_dump(mode="json") | {"start": shifted.start, "stop": min(shifted.stop, step)}
        return {"gsng": guided, **_loss(prompt, refinement)}

    def _snapshot_key(self, prompt: Prompt, seed: int, refinement: Refinement, count: int) -> str:
        assert refinement.iterref is not None
        step = refinement.iterref.step_index
        iterref = refinement.iterref.model_dump(mode="json") | {"iterations": count}
        done = {**self._done(prompt, refinement, step), "iterref": iterref, **_loss(prompt, refinement)}
        return self._key(prompt, seed, step, done)

    def _key(self, prompt: Prompt, seed: int, step: int, done: Mapping[str, Any]) -> str:
        parts = {"of": self._identity, "prompt": prompt.text, "seed": seed, "before_step": step, "done": done}
        return content_key(parts)

    def _get(self, key: str, prompt: Prompt, seed: int) -> Sample | None:
        point = self.store.get(key)
        if point is None:
            return None
        state = dict(point.scheduler_state)
        alone, settled = state.pop(ALONE), state.pop(SETTLED)
        assert isinstance(alone, Tensor) and isinstance(settled, Tensor)
        return Sample(
            prompt, seed, replace(point, scheduler_state=state), alone=alone.item(), settled=bool(settled.item())
        )

    def _put(self, key: str, point: Point, alone: float, settled: bool) -> None:
        notes = {ALONE: torch.tensor([alone], dtype=torch.float64), SETTLED: torch.tensor([settled])}
        self.store.put(key, replace(point, scheduler_state={**point.scheduler_state, **notes}))


def _loss(prompt: Prompt, refinement: Refinement) -> dict[str, Any]:
    """What gradients depend on, beside the latents."""
    entities: Sequence[Any] = [[entity.noun, entity.attribute] for entity in prompt.entities]
    return {
        "entities": entities,
        "weights": refinement.weights.model_dump(mode="json"),
        "attention": refinement.attention.model_dump(mode="json"),
    }
