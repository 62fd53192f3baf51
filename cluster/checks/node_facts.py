"""What a node finds out about itself: run there by Ray, for `keystep.cluster.checks.preflight`."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from keystep.search.spec.search_spec import SearchSpec

HERE = "here"  # the file of whoever asks


@dataclass(frozen=True)
class NodeFacts:
    """A node as it sees itself.

    Attributes:
        versions: of Python and packages.
        free_bytes: of the disk where latents would be kept.
        storage: empty if the storage shows what was written elsewhere and takes what is written here; else why not.
    """

    versions: dict[str, str]
    free_bytes: int
    storage: str


@dataclass(frozen=True)
class WorkFacts:
    """What a worker of a spec found on a node.

    Attributes:
        device: what it runs on.
        peak_bytes: most memory in use, of the GPU or of its process.
        memory_bytes: of the GPU; 0 on a CPU.
        seconds: until its models were loaded.
        trouble: why it cannot work; empty if it can.
    """

    device: str = ""
    peak_bytes: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    trouble: str = field(default="")


def look_around(spec: SearchSpec, folder: str, name: str) -> NodeFacts:
    """Versions, disk, and the storage: reads `folder/here`, and writes `folder/name` if that was there."""
    from keystep.search.images.models import latents_folder
    from keystep.search.tracking.search_facts import versions

    place = latents_folder(spec.storage)
    return NodeFacts(versions(), shutil.disk_usage(_existing(place)).free, _storage(spec, folder, name))


def clock() -> float:
    """Seconds since the epoch."""
    return time.time()


def try_work(spec: SearchSpec) -> WorkFacts:
    """Loads model and detector, asks them about all prompts, and refines, samples and judges one batch."""
    import torch

    from keystep.cluster.estimating.measured import one_batch
    from keystep.search.checks.preflight import inspect
    from keystep.search.images.evaluator import Evaluator
    from keystep.search.spec.instances import make_parts
    from keystep.search.work.evaluators import evaluator_for

    began = time.perf_counter()
    try:
        evaluator = evaluator_for(spec)
        assert isinstance(evaluator, Evaluator)
        seconds = time.perf_counter() - began
        parts = make_parts(spec)
        inspect(evaluator, parts, spec.resources.batch_size)
        device, _, _, peak = one_batch(evaluator, parts[0].instances[: spec.resources.batch_size])
    except torch.OutOfMemoryError as error:
        return WorkFacts(trouble=f"out of memory with {spec.resources.batch_size} images at a time: {error}")
    except (ValueError, OSError) as error:
        return WorkFacts(trouble=str(error))
    on_gpu = evaluator.sampler.device.type == "cuda"
    total = torch.cuda.get_device_properties(evaluator.sampler.device).total_memory if on_gpu else 0
    return WorkFacts(device, peak, total, seconds)


def _storage(spec: SearchSpec, folder: str, name: str) -> str:
    from keystep.search.storing.storage import Storage

    path = spec.storage.path
    try:
        if Storage(path, read_only=True).read(f"{folder}/{HERE}") != folder.encode():
            return "shows something else than what was written elsewhere"
    except OSError:
        return "does not show what was written elsewhere"
    try:
        Storage(path).write(f"{folder}/{name}", name.encode())
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
