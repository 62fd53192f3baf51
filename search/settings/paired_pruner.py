"""The pruner made for outcomes of 0 and 1, paired by prompt and seed: will this trial end below the best so far?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from keystep.evaluation.shortfall import shortfall_capital

BASELINE = -1
TIE = 1e-12


@dataclass(frozen=True)
class Verdict:
    """What the paired pruner found.

    Attributes:
        p: the chance, at most, of what was seen if the candidate were to end no lower than its rival.
        rival: number of the rival's trial; `BASELINE` for the unrefined model.
        num_prompts: prompts that both have seen.
        candidate, rival_mean: mean outcome of each on those prompts.
    """

    p: float
    rival: int
    num_prompts: int
    candidate: float
    rival_mean: float

    def __str__(self) -> str:
        rival = "the baseline" if self.rival == BASELINE else f"trial {self.rival}"
        return (
            f"worse than {rival}: {self.candidate:.3f} against {self.rival_mean:.3f} on {self.num_prompts} prompts, "
            f"p = {self.p:.2g}"
        )


class PairedPruner(BasePruner):
    """Stops a trial that will end below the best fully evaluated setting, at an anytime-valid level.

    A trial's intermediate value at step n is its outcome on instance n. The rival is the best by objective among the
    baseline and the study's COMPLETE trials, the earliest of equals; what it and the baseline do on every prompt is
    known. The trial's prompts come in rounds of one of each prompt set, each set in random order. Two gamblers, each
    with half of the capital, bet that the candidate's mean over all prompts will be lower than the rival's
    (:func:`keystep.evaluation.shortfall.shortfall_capital`): one on the differences to the rival, one on those to the
    baseline, of which it must reach the rival's gain. The first sees soon that two refinements differ, the second that
    one does next to nothing. A trial that would end no lower than its rival is stopped with probability at most alpha,
    however often one looks; that the rival is the best of several on these very prompts does not matter, since it is
    the rival's objective on these prompts that must be reached.

    The rival must not change during a trial; `keystep.search.settings.history` sees to it. That it came through pruning
    itself, on the prompts' first rounds, ties it to their order a little, which the level does not account for.

    Args:
        rounds: N rounds of S prompts, each its instance numbers, in the common order.
        baseline: instance number to outcome of the unrefined model, all instances.
        alpha: level of the test.
        min_prompts: prompts seen before the first decision.

    Raises:
        ValueError: alpha is not between 0 and 1, the baseline lacks instances, or rounds of different sizes.
    """

    def __init__(
        self,
        rounds: Sequence[Sequence[Sequence[int]]],
        baseline: Mapping[int, float],
        alpha: float = 0.05,
        min_prompts: int = 1,
    ):
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        if len({len(prompts) for prompts in rounds}) > 1:
            raise ValueError(
                "the paired pruner needs prompt sets of one size, so that every round has one prompt of each"
            )
        missing = [number for prompts in rounds for numbers in prompts for number in numbers if number not in baseline]
        if missing:
            raise ValueError(f"the baseline lacks {len(missing)} instances, the first is number {missing[0]}")
        self._rounds = [[tuple(numbers) for numbers in prompts] for prompts in rounds]
        self._baseline = _means(baseline, self._rounds)
        self.alpha, self.min_prompts = alpha, min_prompts

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        verdict = self.verdict(study, trial)
        return verdict.num_prompts >= self.min_prompts and verdict.p <= self.alpha

    def verdict(self, study: Study, trial: FrozenTrial) -> Verdict:
        """The test of the trial against its rival on the rounds that the trial has seen whole, up to a gap."""
        rival, outcomes = self._rival(study)
        own = trial.intermediate_values
        seen = []
        for prompts in self._rounds:
            if not all(number in own for numbers in prompts for number in numbers):
                break
            seen.append(prompts)
        candidate = _means(own, seen) if seen else np.empty((0, self._baseline.shape[1]))
        controls = [outcomes] if rival == BASELINE else [outcomes, self._baseline]
        log_capital = _shared(
            [
                shortfall_capital(candidate - control[: len(seen)], outcomes.mean() - control.mean(), len(self._rounds))
                for control in controls
            ]
        )
        return Verdict(
            p=exp(-max(0.0, log_capital.max(initial=0.0))),
            rival=rival,
            num_prompts=candidate.size,
            candidate=float(candidate.mean()) if seen else 0.0,
            rival_mean=float(outcomes[: len(seen)].mean()) if seen else 0.0,
        )

    def _rival(self, study: Study) -> tuple[int, NDArray[np.float64]]:
        least = self._baseline.mean() + TIE
        complete = [
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.value is not None and trial.value > least
        ]
        if not complete:
            return BASELINE, self._baseline
        rival = max(complete, key=lambda trial: (trial.value, -trial.number))
        return rival.number, _means(rival.intermediate_values, self._rounds)


def _means(values: Mapping[int, float], rounds: Sequence[Sequence[Sequence[int]]]) -> NDArray[np.float64]:
    """(N, S) mean outcome of every prompt over its seeds."""
    means = [[sum(values[number] for number in numbers) / len(numbers) for numbers in prompts] for prompts in rounds]
    return np.array(means)


def _shared(log_capitals: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Log of the mean capital of gamblers."""
    return np.logaddexp.reduce(log_capitals) - log(len(log_capitals))
