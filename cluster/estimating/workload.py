"""What a search has to compute: its blocks, each with its denoiser evaluations, plainly and as keystep does it."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keystep.core.config import Refinement
from keystep.search.replaying.replay_costs import Reuse, evaluations_alone
from keystep.search.settings.rounds import first_decision
from keystep.search.settings.space import Space
from keystep.search.spec.instances import Instance, Part
from keystep.search.spec.search_spec import Range, SearchSpec


@dataclass(frozen=True)
class BlockWork:
    """A block of images under one setting.

    Attributes:
        evaluations: of the denoiser, for all its images.
        images: how many.
        points: latents read from the store, one an image, and written to it.
    """

    evaluations: float
    images: int
    points: float = 0.0


@dataclass(frozen=True)
class Workload:
    """The blocks of a search.

    Attributes:
        baseline: of the unrefined model and of guidance alone.
        trials: by slot, the blocks that a trial sees before it ends.
        held_out: of the unrefined model, winner and runner-up.
        stored_points: latents in the store at the end.
        ahead: how many of the held-out blocks, the first ones, may be made before there is a winner.
        batch_size: images that a worker makes at a time.
        num_blocks: of a trial that is not stopped; None if that is as many as it has here.
        decides_from: the first block after which a trial may be stopped.
    """

    baseline: tuple[BlockWork, ...]
    trials: tuple[tuple[BlockWork, ...], ...]
    held_out: tuple[BlockWork, ...]
    stored_points: float = 0.0
    ahead: int = 0
    batch_size: int = 1
    num_blocks: int | None = None
    decides_from: int = 0

    @property
    def blocks(self) -> Iterator[BlockWork]:
        """All of them."""
        return itertools.chain(self.baseline, *self.trials, self.held_out)

    @property
    def evaluations(self) -> float:
        """Of the denoiser, in all."""
        return sum(block.evaluations for block in self.blocks)

    @property
    def images(self) -> int:
        """In all."""
        return sum(block.images for block in self.blocks)


def settings_of(spec: SearchSpec, space: Space) -> tuple[Refinement, ...]:
    """As many settings as the search tries: the grid's in order, else different ones drawn at random.

    TPE comes back to what did well, so that its settings share more than these do.
    """
    limit = spec.search.trials if space.size is None else min(spec.search.trials, space.size)
    if spec.search.sampler == "grid":
        return tuple(space.refinement(params) for params in itertools.islice(space.grid(), limit))
    generator = random.Random(spec.search.seed)
    found: dict[Refinement, None] = {}
    while len(found) < limit:
        drawn = {name: _draw(generator, values) for name, values in space.varied.items()}
        found[space.refinement(drawn)] = None
    return tuple(found)


def plain_work(spec: SearchSpec, space: Space, parts: tuple[Part, Part], settings: Sequence[Refinement]) -> Workload:
    """The plain way: every setting on every instance, each image from noise."""
    validation, held_out = parts

    def blocks(setting: Refinement | None, part: Part) -> tuple[BlockWork, ...]:
        each = evaluations_alone(setting, spec.sampler)
        return tuple(BlockWork(each * len(block), len(block)) for block in part.blocks)

    return Workload(
        baseline=tuple(block for each in (None, *space.guidance_alone()) for block in blocks(each, validation)),
        trials=tuple(blocks(setting, validation) for setting in settings),
        held_out=tuple(block for each in _confirmed(spec, settings) for block in blocks(each, held_out)),
        **_order(spec, parts),
    )


def expected_work(
    spec: SearchSpec,
    space: Space,
    parts: tuple[Part, Part],
    settings: Sequence[Refinement],
    stopped_after: Sequence[int | None] = (None,),
) -> Workload:
    """With what settings share computed once, and trials stopped early.

    Args:
        parts: validation and held-out part.
        settings: of the trials, in the order of their slots.
        stopped_after: prompts that a trial sees before it is stopped, None if it sees all. Of another number of
            trials they are spread over the slots in their order.
    """
    validation, held_out = parts
    counter = _Counter(spec, space)
    baseline = [
        block
        for each in (None, *space.guidance_alone())
        for block in counter.blocks(each, validation, len(validation.blocks))
    ]
    trials = []
    for slot, setting in enumerate(settings):
        prompts = stopped_after[slot * len(stopped_after) // len(settings)]
        trials.append(tuple(counter.blocks(setting, validation, _num_blocks(spec, validation, prompts))))
    confirmed = [
        block for each in _confirmed(spec, settings) for block in counter.blocks(each, held_out, len(held_out.blocks))
    ]
    return Workload(tuple(baseline), tuple(trials), tuple(confirmed), counter.stored, **_order(spec, parts))


def _order(spec: SearchSpec, parts: tuple[Part, Part]) -> dict[str, int]:
    """What the order of the work depends on."""
    validation, held_out = parts
    return {
        "ahead": len(held_out.blocks),
        "batch_size": spec.resources.batch_size,
        "num_blocks": len(validation.blocks),
        "decides_from": first_decision(validation, spec.search.min_prompts, spec.search.pruner),
    }


class _Counter:
    """Counts block after block. The images of a block have the same past, so that one of them stands for all."""

    def __init__(self, spec: SearchSpec, space: Space):
        self._spec = spec
        self._counted = space.spec.threshold is None and not {"cn", "iou"} & set(space.spec.ranges)
        self._reuse = Reuse(space, spec.sampler, precise=spec.model.dtype == "float32") if self._counted else None
        self._steps = space.steps
        self.stored = 0.0

    def blocks(self, setting: Refinement | None, part: Part, count: int) -> Iterator[BlockWork]:
        """The first `count` blocks of a part under a setting."""
        for block in part.blocks[:count]:
            each, points = self._image(setting, block[0])
            self.stored += max(0.0, points - 1.0) * len(block)
            yield BlockWork(each * len(block), len(block), points * len(block))

    def _image(self, setting: Refinement | None, instance: Instance) -> tuple[float, float]:
        """Evaluations and points moved: one read, and those written."""
        if self._reuse is None:
            return self._unrefined_prefix(setting), 1.0
        before = self._reuse.num_stored
        return self._reuse.spend(setting, instance), 1.0 + self._reuse.num_stored - before

    def _unrefined_prefix(self, setting: Refinement | None) -> float:
        """Where loss weights are drawn from ranges, or a threshold ends the iterations, only the unrefined steps
        before the setting acts are sure to be shared; the iterations are counted in full."""
        alone = evaluations_alone(setting, self._spec.sampler)
        if setting is None or setting.iterref is None:
            return alone
        acts = (
            setting.iterref.step_index if setting.gsng is None else min(setting.gsng.start, setting.iterref.step_index)
        )
        return alone - evaluations_alone(None, self._spec.sampler) * acts / self._spec.sampler.num_inference_steps


def _num_blocks(spec: SearchSpec, part: Part, prompts: int | None) -> int:
    if prompts is None:
        return len(part.blocks)
    instances = max(prompts, spec.search.min_prompts) * len(part.seeds)
    seen = list(itertools.accumulate(len(block) for block in part.blocks))
    return next((count for count, total in enumerate(seen, 1) if total >= instances), len(seen))


def _confirmed(spec: SearchSpec, settings: Sequence[Refinement]) -> list[Refinement | None]:
    """The unrefined model, and as winner and runner-up the settings whose cost is nearest to the mean."""
    costs = [evaluations_alone(setting, spec.sampler) for setting in settings]
    mean = math.fsum(costs) / len(costs)
    nearest = sorted(range(len(settings)), key=lambda slot: abs(costs[slot] - mean))
    return [None, *(settings[slot] for slot in nearest[:2])]


def _draw(generator: random.Random, values: tuple[Any, ...] | Range) -> Any:
    if not isinstance(values, Range):
        return generator.choice(values)
    if values.log:
        return math.exp(generator.uniform(math.log(values.low), math.log(values.high)))
    return generator.uniform(values.low, values.high)
