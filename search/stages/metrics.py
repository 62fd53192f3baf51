"""What is measured of held-out images beside TIAM: how alike they and their prompts are, and how good they look."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from keystep.core.config import Refinement
from keystep.evaluation.aesthetics import AestheticHead
from keystep.evaluation.clip import load_clip
from keystep.evaluation.image_metrics import ImageMetrics
from keystep.search.choice.metric_estimates import MetricsFound, metric_found
from keystep.search.spec.instances import Instance, Part
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.places import kept_here
from keystep.search.work.pool import WorkerPool

if TYPE_CHECKING:
    from keystep.search.images.evaluator import Evaluator


def measure_settings(
    pool: WorkerPool,
    spec: SearchSpec,
    part: Part,
    settings: Mapping[str, Refinement | None],
    on_block: Callable[[], None] = lambda: None,
) -> MetricsFound:
    """Make the images of the part anew with every setting, and measure them.

    Args:
        spec: with `metrics.clip`.
        settings: by name, `unrefined` first.
        on_block: called after each block of each setting.

    Raises:
        ValueError: a model that cannot be used; with its key.
    """
    tasks = [(spec, setting, block) for setting in settings.values() for block in part.blocks]
    answers = iter(pool.map(measure, tasks, lambda _: on_block()))
    values: dict[str, dict[str, dict[int, float]]] = {}
    for name in settings:
        for _ in part.blocks:
            for metric, found in next(answers).items():
                values.setdefault(metric, {}).setdefault(name, {}).update(found)
    metrics = {metric: metric_found(part, metric, by_setting) for metric, by_setting in values.items()}
    return MetricsFound(pool.ask(metric_models, spec), metrics)


def measure(
    evaluator: "Evaluator", spec: SearchSpec, refinement: Refinement | None, instances: Sequence[Instance]
) -> dict[str, dict[int, float]]:
    """Metric to instance number to value, on a worker; a batch of images at a time is in memory."""
    metrics, size = _metrics_of(spec), spec.resources.batch_size
    values: dict[str, dict[int, float]] = {name: {} for name in metrics.names}
    for first in range(0, len(instances), size):
        batch = instances[first : first + size]
        found = metrics.measure(evaluator.images(refinement, batch), [instance.prompt for instance in batch])
        for name, column in found.items():
            values[name] |= {each.number: float(value) for each, value in zip(batch, column, strict=True)}
    return values


def metric_models(evaluator: "Evaluator", spec: SearchSpec) -> dict[str, dict[str, str]]:
    """What the models that measure are called; loads them, so that a mistake shows before anything is made."""
    return _metrics_of(spec).models


def _metrics_of(spec: SearchSpec) -> ImageMetrics:
    assert spec.metrics.clip is not None
    folder = str(kept_here(spec.storage.path) / "metrics")
    return _loaded(spec.metrics.clip, spec.metrics.aesthetics, spec.model.device, folder)


@lru_cache(maxsize=1)
def _loaded(clip: str, aesthetics: str | None, device: str | None, folder: str) -> ImageMetrics:
    try:
        scorer = load_clip(clip, device=device)
    except ValueError as error:
        raise ValueError(f"metrics.clip: {error}") from error
    try:
        return ImageMetrics(scorer, folder, aesthetics=None if aesthetics is None else AestheticHead(aesthetics))
    except ValueError as error:
        raise ValueError(f"metrics.aesthetics: {error}") from error
