"""Who wins, and what counts as shown: against cases worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from keystep.core.config import IterRef, Refinement
from keystep.search.choice.result import trial_row
from keystep.search.choice.selection import (
    Candidate,
    Measured,
    estimate,
    estimates_by_set,
    select,
    verdict,
    within_noise,
)
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.settings_text import setting_text
from tests.search.found_search import RUNNER_UP, WINNER, outcomes, part


def setting(step: int, iterations: int = 10) -> Refinement:
    return Refinement(iterref=IterRef(step_index=step, iterations=iterations))


@pytest.fixture(scope="module")
def sixteen():
    """16 prompts, one seed each, in one set."""
    return part("validation", 16, seeds=(0,), sets=("shapes_two",))


def of_prompts(of, *right: int) -> dict[int, float]:
    return outcomes(of, lambda prompt, _: prompt in right)


def test_the_cheapest_within_one_standard_error_of_the_best_wins(sixteen):
    best = Candidate(setting(3, 50), of_prompts(sixteen, *range(9)), 140.0)
    # One prompt fewer: difference 1/16, standard error sqrt(1/16 * 15/16 * 16/15) / 4 = 1/16: just within.
    near = Candidate(setting(3, 10), of_prompts(sixteen, *range(8)), 60.0)
    # Three fewer: 3/16 against sqrt(3/16 * 13/16 * 16/15) / 4 = 0.101: not within.
    far = Candidate(setting(3, 1), of_prompts(sixteen, *range(6)), 42.0)
    assert math.isclose(np.std([1] + [0] * 15, ddof=1) / 4, 1 / 16)
    choice = select(of_prompts(sixteen), [far, near, best], sixteen)
    assert choice.winner is near and choice.runner_up is best
    assert "cost no more (60 denoiser evaluations an image) than the cheapest of 2 settings within one" in choice.reason


def test_a_worse_setting_does_not_win_over_a_better_one_of_its_cost_by_being_noisier(sixteen):
    best = Candidate(setting(1, 10), of_prompts(sixteen, *range(9)), 44.0)
    # Right where the best is, but for two: 2/16 fewer against sqrt(2/16 * 14/16 * 16/15) / 4 = 0.085.
    alike = Candidate(setting(1, 5), of_prompts(sixteen, *range(7)), 34.0)
    # Right on other prompts: 3/16 fewer against sqrt((15 - 9/16) / 15) / 4 = 0.245.
    other = Candidate(setting(0, 5), of_prompts(sixteen, *range(10, 16)), 34.0)
    assert not within_noise(sixteen, alike.values, best.values)
    assert within_noise(sixteen, other.values, best.values)
    assert select(of_prompts(sixteen), [other, alike, best], sixteen).winner is alike


def test_the_difference_is_paired(sixteen):
    best = Candidate(setting(3, 50), of_prompts(sixteen, *range(9)), 140.0)
    # As good on the whole as `far` above, but right on other prompts: the noise of the difference is larger.
    other = Candidate(setting(9), of_prompts(sixteen, *range(10, 16)), 60.0)
    differences = np.array([1.0] * 9 + [0.0] + [-1.0] * 6)
    assert differences.mean() <= differences.std(ddof=1) / 4
    assert within_noise(sixteen, other.values, best.values)
    assert select(of_prompts(sixteen), [best, other], sixteen).winner is other


def test_at_one_cost_the_better_wins_and_then_the_first(sixteen):
    good = Candidate(setting(4), of_prompts(sixteen, *range(9)), 60.2)
    same = Candidate(setting(5), of_prompts(sixteen, *range(9)), 60.0)
    less = Candidate(setting(6), of_prompts(sixteen, *range(8)), 59.8)  # cheaper by less than one evaluation
    assert select(of_prompts(sixteen), [less, good, same], sixteen).winner is good
    choice = select(of_prompts(sixteen), [same, good, less], sixteen)
    assert choice.winner is same and choice.runner_up is good
    assert choice.reason.startswith("best of 3 fully evaluated settings: step 5, 10 iterations: TIAM 0.562, +0.562")


def test_only_the_fully_evaluated_compete(sixteen):
    partial = Candidate(setting(1), {number: 1.0 for number in range(15)}, 60.0)
    whole = Candidate(setting(2), of_prompts(sixteen, 0), 60.0)
    choice = select(of_prompts(sixteen), [partial, whole], sixteen)
    assert choice.winner is whole and choice.runner_up is None
    nothing = select(of_prompts(sixteen), [partial], sixteen)
    assert nothing.winner is None and "none of the 1 settings" in nothing.reason
    with pytest.raises(ValueError, match="the baseline has 15 of the 16 outcomes"):
        select({number: 1.0 for number in range(15)}, [whole], sixteen)


def test_a_verdict_has_intervals_paired_p_and_holm():
    held_out = part("held_out", 12, seeds=(7, 8))
    unrefined = outcomes(held_out, lambda prompt, _: prompt % 4 == 0)
    refined = outcomes(held_out, lambda prompt, _: prompt % 4 != 3)
    slightly = outcomes(held_out, lambda prompt, _: prompt % 4 == 0 or prompt == 1)
    found = verdict(
        held_out,
        Measured(None, unrefined, 0.5, 40.0),
        Measured(WINNER, refined, 0.75, 60.0),
        Measured(RUNNER_UP, slightly, 1.0, 100.0),
    )
    assert found.significant and found.winner.significant
    assert found.runner_up is not None and not found.runner_up.significant
    winner, second = found.winner.comparison, found.runner_up.comparison
    assert winner is not None and second is not None
    # 12 of the 24 prompts gain 1, none loses: one sign pattern in 2^12 is as extreme. Of one prompt: 1 in 2.
    assert winner.p_value == pytest.approx(2**-12) and winner.p_adjusted == pytest.approx(2 * 2**-12)
    assert second.p_value == second.p_adjusted == 0.5
    assert winner.difference.mean == 0.5 and winner.difference.low > 0.2
    assert found.baseline.tiam.mean == 0.25 and found.winner.tiam.mean == 0.75
    low, high = stats.binomtest(18, 24).proportion_ci(method="exact")
    assert low - 0.05 < found.winner.tiam.low < 0.75 < found.winner.tiam.high < high + 0.05
    assert list(found.winner.by_set) == ["shapes_two", "shapes_three"]
    assert np.mean([each.mean for each in found.winner.by_set.values()]) == pytest.approx(0.75)
    assert "better than the unrefined model on 24 held-out prompts: TIAM 0.250 -> 0.750" in found.summary


def test_no_gain_is_not_significant():
    held_out = part("held_out", 12, seeds=(7, 8))
    same = outcomes(held_out, lambda prompt, _: prompt % 2 == 0)
    found = verdict(held_out, Measured(None, same, 0.5, 40.0), Measured(WINNER, same, 0.7, 60.0))
    assert not found.significant and found.runner_up is None
    assert "not shown to be better" in found.summary
    with pytest.raises(ValueError, match="the winner lacks outcomes of the held_out part"):
        verdict(held_out, Measured(None, same, 0.5, 40.0), Measured(WINNER, {0: 1.0}, 0.7, 60.0))


def test_estimates_of_what_was_seen_so_far():
    validation = part("validation", 12)
    values = outcomes(validation, lambda _, instance: instance.set_name == "shapes_two")
    seen = {number: value for number, value in values.items() if number < len(validation.blocks[0])}
    assert estimate(validation, seen, num_resamples=99).num_images == len(validation.blocks[0])
    assert estimate(validation, seen, num_resamples=99).mean == 0.5
    assert {name: each.mean for name, each in estimates_by_set(validation, seen, num_resamples=99).items()} == {
        "shapes_two": 1.0,
        "shapes_three": 0.0,
    }


def test_settings_in_words():
    assert setting_text(None) == "unrefined"
    assert setting_text(WINNER, [0.0, 1.0, 2.0, 801.0]) == "step 3 (t 801), 10 iterations"
    assert setting_text(RUNNER_UP) == "step 5, 20 iterations, GSNg"
    loud = WINNER.model_validate(WINNER.model_dump() | {"weights": {"cn": 1.0, "iou": 0.25}})
    assert setting_text(loud) == "step 3, 10 iterations, iou 0.25"


def test_a_trial_becomes_a_row_with_its_cost():
    validation = part("validation", 12)
    seen = {number: float(number % 2) for number in range(len(validation.blocks[0]))}
    record = TrialRecord(
        slot=4,
        refinement=WINNER,
        params={"step": 3},
        state="pruned",
        values=seen,
        reason="worse, p = 0.01",
        evaluations=100.0,
        evaluations_alone=60.0 * len(seen),
        seconds=2.5,
    )
    row = trial_row(validation, record)
    assert (row.slot, row.state, row.reason, row.params, row.seconds) == (4, "pruned", record.reason, {"step": 3}, 2.5)
    assert row.tiam is not None and row.tiam.mean == 0.5 and row.by_set == {"shapes_two": 0.5, "shapes_three": 0.5}
    assert row.candidate == Candidate(WINNER, seen, 60.0)
    with pytest.raises(ValueError, match="a complete setting has 16 of 48 outcomes"):
        trial_row(validation, replace(record, state="complete"))
