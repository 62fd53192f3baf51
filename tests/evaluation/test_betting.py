"""The betting test: its capital by hand, its false stops and its power by simulation with clustered seeds."""

import math

import numpy as np
import pytest

from keystep.evaluation.betting import MAX_BET, anytime_p, differences, is_decided, log_capital


def slow_capital(gains):
    """The definition, one prompt at a time."""
    capital, seen, path = 1.0, [], []
    for gain in gains:
        n = len(seen) + 1
        mean = sum(seen) / n
        variance = (0.25 + sum((x - mean) ** 2 for x in seen)) / n
        bet = min(max(mean / (variance + mean**2), 0.0), MAX_BET)
        capital *= 1 + bet * gain
        seen.append(gain)
        path.append(capital)
    return path


def mean_outcomes(rng, chance, num_seeds=4):
    return (rng.random((*chance.shape, num_seeds)) < chance[..., None]).mean(axis=-1)


def null(kind, rng, shape):
    """Prompt-level differences with mean 0."""
    chance = rng.beta(0.5, 1, shape)
    if kind == "alike":
        return mean_outcomes(rng, chance) - mean_outcomes(rng, chance)
    if kind == "random effect":
        return mean_outcomes(rng, chance) - mean_outcomes(rng, rng.beta(0.5, 1, shape))
    rare = np.where(rng.random(shape) < 0.05, 1.0, -0.05 / 0.95)
    return rare if kind == "skewed up" else -rare


def test_capital_is_the_definition():
    rng = np.random.default_rng(0)
    values = rng.choice([-1, -0.5, 0, 0, 0.25, 0.5], size=(3, 40))
    for direction, sign in (("worse", -1), ("better", 1)):
        expected = [np.log(slow_capital(sign * row)) for row in values]
        np.testing.assert_allclose(log_capital(values, direction), expected, atol=1e-12)
    both = [np.log((np.array(slow_capital(row)) + np.array(slow_capital(-row))) / 2) for row in values]
    np.testing.assert_allclose(log_capital(values, "different"), both, atol=1e-12)


def test_the_first_prompt_and_a_lead_are_not_bet_on():
    assert log_capital([-1.0], "worse")[0] == 0.0
    assert log_capital([1.0, 1.0, 1.0, -1.0], "worse") == pytest.approx([0.0] * 4)
    # After one loss of 1: mean 1/2, variance (1/4 + 1/4) / 2, so the bet 0.5 / (0.25 + 0.25) = 1 is cut.
    assert math.exp(log_capital([-1.0, -1.0], "worse")[1]) == pytest.approx(1 + MAX_BET)


def test_later_prompts_do_not_change_earlier_capital():
    values = np.random.default_rng(1).uniform(-1, 1, 30)
    np.testing.assert_allclose(log_capital(values)[:10], log_capital(values[:10]), atol=1e-12)


def test_decisions_hold_once_made():
    values = np.concatenate([np.full(20, -0.5), np.full(60, 0.5)])
    assert is_decided(values[:20]) and is_decided(values)
    assert not is_decided(values[:20], "better")
    assert is_decided(-values[:20], "better") and is_decided(values[:20], "different")
    assert anytime_p([]) == 1.0 and anytime_p([0.0] * 50) == 1.0


def test_differences_pair_seeds_within_prompts():
    candidate = [[1.0, 0.0], [1.0, np.nan]]
    incumbent = [[0.0, 0.0], [0.0, 1.0]]
    np.testing.assert_array_equal(differences(candidate, incumbent), [0.5, 1.0])


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: log_capital([0.0, 1.5]), "between -1 and 1, without gaps"),
        (lambda: log_capital([np.nan]), "between -1 and 1, without gaps"),
        (lambda: log_capital([0.0], "up"), "direction is 'worse', 'better' or 'different', got 'up'"),
        (lambda: is_decided([0.0], alpha=5), "alpha must lie between 0 and 1, got 5"),
        (lambda: differences([[0.0]], [[0.0], [1.0]]), "one shape"),
    ],
)
def test_faults_are_named(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


KINDS = ["alike", "random effect", "skewed up", "skewed down"]


@pytest.mark.parametrize("kind", KINDS)
def test_false_stops_in_short(kind):
    values = null(kind, np.random.default_rng(0), (500, 150))
    for direction in ("worse", "better", "different"):
        assert (log_capital(values, direction).max(axis=1) >= math.log(20)).mean() <= 0.06


def test_worse_candidates_are_stopped_in_short():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, (200, 100))
    values = mean_outcomes(rng, 0.6 * chance) - mean_outcomes(rng, chance)  # worse by 0.2
    assert (log_capital(values).max(axis=1) >= math.log(20)).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stated"), list(zip(KINDS, [0.017, 0.023, 0.036, 0.005], strict=True)))
def test_false_stops_are_as_stated(kind, stated):
    values = null(kind, np.random.default_rng(1), (10_000, 300))
    stopped = (log_capital(values, "worse").max(axis=1) >= math.log(20)).mean()
    number = np.arange(1, 301)
    means = np.cumsum(values, axis=1) / number
    variances = np.maximum(np.cumsum(values**2, axis=1) / number - means**2, 1e-12)
    peeking = (means / np.sqrt(variances / number) < -1.645)[:, 10:].any(axis=1).mean()
    print(f"{kind}: {stopped:.4f}, a t-test looked at after every prompt from the 11th: {peeking:.3f}")
    assert stopped == pytest.approx(stated, abs=0.004)
    assert peeking > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("drop", "stated"), [(0.1, 62), (0.2, 28), (0.3, 19)])
def test_power_is_as_stated(drop, stated):
    rng = np.random.default_rng(2)
    chance = rng.beta(0.5, 0.5, (2000, 300))
    values = mean_outcomes(rng, chance * (1 - drop / 0.5)) - mean_outcomes(rng, chance)
    reached = log_capital(values) >= math.log(20)
    when = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, 301)
    print(f"worse by {drop}: stopped after {np.median(when)} prompts, {reached.any(axis=1).mean():.4f} of them")
    assert np.median(when) == pytest.approx(stated, abs=2)
