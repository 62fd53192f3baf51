"""What `keystep score` writes: a set's scores with their intervals, per prompt, per image number and per entity."""

from dataclasses import asdict
from typing import Any

import numpy as np

from keystep.evaluation.image_metrics import ImageMetrics
from keystep.evaluation.image_source import Problems
from keystep.evaluation.metric_names import METRICS
from keystep.evaluation.scoring import SetScore
from keystep.evaluation.statistics import Estimate, interval
from keystep.evaluation.tiam import TiamSettings

SCHEMA_VERSION = 1


def estimates(score: SetScore, confidence: int = 0, *, seed: int = 0) -> dict[str, Estimate]:
    """TIAM (and, for a set with colours, TIAM without looking at them) with 95 % intervals over prompts.

    Prompts without any image are left out. ValueError if none has one.
    """
    kept = score.measured.any(axis=1)
    if not kept.any():
        raise ValueError("no image could be scored")
    results = {"tiam": interval(score.tiam(confidence)[kept], seed=seed)}
    if score.colored():
        results["tiam_without_colors"] = interval(score.all_found(confidence)[kept], seed=seed)
    return results


def metric_estimates(score: SetScore, *, seed: int = 0) -> dict[str, Estimate]:
    """Every metric that was measured, with 95 % intervals over prompts; prompts without any image are left out."""
    kept = score.measured.any(axis=1)
    results = {}
    for name, values in score.metrics.items():
        low, high = METRICS[name].bounds
        bounds = min(low, np.nanmin(values)), max(high, np.nanmax(values))
        results[name] = interval(values[kept], seed=seed, bounds=bounds)
    return results


def entity_rates(score: SetScore, confidence: int = 0) -> list[dict[str, float]]:
    """Share of images in which the first, second, ... entity is found, and found with its colour.

    Each of the prompts that have so many entities weighs the same.
    """
    rates = []
    kept = score.measured.any(axis=1)
    for place in range(score.found.shape[-1]):
        long_enough = kept & np.array([len(prompt.entities) > place for prompt in score.prompts])
        if not long_enough.any():
            continue
        measured = score.measured[long_enough]
        shares = {
            name: np.nanmean(np.where(measured, values[long_enough, :, confidence, place], np.nan), axis=1).mean()
            for name, values in (("found", score.found), ("bound", score.bound))
        }
        rates.append({name: float(share) for name, share in shares.items()})
    return rates


def report(
    score: SetScore,
    settings: TiamSettings,
    detector: dict[str, str],
    problems: Problems,
    metrics: ImageMetrics | None = None,
) -> dict[str, Any]:
    """The whole of `scores.json`: plain numbers, texts and lists. `metrics` is what measured `score.metrics`."""
    first = score.confidences[0]
    seeds = {}
    tiam = score.tiam()
    for column, seed in enumerate(score.seeds):
        if score.measured[:, column].any():
            seeds[str(seed)] = float(np.nanmean(tiam[:, column]))
    return {
        "schema_version": SCHEMA_VERSION,
        "prompts": {"name": score.prompts.name, "hash": score.prompts.hash, "count": len(score.prompts)},
        "detector": detector,
        "metric_models": metrics.models if metrics else {},
        "settings": asdict(settings),
        "images_scored": int(score.measured.sum()),
        "problems": problems.lists(),
        "confidence": first,
        **{name: asdict(estimate) for name, estimate in estimates(score).items()},
        "metrics": {name: asdict(estimate) for name, estimate in metric_estimates(score).items()},
        "by_confidence": [
            {"confidence": confidence, **{name: asdict(e) for name, e in estimates(score, index).items()}}
            for index, confidence in enumerate(score.confidences)
        ],
        "by_entity": entity_rates(score),
        "by_seed": seeds,
        "by_prompt": [_prompt_record(score, index) for index in range(len(score.prompts))],
    }


def _prompt_record(score: SetScore, index: int) -> dict[str, Any]:
    prompt = score.prompts.prompts[index]
    count = len(prompt.entities)
    tiam = score.tiam()[index]
    images = {
        str(seed): {
            "tiam": int(tiam[column]),
            "found": score.found[index, column, 0, :count].astype(int).tolist(),
            "bound": score.bound[index, column, 0, :count].astype(int).tolist(),
            **{name: float(values[index, column]) for name, values in score.metrics.items()},
        }
        for column, seed in enumerate(score.seeds)
        if score.measured[index, column]
    }
    mean = sum(image["tiam"] for image in images.values()) / len(images) if images else None
    return {
        "prompt": prompt.text,
        "entities": [str(entity) for entity in prompt.entities],
        "tiam": mean,
        "images": images,
    }
