"""The numbers of held-out images beside TIAM: means over prompts, and what the settings change of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keystep.evaluation.metric_names import METRICS
from keystep.evaluation.statistics import Estimate, compare, interval
from keystep.search.spec.instances import Part

UNREFINED = "unrefined"


@dataclass(frozen=True)
class MetricFound:
    """One metric on the held-out part, means over prompts with 95 % intervals over them; higher is better.

    Attributes:
        settings: of `unrefined`, `winner` and, where there is one, `runner-up`.
        gains: of all but the unrefined: the paired difference to it.
    """

    settings: dict[str, Estimate]
    gains: dict[str, Estimate]


@dataclass(frozen=True)
class MetricsFound:
    """Every metric that was asked for, by its name in `keystep.evaluation.image_metrics.METRICS`.

    Attributes:
        models: `clip` and `aesthetics` to the name and fingerprint of the model.
    """

    models: dict[str, dict[str, str]]
    metrics: dict[str, MetricFound]


def metric_found(part: Part, metric: str, by_setting: Mapping[str, Mapping[int, float]]) -> MetricFound:
    """The estimates of a metric, from its values by setting (`unrefined` first) and instance number of the part."""
    matrices = {name: part.outcome_matrix(values) for name, values in by_setting.items()}
    low, high = METRICS[metric].bounds
    taken = np.stack(list(matrices.values()))
    bounds = min(low, float(taken.min())), max(high, float(taken.max()))
    before = matrices[UNREFINED]
    return MetricFound(
        settings={name: interval(matrix, bounds=bounds) for name, matrix in matrices.items()},
        gains={
            name: compare(matrix, before, bounds=bounds).difference
            for name, matrix in matrices.items()
            if name != UNREFINED
        },
    )
