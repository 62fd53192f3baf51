"""How sure a score is: prompts are the sampling unit, seeds are nested in them and never independent.

Outcomes are (P, S) arrays, row p = prompt, column s = seed, NaN = not measured; scores in `bounds`, [0, 1]
for TIAM. A score is the mean over prompts of each prompt's mean over its seeds. Everything is deterministic
by `seed`. Tests that may be looked at again and again while outcomes arrive are in `keystep.evaluation.betting`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its interval [low, high] at `confidence`."""

    mean: float
    low: float
    high: float
    confidence: float
    num_prompts: int
    num_images: int


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline, on the instances both have.

    `difference`: mean of candidate minus baseline with its interval. `p_value`: of the sign-flip test.
    `p_adjusted`: after Holm over all comparisons made together; equal to `p_value` for one alone.
    """

    difference: Estimate
    p_value: float
    p_adjusted: float


def prompt_means(outcomes: ArrayLike) -> NDArray[np.float64]:
    """(P,) mean over the seeds of each prompt, NaN left out. ValueError if a prompt has no outcome."""
    values = np.asarray(outcomes, dtype=float)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"outcomes must be (prompts, seeds), none empty; got shape {values.shape}")
    empty = np.flatnonzero(np.isnan(values).all(axis=1))
    if empty.size:
        raise ValueError(f"prompt number {empty[0]} has no outcome at all; leave such prompts out")
    return np.nanmean(values, axis=1)


def interval(
    outcomes: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 9999,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """The mean and its cluster-bootstrap interval: whole prompts are resampled, with all their seeds (BCa).

    Prompts that all score v say nothing about the spread: then at most a share q = 1 - (1 - confidence)^(1/P)
    of all prompts differs from v, at this confidence, and the interval is what that leaves open within
    `bounds` (0 of 30 prompts: [0, 0.095]).

    Measured with clustered outcomes (beta-binomial, correlation 0.4 within prompts), 1000 sets each with 999
    resamples, nominal 95 %, at means 0.05, 0.2, 0.5: 20 prompts of 4 seeds 99.2, 94.1, 96.1 %; 50 of 4: 92.4,
    94.9, 96.1 %; 300 of 16: 95.1, 95.0, 94.1 %. An interval that takes images for independent covers 73 to
    81 % with 4 seeds and 52 to 56 % with 16. (tests/evaluation/test_statistics.py, `-m slow`.)

    ValueError for outcomes outside `bounds`, a prompt without any, or a confidence not between 0 and 1.
    """
    means = _within(prompt_means(outcomes), bounds)
    low, high = _interval(means, confidence, num_resamples, seed, bounds)
    num_images = int(np.count_nonzero(~np.isnan(np.asarray(outcomes, dtype=float))))
    return Estimate(float(means.mean()), low, high, confidence, len(means), num_images)


def compare(
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
    num_resamples: int = 9999,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Comparison:
    """Candidate minus baseline, paired: row p, column s of both are the same prompt and seed.

    Instances that either lacks are left out. The interval resamples prompts, as `interval` does; p is the
    sign-flip permutation test of the prompts' differences: exact for few prompts, else (b + 1) /
    (num_resamples + 1); right if candidate and baseline are exchangeable within prompts under the null.
    `alternative`: "greater" asks whether the candidate is better. ValueError as for `interval`, or other
    shapes.
    """
    ours, theirs = np.asarray(candidate, dtype=float), np.asarray(baseline, dtype=float)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired outcomes must have one shape, got {ours.shape} and {theirs.shape}")
    for values in (ours, theirs):
        _within(values[~np.isnan(values)], bounds)
    differences = ours - theirs
    spread = bounds[1] - bounds[0]
    estimate = interval(
        differences, confidence=confidence, num_resamples=num_resamples, seed=seed, bounds=(-spread, spread)
    )
    p_value = sign_flip_p(prompt_means(differences), alternative=alternative, num_resamples=num_resamples, seed=seed)
    return Comparison(estimate, p_value, p_value)


def compare_all(candidates: Mapping[str, ArrayLike], baseline: ArrayLike, **options) -> dict[str, Comparison]:
    """Every candidate against one baseline, p-values adjusted by Holm; `options` as in `compare`."""
    alone = {name: compare(outcomes, baseline, **options) for name, outcomes in candidates.items()}
    adjusted = holm([comparison.p_value for comparison in alone.values()])
    return {
        name: replace(comparison, p_adjusted=float(p))
        for (name, comparison), p in zip(alone.items(), adjusted, strict=True)
    }


def sign_flip_p(
    differences: ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    num_resamples: int = 9999,
    seed: int = 0,
) -> float:
    """p of the test that the (P,) differences are symmetric about 0, by sign flips. 1.0 if all are 0."""
    values = np.asarray(differences, dtype=float)
    moved = values[values != 0]  # flipping a zero changes nothing: same test, exact for more sets
    if moved.size == 0:
        return 1.0
    if moved.size == 1:
        moved = np.append(moved, 0.0)  # scipy wants two; the same test
    result = stats.permutation_test(
        (moved,),
        np.sum,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=num_resamples,
        batch=max(1, 2_000_000 // moved.size),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def smallest_p(num_prompts: int, num_comparisons: int = 1, *, num_resamples: int = 9999) -> float:
    """The least p that `compare_all` can give in one direction, whatever the outcomes.

    All P prompts move the same way then, which one of the 2^P flips of their signs does as well; Holm multiplies the
    least p by the number of comparisons.
    """
    flips = 2**num_prompts
    least = 1 / flips if flips <= num_resamples else 1 / (num_resamples + 1)
    return min(1.0, num_comparisons * least)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """p-values adjusted for their number (Holm 1979): reject those below alpha.

    adjusted_(k) = max over j <= k of min(1, (m - j + 1) p_(j)), in ascending order of p. ValueError outside
    [0, 1].
    """
    values = np.asarray(p_values, dtype=float)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must lie between 0 and 1, got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def _interval(
    means: NDArray[np.float64], confidence: float, num_resamples: int, seed: int, bounds: tuple[float, float]
) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if np.ptp(means) < 1e-12:
        differing = 1 - (1 - confidence) ** (1 / len(means))
        common, (lowest, highest) = means[0], bounds
        return (
            float(common - differing * (common - lowest)),
            float(common + differing * (highest - common)),
        )
    result = stats.bootstrap(
        (means,),
        np.mean,
        confidence_level=confidence,
        n_resamples=num_resamples,
        batch=max(1, 2_000_000 // len(means)),
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _within(values: NDArray[np.float64], bounds: tuple[float, float]) -> NDArray[np.float64]:
    outside = values[(values < bounds[0] - 1e-9) | (values > bounds[1] + 1e-9)]
    if outside.size:
        raise ValueError(f"outcomes must lie between {bounds[0]} and {bounds[1]}, got {outside[0]}")
    return values
