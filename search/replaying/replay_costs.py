"""Denoiser evaluations of images that share what `keystep.search.images.prefixes` stores, counted without a model."""

from keystep.core.config import IterRef, Refinement, SamplerConfig
from keystep.search.images.costs import SHIFT, step_cost
from keystep.search.images.stops import Worth
from keystep.search.settings.space import Space, gsng_label
from keystep.search.spec.instances import Instance


def evaluations_alone(refinement: Refinement | None, sampler: SamplerConfig) -> float:
    """Denoiser evaluations of one image made from noise; iterations that a threshold would stop are counted."""
    setting = refinement or Refinement()
    return _steps_cost(setting, sampler, 0, sampler.num_inference_steps) + SHIFT * _iterations(setting.iterref)


class Reuse:
    """What one image after the other costs when points are kept as a search keeps them.

    A setting begins from the furthest point that is stored of its trajectory: its latents after as many or fewer
    iterations of plain gradient descent, or its prefix before one of the space's steps.

    Args:
        space: the settings that the search may try; without a threshold.
        sampler: of the search.
        precise: whether the latents are float32, so that iterations go on from those of a shorter run.

    Attributes:
        num_stored: points stored so far.

    Raises:
        ValueError: a space whose sharing is not counted here: a threshold, ranges of loss weights.
    """

    def __init__(self, space: Space, sampler: SamplerConfig, *, precise: bool = True):
        if space.spec.threshold is not None or {"cn", "iou"} & set(space.spec.ranges):
            raise ValueError(
                "evaluations are counted for spaces without a threshold and without ranges of loss weights"
            )
        self._sampler, self._precise = sampler, precise
        self.num_stored = 0
        self._worth = Worth(space)
        self._prefixes: dict[tuple[object, ...], set[int]] = {}
        self._iterated: dict[tuple[object, ...], set[int]] = {}

    def spend(self, refinement: Refinement | None, instance: Instance) -> float:
        """Evaluations that this image costs now; what it leaves stored is there for the next."""
        setting, num_steps = refinement or Refinement(), self._sampler.num_inference_steps
        iterref = setting.iterref
        if iterref is None:
            return self._prefix(setting, instance, num_steps)
        spent = SHIFT * _iterations(iterref)
        path = (instance, iterref.step_index, iterref.step_size, iterref.optimizer, *_guided(setting), *_loss(setting))
        stored = self._iterated.setdefault(path, set())
        goes_on = self._precise and iterref.optimizer == "gd"
        usable = [count for count in stored if count == iterref.iterations or (goes_on and count < iterref.iterations)]
        if usable:
            spent -= SHIFT * max(usable)
        else:
            spent += self._prefix(setting, instance, iterref.step_index)
        counts = self._worth.counts
        snapshots = {count for count in counts if count <= iterref.iterations}
        asked_for = goes_on and bool(counts) and iterref.iterations < counts[-1]  # whether the last one is kept
        self.num_stored += len(snapshots - stored - (set() if asked_for else {iterref.iterations}))
        stored |= snapshots
        return spent + _steps_cost(setting, self._sampler, iterref.step_index, num_steps)

    def _prefix(self, setting: Refinement, instance: Instance, until: int) -> float:
        """Cost of the steps before `until` from the furthest stored point, and its stops stored."""
        spent, begin = 0.0, 0
        stops = self._worth.stops(until, iterated=setting.iterref is not None, held_out=instance.held_out)
        for step in reversed(stops.read):
            if step in self._prefixes.setdefault(self._done(setting, instance, step), set()):
                begin = step
                break
        spent += _steps_cost(setting, self._sampler, begin, until)
        for step in stops.kept:
            if begin < step:
                self._prefixes.setdefault(self._done(setting, instance, step), set()).add(step)
                self.num_stored += 1
        return spent

    def _done(self, setting: Refinement, instance: Instance, step: int) -> tuple[object, ...]:
        """What was done before a step; guidance with other weights, or that began later, is another trajectory."""
        gsng = setting.gsng
        begun = gsng is not None and gsng.start < step and gsng.step_range(self._sampler.num_inference_steps)
        return (instance, *_guided(setting), *_loss(setting)) if begun else (instance,)


def _steps_cost(setting: Refinement, sampler: SamplerConfig, begin: int, end: int) -> float:
    num_steps = sampler.num_inference_steps
    return sum(step_cost(sampler.guidance_scale, setting.gsng, step, num_steps) for step in range(begin, end))


def _iterations(iterref: IterRef | None) -> int:
    return 0 if iterref is None else iterref.iterations


def _guided(setting: Refinement) -> tuple[object, ...]:
    return (gsng_label(setting.gsng),)


def _loss(setting: Refinement) -> tuple[object, ...]:
    return (setting.weights.cn, setting.weights.iou)
