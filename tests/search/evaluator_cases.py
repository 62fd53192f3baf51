"""A small search on the embedded model, and counting what it runs, for the tests of evaluators and workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from keystep.core.config import GSNg, IterRef, Refinement
from keystep.search.images.outcomes import Outcome
from keystep.search.spec.instances import Instance, Part, make_parts
from keystep.search.spec.search_spec import SearchSpec

STEPS = 6
GUIDANCE = 1.5


def small_spec(folder: Path | str, **changes: Any) -> SearchSpec:
    """shapes-sd with 6 steps, 2 prompts of 2 sets and 2 seeds; `changes` by section."""
    plain: dict[str, Any] = {
        "name": "small",
        "model": {"id": "keystep/shapes-sd"},
        "sampler": {
            "scheduler": "DDPMScheduler",
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "height": 64,
            "width": 64,
        },
        "prompts": {
            "sets": ["shapes_two", "shapes_three_colored"],
            "validation": 2,
            "held_out": 2,
            "seeds": [0, 7],
            "held_out_seeds": [1],
        },
        "detector": {"id": "keystep/shapes-segmenter"},
        "space": {"steps": [1, 2, 3], "gsng": ["off", "on"], "iterations": [1, 2, 4], "step_size": [100.0]},
        "search": {"block_prompts": 1},
        "resources": {"batch_size": 3},
        "storage": {"path": str(folder), "latents_gb": 1.0},
    }
    for section, values in changes.items():
        plain[section] = {**plain.get(section, {}), **values} if isinstance(values, dict) else values
    return SearchSpec.from_plain(plain, "small")


def validation(spec: SearchSpec) -> Part:
    return make_parts(spec)[0]


def refined(step_index: int, iterations: int, gsng: GSNg | None = None, **settings: Any) -> Refinement:
    """A setting of the small space, unless `settings` of IterRef say otherwise."""
    iterref = IterRef(step_index=step_index, iterations=iterations, **{"step_size": 100.0} | settings)
    return Refinement(iterref=iterref, gsng=gsng)


@contextmanager
def counted_evaluations(denoiser: torch.nn.Module) -> Iterator[list[int]]:
    """Rows that go through the denoiser, twice those whose gradient is taken: a list of one number."""
    total = [0]

    def count(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        total[0] += len(args[0]) * (2 if torch.is_grad_enabled() and args[0].requires_grad else 1)

    handle = denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield total
    finally:
        handle.remove()


def latents_of(evaluator: Any, setting: Refinement | None, instances: Sequence[Instance]) -> torch.Tensor:
    """Finished latents of instances, through whatever is stored, as one batch."""
    tasks = [(instance.prompt, instance.seed) for instance in instances]
    samples = evaluator._finished(setting, tasks, all(instance.held_out for instance in instances))
    return torch.cat([sample.point.latents for sample in samples])


def plain_latents(evaluator: Any, setting: Refinement | None, instance: Instance) -> torch.Tensor:
    """The same of one instance in one go: from noise, alone, nothing stored."""
    sampler = evaluator.sampler
    conditioning = sampler.backbone.encode([instance.prompt])
    return sampler.advance(sampler.start([instance.seed]), conditioning, refinement=setting).point.latents


class Moody:
    """An evaluator of milliseconds: what it does with an instance is told by its seed."""

    def __init__(self, spec: SearchSpec):
        self.computed: frozenset[int] = frozenset()
        self._failed = False

    def evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> dict[int, Outcome]:
        match instances[0].seed:
            case 1:
                raise ValueError("prompts.sets: no such thing")
            case 2:
                raise RuntimeError("the device is gone")
            case 3 if not self._failed:
                self._failed = True
                raise RuntimeError("a hiccup")
        self.computed = frozenset(instance.number for instance in instances)
        return {number: Outcome(1.0, (True,), (True,), 2.0, 5.0, 0.0) for number in self.computed}
