"""A paired test that may be looked at after every prompt: betting on prompt-level differences."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keystep.evaluation.statistics import prompt_means

Direction = Literal["worse", "better", "different"]
MAX_BET = 0.75  # below 1, so that no single prompt can take all the capital


def differences(candidate: ArrayLike, incumbent: ArrayLike) -> NDArray[np.float64]:
    """(P,) d_p: mean over the seeds both have of candidate minus incumbent; both (P, S), in [0, 1]."""
    ours, theirs = np.asarray(candidate, dtype=float), np.asarray(incumbent, dtype=float)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired outcomes must have one shape, got {ours.shape} and {theirs.shape}")
    return prompt_means(ours - theirs)


def log_capital(differences: ArrayLike, direction: Direction = "worse") -> NDArray[np.float64]:
    """Log capital, after each prompt, of a gambler who bets that the candidate is worse (better, different).

    K_p = prod_{q <= p} (1 + lambda_q x_q) with x = -d for "worse", d for "better", and lambda_q in [0, 0.75]
    set from the prompts before q alone: the aGRAPA bet m / (v + m^2), m and v being their mean and variance
    of x, each shrunk by one made-up prompt (0; 1/4), and 0 where m < 0 (Waudby-Smith and Ramdas, "Estimating
    means of bounded random variables by betting", JRSS B 2024). While E[d_p | past] >= 0 the capital of
    "worse" is a supermartingale that starts at 1, so it ever reaches 1/alpha with probability at most alpha
    (Ville). "different" is the mean of both capitals, a test of E[d_p | past] = 0.

    The null speaks of the population that the prompts were drawn from. Give each prompt once, with all of its
    seeds, in an order fixed beforehand: prompts are bet on, not images, since seeds of one prompt are not
    independent. `differences`: (..., P) in [-1, 1], the last axis in that order. Returns (..., P). ValueError
    outside [-1, 1].
    """
    values = np.asarray(differences, dtype=float)
    if np.isnan(values).any() or (np.abs(values) > 1 + 1e-9).any():
        raise ValueError("differences must lie between -1 and 1, without gaps")
    if direction == "different":
        return np.logaddexp(_log_capital(values), _log_capital(-values)) - np.log(2)
    if direction not in ("worse", "better"):
        raise ValueError(f"direction is 'worse', 'better' or 'different', got {direction!r}")
    return _log_capital(-values if direction == "worse" else values)


def anytime_p(differences: ArrayLike, direction: Direction = "worse") -> float:
    """1 / the largest capital so far, at most 1: a p-value whenever one looks. 1.0 for no prompts."""
    path = log_capital(differences, direction)
    return float(np.exp(-max(0.0, path.max(initial=0.0))))


def is_decided(differences: ArrayLike, direction: Direction = "worse", alpha: float = 0.05) -> bool:
    """Whether the capital has reached 1/alpha: stop, and be wrong with probability at most alpha.

    Measured over 10,000 runs of 300 prompts with 4 seeds each, looked at after every prompt, at alpha 0.05:
    falsely stopped 1.7 % (prompts alike under both), 2.3 % (a random effect of the setting on each prompt),
    3.6 and 0.5 % (differences skewed up, down). A t-test of 5 % looked at as often stops 13 to 67 %.
    Candidates worse by 0.1 are stopped after 62 prompts (median), by 0.2 after 28, by 0.3 after 19.
    (tests/evaluation/test_betting.py, `-m slow`.)

    ValueError if alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return anytime_p(differences, direction) <= alpha


def _log_capital(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log capital of bets on E[gain] > 0, along the last axis."""
    if gains.shape[-1] == 0:
        return gains.copy()
    before = np.arange(gains.shape[-1])  # prompts seen before each bet
    total = np.cumsum(gains, axis=-1) - gains
    squares = np.cumsum(gains**2, axis=-1) - gains**2
    mean = total / (before + 1)
    variance = (0.25 + squares + mean**2 * before - 2 * mean * total) / (before + 1)
    bets = np.clip(mean / (variance + mean**2), 0.0, MAX_BET)
    return np.cumsum(np.log1p(bets * gains), axis=-1)
