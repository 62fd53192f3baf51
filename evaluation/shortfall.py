"""A test, at any time, that a setting which has seen some of the prompts will fall short of a mark on all of them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_BET = 0.9  # of what the worst prompt could take: none takes all the capital


def shortfall_capital(differences: ArrayLike, mark: float, num_rounds: int) -> NDArray[np.float64]:
    """Log capital, after each round, of a gambler who bets that the mean of all differences stays below `mark`.

    The prompts of a part are a finite population: N rounds of S prompts, one of each prompt set, each set in a random
    order of its own. d_{n,s} is the difference of the s-th prompt of round n between a setting and a control that is
    known on all prompts, such as the unrefined model. If the setting reached the mark on the whole part, the rounds
    that are left would have to average at least

        c_n = (N mark - sum of the round means before n) / (N - n)          (n = 0, 1, ...)

    so, drawn without replacement, c_n - d_{n,s} averages at most 0 over the sets, and so does, the sets being
    independent of one another,

        K = prod_n prod_s (1 + lambda_n (c_n - d_{n,s})) - 1

    because the mean of each round's product is at most (1 + lambda_n mean_s E[c_n - d_{n,s}])^S (geometric below
    arithmetic mean): K + 1 is a supermartingale that starts at 1 and reaches 1/alpha with probability at most alpha,
    however often one looks (Ville). lambda_n is set from the rounds before n: the aGRAPA bet m / (v + m^2), with m =
    c_n less the mean and v the variance of the differences so far, each with one made-up prompt (0; 1/4), and at most
    0.9 / (1 - c_n). Once c_n exceeds 1, the largest possible difference, the mark is out of reach: infinite capital.

    Betting on bounded means without replacement: Waudby-Smith and Ramdas, "Estimating means of bounded random
    variables by betting", JRSS B 2024, section 5. The control takes out what it shares with the setting: one that does
    as the unrefined model on most prompts is told from one that is better than that within a few rounds, of which
    differences to the better one alone would say little.

    Args:
        differences: (n, S) of the rounds seen, in their order, in [-1, 1]; seeds of a prompt averaged.
        mark: the mean over all N x S that has to be reached, in [-1, 1].
        num_rounds: N, at least n.

    Returns:
        (n,) log capital.

    Raises:
        ValueError: differences outside [-1, 1] or with gaps, or more rounds than there are.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 2 or len(values) > num_rounds:
        raise ValueError(f"expected at most {num_rounds} rounds of prompts, got differences of shape {values.shape}")
    if np.isnan(values).any() or (np.abs(values) > 1 + 1e-9).any():
        raise ValueError("differences must lie between -1 and 1, without gaps")
    num_seen, num_sets = values.shape
    rounds = np.arange(num_seen)
    before = _before(values.mean(axis=1))
    center = (num_rounds * mark - before) / (num_rounds - rounds)
    count = rounds * num_sets + 1
    mean = num_sets * before / count
    variance = (0.25 + _before((values**2).sum(axis=1))) / count - mean**2 * (count - 1) / count
    lead = center - mean
    highest = MAX_BET / np.maximum(1 - center, 1e-12)
    bets = np.clip(lead / (np.maximum(variance, 1e-12) + lead**2), 0.0, highest)
    gains = np.log1p(np.maximum(bets[:, None] * (center[:, None] - values), -1 + 1e-12)).sum(axis=1)
    return np.cumsum(np.where(center > 1 + 1e-9, np.inf, gains))


def _before(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of what comes before each."""
    return np.cumsum(values) - values
