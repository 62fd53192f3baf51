"""How fast a spec's model is, and how much memory it needs: one real step, measured where the search would run."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystep.core.config import IterRef, Refinement
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.runtime.ray_watch import watched
from keystep.search.spec.instances import Instance, make_parts
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.work.pool import WorkerPool

if TYPE_CHECKING:
    from keystep.search.images.evaluator import Evaluator

ITERATIONS = 2  # of refinement in the measured batch: the most memory is needed there


@dataclass(frozen=True)
class Measured:
    """What one batch took.

    Attributes:
        device: on which.
        batch_size: images in the batch.
        evaluation: seconds of one denoiser evaluation of one image, in the batch.
        image: seconds of decoding and judging one image.
        loading: seconds until the worker was there with its models.
        peak_bytes: most memory that was in use: of the GPU, or on a CPU of the whole process.
    """

    device: str
    batch_size: int
    evaluation: float
    image: float
    loading: float
    peak_bytes: int


@watched()
def measure(spec: SearchSpec) -> Measured:
    """Measure on one worker of the Ray runtime (`keystep.search.runtime.ray_runtime.start_ray`), as big as the spec's
    workers are.

    Nothing is stored but what the evaluator makes when it starts.

    Raises:
        ValueError: the model, the detector or the storage cannot be used; no worker fits.
    """
    spec = spec.anchored()
    start_ray()
    instances = make_parts(spec)[0].instances[: spec.resources.batch_size]
    with WorkerPool(spec, 1) as pool:
        began = time.perf_counter()
        pool.ask(loaded)
        loading = time.perf_counter() - began
        device, evaluation, image, peak = pool.ask(one_batch, instances)
    return Measured(device, len(instances), evaluation, image, loading, peak)


def loaded(evaluator: "Evaluator") -> None:
    """Nothing: what answers has its models."""


def one_batch(evaluator: "Evaluator", instances: Sequence[Instance]) -> tuple[str, float, float, int]:
    """Device, seconds of an evaluation and of judging an image, bytes: of sampling a batch, and of refining it once.

    The seconds are those of a second run, the first one warms up.
    """
    import torch

    from keystep.search.images.costs import prediction_cost

    sampler, device = evaluator.sampler, evaluator.sampler.device
    prompts = [instance.prompt for instance in instances]
    conditioning = sampler.backbone.encode(prompts, max_sequence_length=sampler.config.max_sequence_length)
    start = sampler.start([instance.seed for instance in instances]).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    refined = Refinement(iterref=IterRef(step_index=0, iterations=ITERATIONS))
    sampler.advance(start, conditioning, until=1, refinement=refined)
    seconds, judging = [], []
    for _ in range(2):
        began = _now(device)
        end = sampler.advance(start, conditioning).point
        seconds.append(_now(device) - began)
        began = _now(device)
        evaluator.detector.detections(sampler.backbone.decode(end.latents))
        judging.append(_now(device) - began)
    evaluations = sampler.num_steps * prediction_cost(sampler.config.guidance_scale) * len(instances)
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _peak_resident()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return name, seconds[-1] / evaluations, judging[-1] / len(instances), peak


def _now(device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
