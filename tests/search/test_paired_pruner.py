"""The paired pruner on plain Optuna studies in memory."""

from collections.abc import Mapping

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.paired_pruner import BASELINE, PairedPruner

PROMPTS = [[2 * prompt, 2 * prompt + 1] for prompt in range(40)]  # two seeds each
ALL = range(80)


def study_of(pruner: PairedPruner, complete: list[Mapping[int, float]]) -> optuna.Study:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for values in complete:
        mean = float(np.mean(list(values.values())))
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=mean, intermediate_values=dict(values)))
    return study


def pruner(baseline: Mapping[int, float], **settings: float) -> PairedPruner:
    return PairedPruner(PROMPTS, baseline, float(np.mean(list(baseline.values()))), **settings)


def first_stop(study: optuna.Study, values: Mapping[int, float]) -> int | None:
    """Instances seen when the pruner stops a trial that reports these values; None if it never does."""
    trial = study.ask()
    for number, value in values.items():
        trial.report(value, number)
        if trial.should_prune():
            return number + 1
    return None


def test_always_worse_is_stopped_when_the_capital_reaches_one_over_alpha():
    """d = -1 for every prompt: the bets and the capital by hand.

    Before prompt p the mean of the gains, shrunk by one 0, is p / (p + 1), their variance, shrunk by one 1/4, is
    below 0.25: the bets are 0, then at most 0.75, so that capital grows by at most 1.75 a prompt: not before
    prompt ln 20 / ln 1.75 + 1 = 6.4, that is the 7th, whose second seed is instance 14.
    """
    gains: list[float] = []
    capital = 1.0
    while capital < 20:
        count = len(gains)
        mean = sum(gains) / (count + 1)
        variance = (0.25 + sum((gain - mean) ** 2 for gain in gains)) / (count + 1)
        capital *= 1 + min(max(mean / (variance + mean**2), 0.0), 0.75)
        gains.append(1.0)
    assert len(gains) >= 7
    study = study_of(pruner(dict.fromkeys(ALL, 1.0)), [])
    assert first_stop(study, dict.fromkeys(ALL, 0.0)) == 2 * len(gains)


def test_not_before_so_many_prompts():
    study = study_of(pruner(dict.fromkeys(ALL, 1.0), min_prompts=20), [])
    assert first_stop(study, dict.fromkeys(ALL, 0.0)) == 40


def test_equal_and_better_are_never_stopped():
    outcomes = {number: float(number % 3 == 0) for number in ALL}
    study = study_of(pruner(outcomes), [])
    assert first_stop(study, outcomes) is None
    assert first_stop(study, dict.fromkeys(ALL, 1.0)) is None


def test_the_rival_is_the_best_that_saw_everything():
    none, half, most = ({number: float(number % 10 < share) for number in ALL} for share in (0, 5, 9))
    study = study_of(pruner(half), [none, most, dict(most)])
    verdict = study.pruner.verdict(study, create_trial(state=TrialState.RUNNING, intermediate_values=dict(none)))
    assert (verdict.rival, verdict.num_prompts, verdict.candidate, verdict.rival_mean) == (1, 40, 0.0, 0.9)
    assert str(verdict).startswith("worse than trial 1: 0.000 against 0.900 on 40 prompts, p = ")
    study = study_of(pruner(most), [none, half, dict(most)])
    verdict = study.pruner.verdict(study, create_trial(state=TrialState.RUNNING, intermediate_values=dict(half)))
    assert verdict.rival == BASELINE and "the baseline" in str(verdict)


def test_prompts_seen_in_part_and_after_a_gap_do_not_count():
    study = study_of(pruner(dict.fromkeys(ALL, 1.0)), [])
    seen = dict.fromkeys([0, 1, 2, 3, 4, 6, 7], 0.0)  # prompt 2 lacks a seed
    verdict = study.pruner.verdict(study, create_trial(state=TrialState.RUNNING, intermediate_values=seen))
    assert verdict.num_prompts == 2


def test_as_good_as_its_rival_is_rarely_stopped():
    """400 candidates and rivals of the same chances, prompt by prompt: at alpha 0.05, at most 5 % are stopped.

    Of 400 at 5 % fewer than 34 in 99.9 % of all cases (binomial).
    """
    rng = np.random.default_rng(0)
    stopped = 0
    study = optuna.create_study(direction="maximize")
    for _ in range(400):
        chances = np.repeat(rng.uniform(size=40), 2)
        rival, candidate = (dict(enumerate(map(float, rng.random(80) < chances))) for _ in range(2))
        judge = pruner(rival, min_prompts=8)
        for last in range(16, 80, 8):  # looked at after every block of 4 prompts
            seen = {number: value for number, value in candidate.items() if number < last}
            if judge.prune(study, create_trial(state=TrialState.RUNNING, intermediate_values=seen)):
                stopped += 1
                break
    assert stopped < 34


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_an_impossible_level_is_refused(alpha: float):
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        pruner(dict.fromkeys(ALL, 1.0), alpha=alpha)


def test_a_baseline_with_gaps_is_refused():
    with pytest.raises(ValueError, match="lacks 1 instances, the first is number 79"):
        PairedPruner(PROMPTS, dict.fromkeys(range(79), 1.0), 1.0)
