"""Which setting wins: chosen on the validation instances, confirmed on held-out prompts.

The best of many settings is flattered by chance, so the choice and its proof never share a prompt. All statistics
take prompts as the unit, the seeds nested in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keystep.core.config import Refinement
from keystep.evaluation.statistics import Comparison, Estimate, compare_all, interval, prompt_means
from keystep.search.settings.settings_text import setting_text
from keystep.search.spec.instances import Part

Values = Mapping[int, float]
"""Instance number -> TIAM of its image, 0 or 1."""

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A setting that may win.

    Args:
        refinement: the setting.
        values: outcomes of the validation part; only a candidate that has all of them competes.
        cost: denoiser evaluations an image, made alone from noise; lower is cheaper.
    """

    refinement: Refinement
    values: Values
    cost: float


@dataclass(frozen=True)
class Choice:
    """The settings to confirm on held-out prompts.

    Attributes:
        winner: None if no setting was fully evaluated.
        runner_up: the best of the others; None if there is no other.
        reason: why, in a sentence.
    """

    winner: Candidate | None
    runner_up: Candidate | None
    reason: str


def select(baseline: Values, candidates: Sequence[Candidate], part: Part) -> Choice:
    """The best of the settings as cheap as the cheapest that cannot be told from the best, and the best of the others.

    The one-standard-error rule (Breiman et al., *Classification and Regression Trees*, 1984, section 3.4.3), on
    paired differences: with d_p the mean over the seeds of prompt p of best minus candidate, a candidate is within
    noise of the best if mean(d) <= std(d) / sqrt(P). The fewest denoiser evaluations an image among those (compared in
    whole evaluations: samples that stop early make it a fraction) are what it takes; of all settings that cost no more,
    the one with the highest objective wins, then by their order in `candidates`. It need not be within noise of the
    best itself: a setting whose outcomes go with the best one's is told from it sooner than a worse one whose do not.

    Args:
        baseline: the unrefined outcomes of every instance; a competitor to beat on held-out prompts, never the winner.
        candidates: in a fixed order, such as the trials by slot.
        part: the validation part.

    Raises:
        ValueError: the baseline lacks an instance.
    """
    if not covers(part, baseline):
        raise ValueError(
            f"the baseline has {len(baseline)} of the {len(part.instances)} outcomes of the {part.name} part: "
            "run it on all of them before a setting is chosen"
        )
    whole = [candidate for candidate in candidates if covers(part, candidate.values)]
    if not whole:
        return Choice(
            None, None, f"none of the {len(candidates)} settings was evaluated on every instance of validation"
        )
    order = {id(candidate): place for place, candidate in enumerate(whole)}
    gains = {id(candidate): part.objective(candidate.values) for candidate in whole}

    def by_objective(candidate: Candidate) -> tuple[float, int, int]:
        return (-round(gains[id(candidate)], 12), round(candidate.cost), order[id(candidate)])

    def by_cost(candidate: Candidate) -> tuple[int, float, int]:
        return (round(candidate.cost), -round(gains[id(candidate)], 12), order[id(candidate)])

    best = min(whole, key=by_objective)
    alike = [candidate for candidate in whole if within_noise(part, candidate.values, best.values)]
    cheapest = min(alike, key=by_cost)
    winner = min((each for each in whole if round(each.cost) <= round(cheapest.cost)), key=by_objective)
    others = [candidate for candidate in whole if candidate is not winner]
    gain = gains[id(winner)] - part.objective(baseline)
    described = f"{setting_text(winner.refinement)}: TIAM {gains[id(winner)]:.3f}, {gain:+.3f} against the baseline"
    if winner is best:
        reason = f"best of {len(whole)} fully evaluated settings: {described}"
    else:
        reason = (
            f"best of those that cost no more ({winner.cost:.0f} denoiser evaluations an image) than the cheapest of "
            f"{len(alike)} settings within one standard error of the best ({gains[id(best)]:.3f} at {best.cost:.0f}): "
            f"{described}"
        )
    return Choice(winner, min(others, key=by_objective, default=None), reason)


def within_noise(part: Part, candidate: Values, best: Values) -> bool:
    """Whether the paired difference to the best is at most its standard error over prompts."""
    differences = prompt_means(part.outcome_matrix(best)) - prompt_means(part.outcome_matrix(candidate))
    error = float(differences.std(ddof=1)) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean()) <= error + TOLERANCE


@dataclass(frozen=True)
class Measured:
    """What was measured of one setting on a part.

    Args:
        refinement: None is the unrefined model.
        values: outcomes of every instance.
        seconds_per_image: wall time of an image, seconds, above 0.
        evaluations_per_image: denoiser evaluations of an image made alone from noise.
    """

    refinement: Refinement | None
    values: Values
    seconds_per_image: float
    evaluations_per_image: float


@dataclass(frozen=True)
class Confirmed:
    """A setting on held-out prompts.

    Attributes:
        measured: what was measured.
        tiam: mean over the prompt sets with its 95 % interval over prompts.
        by_set: the same for each prompt set alone.
        comparison: against the baseline, paired; p of no gain, one-sided, adjusted by Holm over the settings
            confirmed. None for the baseline itself.
        significant: the interval of the gain lies above 0 and the adjusted p is at most alpha.
    """

    measured: Measured
    tiam: Estimate
    by_set: dict[str, Estimate]
    comparison: Comparison | None
    significant: bool


@dataclass(frozen=True)
class HeldOut:
    """The verdict on held-out prompts, which no choice has seen."""

    baseline: Confirmed
    winner: Confirmed
    runner_up: Confirmed | None
    alpha: float

    @property
    def significant(self) -> bool:
        """Whether the winner is better than the unrefined model, beyond chance."""
        return self.winner.significant

    @property
    def settings(self) -> dict[str, Confirmed]:
        """By what tables call them: unrefined, winner and, where there is one, runner-up."""
        there = {"unrefined": self.baseline, "winner": self.winner, "runner-up": self.runner_up}
        return {name: confirmed for name, confirmed in there.items() if confirmed is not None}

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        comparison = self.winner.comparison
        assert comparison is not None
        gain = comparison.difference
        verdict = "better than" if self.significant else "not shown to be better than"
        return (
            f"The winner is {verdict} the unrefined model on {gain.num_prompts} held-out prompts: "
            f"TIAM {self.baseline.tiam.mean:.3f} -> {self.winner.tiam.mean:.3f}, difference {gain.mean:+.3f} "
            f"[{gain.low:+.3f}, {gain.high:+.3f}], p = {comparison.p_adjusted:.2g}"
        )


def verdict(
    part: Part, baseline: Measured, winner: Measured, runner_up: Measured | None = None, *, alpha: float = 0.05
) -> HeldOut:
    """Confirm the winner, and its runner-up, against the baseline.

    Args:
        part: the held-out part.
        baseline, winner, runner_up: measured on every instance of it.
        alpha: level of the test, in (0, 1).

    Raises:
        ValueError: an instance is missing, the part's sets differ in size, or alpha is outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    settings = {"winner": winner} | ({"runner-up": runner_up} if runner_up is not None else {})
    for name, measured in {"baseline": baseline, **settings}.items():
        if not covers(part, measured.values):
            raise ValueError(f"the {name} lacks outcomes of the {part.name} part: evaluate all of its instances")
    matrices = {name: part.outcome_matrix(measured.values) for name, measured in settings.items()}
    compared = compare_all(matrices, part.outcome_matrix(baseline.values), alternative="greater")

    def confirm(measured: Measured, comparison: Comparison | None) -> Confirmed:
        significant = comparison is not None and comparison.difference.low > 0 and comparison.p_adjusted <= alpha
        return Confirmed(
            measured, estimate(part, measured.values), estimates_by_set(part, measured.values), comparison, significant
        )

    return HeldOut(
        baseline=confirm(baseline, None),
        winner=confirm(winner, compared["winner"]),
        runner_up=None if runner_up is None else confirm(runner_up, compared["runner-up"]),
        alpha=alpha,
    )


def covers(part: Part, values: Values) -> bool:
    """Whether every instance of the part has an outcome."""
    return all(instance.number in values for instance in part.instances)


def estimate(part: Part, values: Values, **options: Any) -> Estimate:
    """TIAM accumulated over the sets with its interval; prompts without any outcome are left out.

    Args:
        options: as `keystep.evaluation.statistics.interval` takes them.

    Raises:
        ValueError: no outcome, or sets of different sizes: their plain mean would not be the mean over sets.
    """
    sizes = {len(prompts) for prompts in part.sets}
    if len(sizes) > 1:
        raise ValueError(
            f"the sets of the {part.name} part have {', '.join(str(len(prompts)) for prompts in part.sets)} prompts; "
            "give each the same number, so that each weighs the same"
        )
    return interval(_measured_rows(part.outcome_matrix(values)), **options)


def estimates_by_set(part: Part, values: Values, **options: Any) -> dict[str, Estimate]:
    """TIAM of each prompt set with its interval, in the order of the part's sets; sets without outcomes left out."""
    return {name: interval(matrix, **options) for name, matrix in part.set_matrices(values).items() if len(matrix)}


def _measured_rows(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrix[~np.isnan(matrix).all(axis=1)]
