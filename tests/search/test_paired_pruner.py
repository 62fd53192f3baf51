"""The paired pruner on plain Optuna studies in memory."""

from collections.abc import Mapping

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from keystep.search.settings.paired_pruner import BASELINE, PairedPruner

ROUNDS = [[[4 * place, 4 * place + 1], [4 * place + 2, 4 * place + 3]] for place in range(20)]  # 2 sets, 2 seeds
ALL = range(80)


def study_of(pruner: PairedPruner, complete: list[Mapping[int, float]]) -> optuna.Study:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for values in complete:
        mean = float(np.mean(list(values.values())))
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=mean, intermediate_values=dict(values)))
    return study


def pruner(baseline: Mapping[int, float], **settings: float) -> PairedPruner:
    return PairedPruner(ROUNDS, baseline, **settings)  # pyright: ignore[reportArgumentType]


def first_stop(study: optuna.Study, values: Mapping[int, float]) -> int | None:
    """Instances seen when the pruner stops a trial that reports these values; None if it never does."""
    trial = study.ask()
    for number, value in values.items():
        trial.report(value, number)
        if trial.should_prune():
            return number + 1
    return None


def test_always_worse_is_stopped_when_the_capital_reaches_one_over_alpha():
    """Half of the baseline's outcomes are 1, the candidate's none: the bets and the capital of every round by hand.

    d = -1 for one prompt of a round, 0 for the other: the rounds that are left would have to make up for it.
    """
    capital, rounds, seen = 1.0, 0, []
    while capital < 20:
        center = 0.5 * rounds / (20 - rounds)
        mean = sum(seen) / (len(seen) + 1)
        variance = (0.25 + sum(d**2 for d in seen)) / (len(seen) + 1) - mean**2 * len(seen) / (len(seen) + 1)
        bet = min((center - mean) / (variance + (center - mean) ** 2), 0.9 / (1 - center))
        capital *= (1 + bet * (center + 1)) * (1 + bet * center)
        seen += [-1.0, 0.0]
        rounds += 1
    assert 3 <= rounds <= 10
    baseline = {number: float(number % 4 < 2) for number in ALL}
    assert first_stop(study_of(pruner(baseline), []), dict.fromkeys(ALL, 0.0)) == 4 * rounds


def test_one_that_does_nothing_is_told_from_one_that_helps():
    """Worse than the rival by 0.2, but equal to the baseline on every prompt: certain long before differences are."""
    baseline = {number: float(number % 10 < 4) for number in ALL}
    rng = np.random.default_rng(0)
    better = dict(enumerate(map(float, rng.permutation([1.0] * 48 + [0.0] * 32))))
    stopped = first_stop(study_of(pruner(baseline), [better]), baseline)
    assert stopped is not None and stopped <= 32


def test_not_before_so_many_prompts():
    study = study_of(pruner(dict.fromkeys(ALL, 1.0), min_prompts=20), [])
    assert first_stop(study, dict.fromkeys(ALL, 0.0)) == 40
    study = study_of(pruner(dict.fromkeys(ALL, 1.0), min_prompts=2), [])
    assert first_stop(study, dict.fromkeys(ALL, 0.0)) < 40


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
    seen = dict.fromkeys([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11], 0.0)  # the second round lacks a seed of a prompt
    verdict = study.pruner.verdict(study, create_trial(state=TrialState.RUNNING, intermediate_values=seen))
    assert verdict.num_prompts == 2


def test_one_that_would_end_as_high_as_its_rival_is_rarely_stopped():
    """400 candidates that would reach the rival's objective exactly, in random order, looked at after every block.

    At alpha 0.05 fewer than 34 of 400 are stopped in 99.9 % of all cases (binomial).
    """
    rng = np.random.default_rng(0)
    stopped = 0
    study = optuna.create_study(direction="maximize")
    for _ in range(400):
        ones = np.repeat([1.0, 0.0], 40)
        rival, candidate = (dict(enumerate(map(float, rng.permutation(ones)))) for _ in range(2))
        judge = pruner(rival, min_prompts=8)
        for last in range(16, 80, 8):  # looked at after every block of 4 prompts
            seen = {number: value for number, value in candidate.items() if number < last}
            if judge.prune(study, create_trial(state=TrialState.RUNNING, intermediate_values=seen)):
                stopped += 1
                break
    assert stopped < 34


def test_sets_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="prompt sets of one size"):
        PairedPruner([[[0], [1]], [[2]]], {0: 0.0, 1: 0.0, 2: 0.0})


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_an_impossible_level_is_refused(alpha: float):
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        pruner(dict.fromkeys(ALL, 1.0), alpha=alpha)


def test_a_baseline_with_gaps_is_refused():
    with pytest.raises(ValueError, match="lacks 1 instances, the first is number 79"):
        PairedPruner(ROUNDS, dict.fromkeys(range(79), 1.0))
