"""From the furthest stored points to finished latents, a batch at a time, storing what others can begin from."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keystep.core.backbones.conditioning import Conditioning
from keystep.core.config import Refinement
from keystep.core.points import Point
from keystep.core.prompts import Prompt
from keystep.core.sampling import Sampler
from keystep.core.step_refiner import StepTrace
from keystep.search.images.costs import iterref_cost, step_cost
from keystep.search.images.prefixes import Prefixes, Sample

NOTHING = Refinement()


class Trajectories:
    """Runs settings for batches of samples.

    A sample's latents depend on its prompt, its seed and the setting alone, whatever was stored of it.

    Args:
        sampler: of the model.
        prefixes: the stored points of the same sampler.
    """

    def __init__(self, sampler: Sampler, prefixes: Prefixes):
        self._sampler = sampler
        self._prefixes = prefixes

    def finish(
        self,
        samples: Sequence[tuple[Prompt, int]],
        conditioning: Conditioning,
        refinement: Refinement | None,
        *,
        held_out: bool = False,
    ) -> list[Sample]:
        """Every sample at the end of its trajectory.

        Args:
            samples: B prompts and seeds.
            conditioning: of the same prompts.
            refinement: the setting; None is sampling as it was.
            held_out: the samples are of the held-out part, of which less is worth storing.
        """
        setting = refinement or NOTHING
        batch = _Batch(self._begin(samples, setting, held_out), conditioning, held_out)
        if setting.iterref is not None:
            before = setting.model_copy(update={"iterref": None})
            self._advance(batch, setting.iterref.step_index, before, keep=setting)
            self._iterate(batch, setting)
            self._advance(batch, self._sampler.num_steps, setting, keep=None)
        else:
            self._advance(batch, self._sampler.num_steps, setting, keep=setting)
        return batch.samples

    def _begin(self, samples: Sequence[tuple[Prompt, int]], setting: Refinement, held_out: bool) -> list[Sample]:
        found = [self._prefixes.furthest(prompt, seed, setting, held_out=held_out) for prompt, seed in samples]
        begun: list[Sample] = []
        for (prompt, seed), sample in zip(samples, found, strict=True):
            sample = sample or Sample(prompt, seed, self._sampler.start([seed]))
            sample.point = sample.point.to(self._sampler.device)
            begun.append(sample)
        return begun

    def _advance(self, batch: "_Batch", until: int, setting: Refinement, keep: Refinement | None) -> None:
        """Brings all samples to `until`. Those further behind start first, so that they run on together."""
        places = sorted({sample.point.step_index for sample in batch.samples} - {until})
        for place, next_place in itertools.pairwise([*places, until]):
            rows = [row for row, sample in enumerate(batch.samples) if sample.point.step_index == place]
            self._run(batch, rows, next_place, setting, keep)

    def _run(
        self, batch: "_Batch", rows: Sequence[int], until: int, setting: Refinement, keep: Refinement | None
    ) -> None:
        sampler, samples = self._sampler, [batch.samples[row] for row in rows]
        stops = () if keep is None else self._prefixes.stops(keep, held_out=batch.held_out).kept
        refinement = None if setting.iterref is None and setting.gsng is None else setting
        point = Point.cat([sample.point for sample in samples])
        for record in sampler.steps(point, batch.conditioning.select(rows), until, refinement):
            cost = step_cost(sampler.config.guidance_scale, setting.gsng, record.step_index, sampler.num_steps)
            point = record.point
            for sample in samples:
                sample.alone += cost
                sample.spent += cost
            _note_failures(samples, record.traces)
            if keep is not None and point.step_index in stops:
                stored = point.to("cpu")
                for row, sample in enumerate(samples):
                    if sample.failure is None:
                        self._prefixes.keep(sample, stored.select([row]), keep)
        for row, sample in enumerate(samples):
            sample.point = point.select([row])

    def _iterate(self, batch: "_Batch", setting: Refinement) -> None:
        """Iterative refinement of all samples, which stand before its step; of each what is left to do of it."""
        iterref = setting.iterref
        assert iterref is not None
        for sample in batch.samples:
            if sample.settled or sample.iterations == iterref.iterations:
                sample.point = replace(sample.point, iterref_done=True)
        left = {sample.iterations for sample in batch.samples if not sample.point.iterref_done}
        for done in sorted(left):
            rows = [
                row
                for row, sample in enumerate(batch.samples)
                if sample.iterations == done and not sample.point.iterref_done
            ]
            self._shift(batch, rows, setting, done)

    def _shift(self, batch: "_Batch", rows: Sequence[int], setting: Refinement, done: int) -> None:
        """The iterations after the first `done` of the samples at `rows`, with snapshots stored on the way."""
        iterref = setting.iterref
        assert iterref is not None
        samples = [batch.samples[row] for row in rows]
        rest = iterref.model_copy(update={"iterations": iterref.iterations - done})
        counts = [count for count in self._prefixes.counts(iterref) if count > done]
        point = Point.cat([sample.point for sample in samples])
        refined = self._sampler.refiner.refine(
            point.latents,
            iterref.step_index,
            batch.conditioning.select(rows),
            setting.model_copy(update={"iterref": rest, "gsng": None}),
            snapshots=[count - done for count in counts],
        )
        trace = refined.traces[0].trace
        _note_failures(samples, refined.traces)
        for count in counts:
            snapshot = replace(point, latents=refined.snapshots[count - done]).to("cpu")
            for row, sample in enumerate(samples):
                # A failure must be met, and told, by every setting that runs into it.
                if sample.failure is None:
                    self._prefixes.keep_snapshot(
                        sample,
                        snapshot.select([row]),
                        setting,
                        count,
                        alone=sample.alone + iterref_cost(trace, row, rest, count - done),
                        settled=trace.iterations[row] < count - done,
                    )
        after = point.after_iterref(refined.latents)
        for row, sample in enumerate(samples):
            cost = iterref_cost(trace, row, rest, rest.iterations)
            sample.alone += cost
            sample.spent += cost
            sample.point = after.select([row])


@dataclass(eq=False)
class _Batch:
    """Samples, the conditioning of each in the same order, and whether they are of the held-out part."""

    samples: list[Sample]
    conditioning: Conditioning
    held_out: bool


def _note_failures(samples: Sequence[Sample], traces: Sequence[StepTrace]) -> None:
    for step in traces:
        for sample, failure in zip(samples, step.trace.failures, strict=True):
            if failure is not None and sample.failure is None:
                sample.failure = f"{step.kind} at step {step.step_index}: {failure}"
