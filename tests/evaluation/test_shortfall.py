"""The test without replacement: its capital by hand, its false stops by simulation, what it is refused."""

import itertools
import math

import numpy as np
import pytest

from keystep.evaluation.shortfall import MAX_BET, shortfall_capital

LOG_20 = math.log(20)


def by_hand(differences, mark, num_rounds):
    """The definition, one round at a time."""
    capital, path, seen = 1.0, [], []
    for number, prompts in enumerate(differences):
        done = sum(sum(each) / len(each) for each in differences[:number])
        center = (num_rounds * mark - done) / (num_rounds - number)
        if center > 1:
            capital = math.inf
        count = len(seen) + 1
        mean = sum(seen) / count
        variance = (0.25 + sum(d * d for d in seen)) / count - mean**2 * (count - 1) / count
        lead = center - mean
        bet = min(max(lead / (variance + lead**2), 0.0), MAX_BET / max(1 - center, 1e-12))
        for d in prompts:
            capital *= 1 + bet * (center - d)
        seen += list(prompts)
        path.append(capital)
    return path


def test_capital_is_the_definition():
    rng = np.random.default_rng(0)
    for mark in (-0.1, 0.0, 0.2):
        values = rng.choice([-1, -0.5, 0, 0, 0.25, 0.5], size=(12, 3))
        np.testing.assert_allclose(shortfall_capital(values, mark, 20), np.log(by_hand(values.tolist(), mark, 20)))


def test_later_rounds_do_not_change_earlier_capital():
    values = np.random.default_rng(1).uniform(-1, 1, (30, 4))
    np.testing.assert_allclose(shortfall_capital(values, 0.1, 40)[:10], shortfall_capital(values[:10], 0.1, 40))


def test_capital_averages_at_most_one_over_all_orders():
    """Exactly, not by simulation: every order of two sets of four prompts whose mean is the mark."""
    first, second = (0.5, -1.0, 1.0, 0.0), (1.0, -0.5, 0.0, -1.0)
    mark = (sum(first) + sum(second)) / 8
    capitals = [
        np.exp(shortfall_capital(np.stack([one, two], axis=1), mark, 4))
        for one in itertools.permutations(first)
        for two in itertools.permutations(second)
    ]
    assert np.all(np.mean(capitals, axis=0) <= 1 + 1e-9)
    assert np.std(capitals, axis=0)[-1] > 0.1, "there were bets"


@pytest.mark.parametrize("kind", ["binary", "rare", "sets differ"])
def test_a_mark_that_is_just_reached_is_rarely_given_up(kind):
    """2,000 random orders each; fewer than 6.6 % stopped in 99.9 % of all cases if the level is 5 %."""
    rng = np.random.default_rng(0)
    population = {
        "binary": np.tile(np.repeat([1.0, 0.0, -1.0], [8, 24, 8])[:, None], 4),
        "rare": np.tile(np.repeat([1.0, 0.0], [3, 37])[:, None], 4),
        "sets differ": np.stack(
            [np.full(40, 1.0), np.full(40, -1.0), np.zeros(40), np.repeat([1.0, -1.0], 20)], axis=1
        ),
    }[kind]
    stopped = 0
    for _ in range(2000):
        order = np.argsort(rng.random(population.shape), axis=0)
        values = np.take_along_axis(population, order, axis=0)
        stopped += shortfall_capital(values[:-1], population.mean(), 40).max() >= LOG_20
    assert stopped / 2000 < 0.066


def test_one_that_does_nothing_falls_short_soon():
    values = np.zeros((40, 4))
    assert shortfall_capital(values, 0.15, 300).max() >= LOG_20
    assert np.argmax(shortfall_capital(values, 0.15, 300) >= LOG_20) < 8
    assert shortfall_capital(values, 0.0, 300).max() <= 0 + 1e-12, "and reaches a mark of nothing"


def test_out_of_reach_is_certain():
    capital = shortfall_capital([[-1.0], [-1.0], [-1.0]], 0.5, 4)
    assert np.isfinite(capital[0]) and capital[2] == math.inf, "the last would have to be 5"


@pytest.mark.parametrize(
    ("differences", "num_rounds", "reason"),
    [
        ([[1.5]], 3, "between -1 and 1, without gaps"),
        ([[math.nan]], 3, "between -1 and 1, without gaps"),
        ([[0.0], [0.0]], 1, r"at most 1 rounds of prompts, got differences of shape \(2, 1\)"),
        ([0.0], 3, r"got differences of shape \(1,\)"),
    ],
)
def test_faults_are_named(differences, num_rounds, reason):
    with pytest.raises(ValueError, match=reason):
        shortfall_capital(differences, 0.0, num_rounds)
