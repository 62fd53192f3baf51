"""The pruner made for outcomes of 0 and 1 that are paired by prompt and seed: bets against the best so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from evaluation.betting import anytime_p

BASELINE = -1


@dataclass(frozen=True)
class Verdict:
    """What the paired pruner found.

    Attributes:
        p: the chance at most of what was seen if the candidate were not worse than its rival.
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
    """Stops a trial that is worse than the best fully evaluated setting, at an anytime-valid level.

    A trial's intermediate value at step n is its outcome on instance n. For each prompt in the common order,
    d is the mean over its seeds of candidate minus rival, and `evaluation.betting` bets that d is negative: a
    candidate that is not worse than its rival on the prompts' population is stopped with probability at most
    alpha, however often one looks. The rival is the best by objective among the baseline and the study's
    COMPLETE trials, the earliest of equals. It must not change during a trial for that to hold; `search.history`
    sees to it. The rival being the best of several on these very prompts, its own outcomes are a little flattered,
    which the level does not account for; selection on held-out prompts does.

    Args:
        prompts: (P) instance numbers of each prompt, in the common order.
        baseline: instance number to outcome of the unrefined model, all instances.
        baseline_objective: its objective, comparable to a COMPLETE trial's value.
        alpha: level of the test.
        min_prompts: prompts seen before the first decision.

    Raises:
        ValueError: alpha is not between 0 and 1, or the baseline lacks instances.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        baseline: Mapping[int, float],
        baseline_objective: float,
        alpha: float = 0.05,
        min_prompts: int = 1,
    ):
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        missing = [number for numbers in prompts for number in numbers if number not in baseline]
        if missing:
            raise ValueError(f"the baseline lacks {len(missing)} instances, the first is number {missing[0]}")
        self._prompts = [tuple(numbers) for numbers in prompts]
        self._baseline, self._objective = dict(baseline), baseline_objective
        self.alpha, self.min_prompts = alpha, min_prompts

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        verdict = self.verdict(study, trial)
        return verdict.num_prompts >= self.min_prompts and verdict.p <= self.alpha

    def verdict(self, study: Study, trial: FrozenTrial) -> Verdict:
        """The test of the trial against its rival on the prompts that the trial has seen whole, up to a gap."""
        rival, outcomes = self._rival(study)
        own = trial.intermediate_values
        seen = []
        for numbers in self._prompts:
            if not all(number in own and number in outcomes for number in numbers):
                break
            seen.append(numbers)
        candidate = _means(own, seen)
        against = _means(outcomes, seen)
        return Verdict(
            p=anytime_p(candidate - against),
            rival=rival,
            num_prompts=len(seen),
            candidate=float(candidate.mean()) if seen else 0.0,
            rival_mean=float(against.mean()) if seen else 0.0,
        )

    def _rival(self, study: Study) -> tuple[int, Mapping[int, float]]:
        rival, best, outcomes = BASELINE, self._objective, self._baseline
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.value is not None and trial.value > best:
                rival, best, outcomes = trial.number, trial.value, trial.intermediate_values
        return rival, outcomes


def _means(values: Mapping[int, float], prompts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    return np.array([sum(values[number] for number in numbers) / len(numbers) for numbers in prompts])
