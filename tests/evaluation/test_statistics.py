"""Intervals, paired tests and Holm against values by hand, brute force, and clustered simulations."""

import itertools

import numpy as np
import pytest

from keystep.evaluation.statistics import compare, compare_all, holm, interval, prompt_means, sign_flip_p, smallest_p


def clustered(rng, mean, num_prompts, num_seeds, correlation):
    """Beta-binomial outcomes: each prompt has its own chance, so that its seeds resemble one another."""
    concentration = 1 / correlation - 1
    chance = rng.beta(mean * concentration, (1 - mean) * concentration, size=(num_prompts, 1))
    return (rng.random((num_prompts, num_seeds)) < chance).astype(float)


def coverage(mean, num_prompts, num_seeds, num_sets, num_resamples):
    rng = np.random.default_rng(0)
    covered = 0
    for number in range(num_sets):
        estimate = interval(clustered(rng, mean, num_prompts, num_seeds, 0.4), num_resamples=num_resamples, seed=number)
        covered += estimate.low <= mean <= estimate.high
    return covered / num_sets


def test_prompts_weigh_the_same_however_many_seeds_they_have():
    outcomes = [[1.0, 1.0, 1.0, 1.0], [0.0, np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(prompt_means(outcomes), [1.0, 0.0])
    estimate = interval(outcomes)
    assert (estimate.mean, estimate.num_prompts, estimate.num_images) == (0.5, 2, 5)


def test_seeds_do_not_narrow_the_interval_as_prompts_do():
    rng = np.random.default_rng(0)
    outcomes = clustered(rng, 0.4, 60, 4, 0.5)
    repeated, more = interval(np.repeat(outcomes, 16, axis=1)), interval(clustered(rng, 0.4, 960, 4, 0.5))
    once = interval(outcomes)
    assert (repeated.low, repeated.high) == (once.low, once.high)
    assert more.high - more.low < 0.4 * (once.high - once.low)  # 1/4 expected: 16 times the prompts


def test_the_interval_is_near_the_one_from_the_normal_approximation():
    means = np.linspace(0, 1, 200)[:, None]
    estimate = interval(means)
    half = 1.96 * means.std(ddof=1) / np.sqrt(200)
    assert estimate.low == pytest.approx(0.5 - half, abs=0.004)
    assert estimate.high == pytest.approx(0.5 + half, abs=0.004)


def test_equal_prompts_leave_open_what_they_cannot_rule_out():
    none, all_, half = (interval(np.full((30, 4), value)) for value in (0.0, 1.0, 0.5))
    share = 1 - 0.05 ** (1 / 30)  # (1 - share)^30 = 0.05: the largest share that 30 prompts may all have missed
    assert (none.low, none.high) == pytest.approx((0.0, share))
    assert (all_.low, all_.high) == pytest.approx((1 - share, 1.0))
    assert (half.low, half.high) == pytest.approx((0.5 - share / 2, 0.5 + share / 2))


def test_the_same_seed_gives_the_same_interval():
    outcomes = clustered(np.random.default_rng(1), 0.3, 40, 4, 0.3)
    assert interval(outcomes, seed=4) == interval(outcomes, seed=4)
    assert interval(outcomes, seed=4) != interval(outcomes, seed=5)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_sign_flips_against_all_of_them(alternative):
    differences = np.array([0.5, -0.25, 1.0, 0.0, 0.75, -0.5, 0.25, 0.5, 0.0])
    sums = np.array([signs @ differences for signs in itertools.product([1, -1], repeat=9)])
    greater, less = (sums >= differences.sum()).mean(), (sums <= differences.sum()).mean()
    expected = {"greater": greater, "less": less, "two-sided": 2 * min(greater, less)}[alternative]
    assert sign_flip_p(differences, alternative=alternative) == pytest.approx(expected)


@pytest.mark.parametrize(("alternative", "expected"), [("two-sided", 1.0), ("greater", 0.5), ("less", 1.0)])
def test_one_difference_has_two_signs(alternative, expected):
    assert sign_flip_p([0.0, 0.5, 0.0], alternative=alternative) == expected


def test_no_difference_at_all_is_no_evidence():
    outcomes = clustered(np.random.default_rng(1), 0.3, 20, 4, 0.3)
    comparison = compare(outcomes, outcomes)
    assert comparison.p_value == 1.0
    assert comparison.difference.mean == 0.0
    assert comparison.difference.low < 0.0 < comparison.difference.high


def test_pairs_are_the_instances_both_have():
    candidate = [[1.0, 1.0, np.nan], [1.0, 0.0, 1.0]]
    baseline = [[0.0, np.nan, 1.0], [0.0, 0.0, 1.0]]
    difference = compare(candidate, baseline).difference
    assert (difference.mean, difference.num_images) == (pytest.approx((1 + 1 / 3) / 2), 4)


def test_a_better_candidate_is_found_and_a_swap_turns_the_sign():
    rng = np.random.default_rng(2)
    baseline = clustered(rng, 0.3, 100, 4, 0.4)
    candidate = np.maximum(baseline, rng.random(baseline.shape) < 0.15)
    forward, backward = compare(candidate, baseline), compare(baseline, candidate)
    assert forward.difference.low > 0 and forward.p_value < 0.001
    assert backward.difference.mean == -forward.difference.mean
    assert compare(candidate, baseline, alternative="less").p_value > 0.99


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("num_prompts", [1, 2, 5, 12, 13, 14, 40])
def test_no_outcome_has_a_smaller_p(num_prompts: int):
    least = smallest_p(num_prompts)
    assert sign_flip_p(np.ones(num_prompts), alternative="greater") == pytest.approx(least)
    assert smallest_p(num_prompts, 2) == min(1.0, 2 * least)
    if num_prompts <= 5:  # every outcome of one seed a prompt, by counting flips
        for outcome in itertools.product((-1, 0, 1), repeat=num_prompts):
            flips = itertools.product((-1, 1), repeat=num_prompts)
            as_good = [np.dot(flip, outcome) >= sum(outcome) for flip in flips]
            assert np.mean(as_good) >= least


def test_comparing_several_adjusts_each():
    rng = np.random.default_rng(3)
    baseline = clustered(rng, 0.3, 50, 4, 0.4)
    others = {name: clustered(rng, mean, 50, 4, 0.4) for name, mean in (("a", 0.3), ("b", 0.6), ("c", 0.35))}
    compared = compare_all(others, baseline, num_resamples=999)
    expected = holm([compared[name].p_value for name in others])
    assert [compared[name].p_adjusted for name in others] == pytest.approx(list(expected))
    assert list(compared) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: interval([0.0, 1.0]), r"\(prompts, seeds\), none empty; got shape \(2,\)"),
        (lambda: interval([[0.0], [np.nan]]), "prompt number 1 has no outcome at all"),
        (lambda: interval([[0.0], [1.5]]), "between 0.0 and 1.0, got 1.5"),
        (lambda: interval([[0.0], [1.0]], confidence=95), "confidence must lie between 0 and 1, got 95"),
        (lambda: compare([[0.0]], [[0.0, 1.0]]), r"one shape, got \(1, 1\) and \(1, 2\)"),
        (lambda: compare([[2.0]], [[2.0]]), "between 0.0 and 1.0, got 2.0"),
        (lambda: holm([0.5, 1.5]), "between 0 and 1"),
    ],
)
def test_faults_are_named(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_coverage_in_short():
    assert 0.88 <= coverage(0.3, 30, 4, num_sets=200, num_resamples=399) <= 0.99


def test_sign_flip_rejects_no_more_than_it_says_in_short():
    rng = np.random.default_rng(0)
    p_values = [sign_flip_p(rng.choice([-1, 1], 12) * rng.random(12), num_resamples=199, seed=k) for k in range(400)]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.09


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("num_prompts", "num_seeds", "expected"),
    [(20, 4, (0.992, 0.941, 0.961)), (50, 4, (0.924, 0.949, 0.961)), (300, 16, (0.951, 0.950, 0.941))],
)
def test_coverage_is_as_stated(num_prompts, num_seeds, expected):
    rng = np.random.default_rng(0)
    for mean, stated in zip((0.05, 0.2, 0.5), expected, strict=True):
        covered = coverage(mean, num_prompts, num_seeds, num_sets=1000, num_resamples=999)
        naive = []
        for _ in range(1000):
            outcomes = clustered(rng, mean, num_prompts, num_seeds, 0.4)
            half = 1.96 * np.sqrt(outcomes.mean() * (1 - outcomes.mean()) / outcomes.size)
            naive.append(abs(outcomes.mean() - mean) <= half)
        print(f"{num_prompts} of {num_seeds}, mean {mean}: {covered:.3f}, image-wise {np.mean(naive):.3f}")
        assert covered == pytest.approx(stated, abs=0.012)
        assert np.mean(naive) < 0.85
