"""What holds a search up on so many workers, told from simulations without it."""

import math
from dataclasses import replace
from typing import Literal

from keystep.cluster.estimating.simulation import Pace, Simulated, seconds_of, simulate
from keystep.cluster.estimating.workload import Workload

Limit = Literal["none", "lookahead", "driver", "storage", "loading", "sequence"]
NOTABLE = 0.05  # share of the wall time that must be gained for something to be called the limit
BUSY = 0.8  # utilisation from which on the GPUs themselves are the limit


def limit_of(work: Workload, pace: Pace, workers: int, lookahead: int) -> Limit:
    """What holds the search up most: that without which it would be over soonest.

    `sequence` is what is left: too little is known to be needed at a time for so many workers.
    """
    found = simulate(work, pace, workers, lookahead)
    without: dict[Limit, Simulated] = {
        "lookahead": simulate(work, pace, workers, max(lookahead, len(work.trials), workers)),
        "driver": simulate(work, replace(pace, result=0.0, trial=0.0), workers, lookahead),
        "storage": simulate(work, replace(pace, point=0.0), workers, lookahead),
        "loading": simulate(work, replace(pace, loading=0.0), workers, lookahead),
    }
    worst = min(without, key=lambda name: without[name].seconds)
    if found.seconds - without[worst].seconds >= NOTABLE * found.seconds:
        return worst
    return "none" if found.utilisation >= BUSY else "sequence"


def lookahead_for(work: Workload, pace: Pace, workers: int, lookahead: int) -> int:
    """The first doubling of a lookahead that is not the limit any more."""
    soonest = simulate(work, pace, workers, max(lookahead, len(work.trials), workers)).seconds
    while simulate(work, pace, workers, lookahead).seconds * (1 - NOTABLE) >= soonest:
        lookahead *= 2
    return lookahead


def saturation(work: Workload, pace: Pace) -> tuple[float, float]:
    """Workers at which the driver would have no rest in the trials, and the storage in the whole search, if none ever
    waited; inf: none."""
    trials = [block for trial in work.trials for block in trial]
    driver = len(trials) * pace.result + len(work.trials) * pace.trial
    storage = sum(block.points for block in work.blocks) * pace.point
    return (
        sum(seconds_of(block, pace) for block in trials) / driver if driver else math.inf,
        sum(seconds_of(block, pace) for block in work.blocks) / storage if storage else math.inf,
    )
