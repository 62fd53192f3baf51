"""How a search reads in MLflow: names, parameters and metrics of its runs, as plain values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keystep.core.config import GSNg, IterRef, Refinement
from keystep.evaluation.statistics import Estimate, interval
from keystep.search.storing.secrets import masked

if TYPE_CHECKING:
    from keystep.search.choice.metric_estimates import MetricsFound
    from keystep.search.spec.instances import Part
    from keystep.search.spec.search_spec import SearchSpec

# Enough for a curve that is looked at while it grows; a search's conclusions use more.
NUM_RESAMPLES = 999


def experiment_name(spec: "SearchSpec") -> str:
    """`shapes-sd on shapes_two, shapes_three`: one experiment for a model and its prompt sets."""
    if spec.tracking.experiment:
        return masked(spec.tracking.experiment)
    return f"{short_name(spec.model.id)} on {', '.join(short_name(name) for name in spec.prompts.sets)}"


def short_name(name: str) -> str:
    """An id without its owner, a path without its folder and ending."""
    path = Path(masked(name))
    return path.stem if path.suffix in (".csv", ".jsonl", ".yaml", ".yml") else path.name


def gsng_text(gsng: GSNg | None, num_steps: int) -> str:
    """`off`, or the steps guided such as `0-24`, with the step size if it is not the usual one."""
    if gsng is None:
        return "off"
    steps = gsng.step_range(num_steps)
    text = f"{steps.start}-{steps.stop - 1}"
    return text if gsng.step_size == GSNg.model_fields["step_size"].default else f"{text} x{gsng.step_size:g}"


def readable_params(refinement: Refinement, timesteps: Sequence[float]) -> dict[str, str]:
    """A setting as a run's parameters. What is not at its usual value is added, the rest left out."""
    iterref = refinement.iterref
    params = {"step_index": "none", "timestep": "none"}
    if iterref is not None:
        params = {
            "step_index": str(iterref.step_index),
            "timestep": f"{timesteps[iterref.step_index]:g}",
            "iterations": str(iterref.iterations),
            "step_size": f"{iterref.step_size:g}",
        }
        for name in ("optimizer", "threshold", "schedule"):
            value = getattr(iterref, name)
            if value != IterRef.model_fields[name].default:
                params[name] = str(value)
    params["cn"] = f"{refinement.weights.cn:g}"
    params["iou"] = f"{refinement.weights.iou:g}"
    params["gsng"] = gsng_text(refinement.gsng, len(timesteps))
    return params


def trial_name(slot: int, refinement: Refinement, timesteps: Sequence[float]) -> str:
    """`007 t821 x50 gsng`: sorts by number, and says what was tried."""
    iterref = refinement.iterref
    parts = [f"{slot:03}"]
    if iterref is not None:
        parts += [f"t{timesteps[iterref.step_index]:g}", f"x{iterref.iterations}"]
    if refinement.gsng is not None:
        parts.append("gsng")
    return " ".join(parts)


def estimates(part: "Part", values: Mapping[int, float], num_resamples: int = NUM_RESAMPLES) -> dict[str, Estimate]:
    """TIAM with its interval for every prompt set by name, and over all of them as `""`.

    Over all sets it is the mean of the sets' means where all have equally many prompts, as blocks have.

    Args:
        part: that `values` belong to.
        values: outcome (0 or 1) by instance number, at least one; instances that are missing count for nothing.
        num_resamples: of the bootstrap that intervals come from.
    """
    matrices = {name: matrix for name, matrix in part.set_matrices(values).items() if len(matrix)}
    matrices = {"": np.concatenate(list(matrices.values())), **matrices}
    return {name: interval(matrix, num_resamples=num_resamples) for name, matrix in matrices.items()}


def tiam_metrics(found: Mapping[str, Estimate]) -> dict[str, float]:
    """`tiam`, `tiam_low`, `tiam_high`, and the same of every set as `sets/<set>`, a section of charts of its own."""
    metrics = {}
    for name, estimate in found.items():
        key = f"sets/{metric_name(name)}" if name else "tiam"
        metrics |= {key: estimate.mean, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    return metrics


def metric_values(found: "MetricsFound") -> dict[str, float]:
    """`held_out_clip_full_baseline`, `held_out_clip_full` (the winner) and so on, each with `_low` and `_high`."""
    ends = {"unrefined": "_baseline", "winner": "", "runner-up": "_runner_up"}
    values = {}
    for name, metric in found.metrics.items():
        shown = {ends[setting]: estimate for setting, estimate in metric.settings.items()}
        shown |= {"_gain": metric.gains["winner"]}
        for end, estimate in shown.items():
            key = f"held_out_{name}{end}"
            values |= {key: estimate.mean, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    return values


def metric_name(set_name: str) -> str:
    """A set's name without what MLflow refuses in a metric's."""
    plain = short_name(set_name.removesuffix("/validation").removesuffix("/held_out"))
    return "".join(c if c.isalnum() or c in "_-. " else "-" for c in plain)
