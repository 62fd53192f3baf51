"""Are the embedded models fit for the purpose? They must fail as real ones do, localise, and repair at some step.

    python -m tests.benchmarks.shapes_fitness shapes-sd --prompts 64 --seeds 4
    python -m tests.benchmarks.shapes_fitness shapes-sd --part curve --prompts 64 --seeds 1 --steps 0,2,4,6,9

Prints TIAM of the unrefined model on each set, how much more an entity is attended to inside its object than outside,
and, for each refined step, accumulated TIAM (mean of the four sets) with the interval of the difference to the
unrefined model. Seeds and prompts are fixed, so a second run gives the same numbers.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.registry import backbone_for
from keystep.core.config import AttentionChoice, IterRef, LossWeights, Refinement, SamplerConfig
from keystep.core.generation import load_pipeline
from keystep.core.prompts import Prompt
from keystep.core.sampling import Sampler
from keystep.core.shapes.models import resolve_model
from keystep.evaluation.detectors import SHAPES_DETECTOR, load_detector
from keystep.evaluation.prompt_sets import standard_set, standard_template
from keystep.evaluation.statistics import compare, interval
from keystep.evaluation.tiam import TiamSettings, score_images

SETS = ("shapes_two", "shapes_two_colored", "shapes_three", "shapes_three_colored")
SAMPLERS = {
    "shapes-sd": SamplerConfig(
        scheduler="DDPMScheduler", num_inference_steps=12, guidance_scale=1.5, height=64, width=64
    ),
    "shapes-sd3": SamplerConfig(
        scheduler="FlowMatchEulerDiscreteScheduler",
        num_inference_steps=12,
        guidance_scale=3.0,
        height=64,
        width=64,
        max_sequence_length=24,
    ),
}
BATCH = 32
CONFIDENCES = TiamSettings(confidences=(0.25,))


class Bench:
    """One embedded model, its sampler and the judge."""

    def __init__(self, folder: str, attention: AttentionChoice, sampler: SamplerConfig) -> None:
        started = time.perf_counter()
        self.pipe = load_pipeline(folder)
        print(f"{folder} loaded in {time.perf_counter() - started:.1f} s")
        self.backbone: Backbone = backbone_for(self.pipe, attention)
        self.sampler = Sampler(self.backbone, sampler)
        self.detector = load_detector(SHAPES_DETECTOR)

    def outcomes(self, prompts: Sequence[Prompt], seeds: Sequence[int], refinement: Refinement | None) -> NDArray:
        """TIAM 0/1 of every instance, (prompts, seeds)."""
        instances = [(prompt, seed) for prompt in prompts for seed in seeds]
        scores: list[float] = []
        for start in range(0, len(instances), BATCH):
            batch = instances[start : start + BATCH]
            texts = [prompt for prompt, _ in batch]
            point = self.sampler.start([seed for _, seed in batch])
            done = self.sampler.advance(point, self.encode(texts), refinement=refinement)
            images = self.sampler.decode(done.point)
            scores += [float(score.tiam[0]) for score in score_images(images, texts, self.detector, CONFIDENCES)]
        return np.array(scores).reshape(len(prompts), len(seeds))

    def encode(self, prompts: Sequence[Prompt]):
        return self.backbone.encode(prompts, max_sequence_length=self.sampler.config.max_sequence_length)

    def localisation(self, prompts: Sequence[Prompt], seed: int = 0) -> Iterator[tuple[float, float]]:
        """Mean attention to an entity (inside, outside) its detected object, at the middle of the schedule."""
        middle = self.sampler.num_steps // 2
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            conditioning = self.encode(batch)
            halfway = self.sampler.advance(self.sampler.start([seed] * len(batch)), conditioning, until=middle).point
            images = self.sampler.decode(self.sampler.advance(halfway, conditioning).point)
            attention = self._raw_attention(halfway.latents, self.sampler.timesteps[middle], conditioning)
            side = int(attention.shape[1] ** 0.5)
            for row, found in enumerate(self.detector.detect(images)):
                for place, entity in enumerate(batch[row].entities):
                    masks = [item.mask for item in found if item.label == entity.noun]
                    if not masks:
                        continue
                    cells = np.any(masks, 0).reshape(side, 64 // side, side, 64 // side).mean((1, 3)).ravel()
                    paid = attention[row, :, place].numpy()
                    yield (paid * cells).sum() / cells.sum(), (paid * (1 - cells)).sum() / (1 - cells).sum()

    @torch.no_grad()
    def _raw_attention(self, latents, timestep, conditioning):
        """(B, queries, entities): attention to each entity's tokens before the method's softmax and smoothing."""
        from keystep.core.attention import AttentionCapture

        layers, grid = self.backbone.attention_layers(*latents.shape[-2:])
        columns = conditioning.columns
        with AttentionCapture(self.backbone.denoiser, layers, columns, self.backbone.token_places(*grid)) as capture:
            maps = capture.run(
                lambda: self.backbone.predict(latents, timestep, conditioning.prompt_embeds, conditioning.added)
            )
        weights = [conditioning.entity_weights[:, :, :, first:last].sum(1) for first, last in columns]
        return torch.einsum("bqs,bes->bqe", maps.float(), torch.cat(weights, -1).float()) / len(columns)


def show_rates(bench: Bench, num_prompts: int, num_seeds: int) -> dict[str, float]:
    rates = {}
    for name in ("shapes_one", *SETS):
        prompts = _prompts(name, num_prompts)
        seeds = range(num_seeds * num_prompts // len(prompts))  # there are but eight prompts of one shape
        started = time.perf_counter()
        outcomes = bench.outcomes(prompts, seeds, None)
        pace = outcomes.size / (time.perf_counter() - started)
        estimate = interval(outcomes)
        rates[name] = estimate.mean
        print(
            f"{name:22s} {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]  {pace:.1f} images/s", flush=True
        )
    pairs = np.array(list(bench.localisation(_prompts("shapes_two", num_prompts))))
    inside, outside = pairs.mean(0)
    print(f"attention inside over outside its object: {inside:.4f} / {outside:.4f} = {inside / outside:.1f}")
    return rates | {"localisation": inside / outside}


def _prompts(name: str, at_most: int) -> Sequence[Prompt]:
    return standard_set(name, min(at_most, len(standard_template(name))), seed=1).prompts


def show_curve(bench: Bench, refinements: dict[str, Refinement], num_prompts: int, num_seeds: int) -> dict[str, list]:
    """Accumulated TIAM: prompts of the four sets are the sampling units, every set weighs the same."""
    sets = {name: standard_set(name, num_prompts, seed=2).prompts for name in SETS}

    def run(refinement: Refinement | None) -> NDArray:
        return np.concatenate([bench.outcomes(prompts, range(num_seeds), refinement) for prompts in sets.values()])

    baseline = run(None)
    print(f"{'unrefined':24s} {baseline.mean():.3f}  {by_set(baseline, len(sets))}", flush=True)
    rows = {"unrefined": [float(baseline.mean())]}
    for label, refinement in refinements.items():
        started = time.perf_counter()
        outcomes = run(refinement)
        gain = compare(outcomes, baseline)
        row = [gain.difference.mean, gain.difference.low, gain.difference.high]
        rows[label] = [float(outcomes.mean()), *map(float, row)]
        seconds = (time.perf_counter() - started) / outcomes.size
        print(
            f"{label:24s} {outcomes.mean():.3f}  {by_set(outcomes, len(sets))}  "
            f"gain {row[0]:+.3f} [{row[1]:+.3f}, {row[2]:+.3f}]  {seconds:.2f} s/image",
            flush=True,
        )
    return rows


def by_set(outcomes: NDArray, count: int) -> str:
    return " ".join(f"{part.mean():.3f}" for part in np.split(outcomes, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=tuple(SAMPLERS))
    parser.add_argument("--weights", help="folder of the pipeline (default: the package's)")
    parser.add_argument("--part", choices=("rates", "curve"), default="rates")
    parser.add_argument("--prompts", type=int, default=64, help="a set")
    parser.add_argument("--seeds", type=int, default=4, help="a prompt")
    parser.add_argument("--steps", default="0,3,6,9,12,16", help="step indices of the curve")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--step-size", type=float, default=20.0)
    parser.add_argument("--cn", type=float, default=1.0)
    parser.add_argument("--iou", type=float, default=1.0)
    parser.add_argument("--grid", type=int, help="query grid of the attention, for the UNet")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sampler = SAMPLERS[options.model]
    changes = {"guidance_scale": options.guidance, "num_inference_steps": options.num_steps}
    sampler = sampler.model_copy(update={key: value for key, value in changes.items() if value is not None})
    attention = AttentionChoice(resolution=(options.grid, options.grid) if options.grid else None)
    bench = Bench(options.weights or resolve_model(f"keystep/{options.model}"), attention, sampler)
    if options.part == "rates":
        numbers = show_rates(bench, options.prompts, options.seeds)
    else:
        refinements = {
            f"step {step}": Refinement(
                weights=LossWeights(cn=options.cn, iou=options.iou),
                iterref=IterRef(step_index=step, iterations=options.iterations, step_size=options.step_size),
                attention=attention,
            )
            for step in map(int, options.steps.split(","))
        }
        numbers = show_curve(bench, refinements, options.prompts, options.seeds)
    if options.out:
        options.out.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
