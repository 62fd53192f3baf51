"""The simulated scheduler, against schedules worked out by hand."""

import itertools
import math
import random

import pytest

from cluster.simulation import Pace, limit_of, lookahead_for, saturation, simulate
from cluster.workload import BlockWork, Workload

ONE = Pace(evaluation=1.0)


def block(evaluations: float, images: int = 1, points: float = 0.0) -> BlockWork:
    return BlockWork(evaluations, images, points)


def trials(*costs: tuple[float, ...]) -> Workload:
    """Trials of blocks that cost so many evaluations each, and nothing else."""
    return Workload((), tuple(tuple(map(block, each)) for each in costs), ())


def test_one_worker_does_all_of_it() -> None:
    work = Workload((block(3),), ((block(2), block(2)), (block(5),)), (block(4),))
    found = simulate(work, Pace(evaluation=0.5, image=1.0), 1, lookahead=4)
    assert found.seconds == 0.5 * 16 + 5 * 1.0
    assert found.stages == {"baseline": 2.5, "trials": 7.5, "held-out": 3.0}
    assert found.utilisation == 1.0


def test_a_slot_waits_for_those_before_the_lookahead() -> None:
    # Lookahead 2: slot 2 needs slot 0, which ends at 10; slot 3 needs slot 1.
    work = trials((10,), (1,), (1,), (1,))
    assert simulate(work, ONE, 2, lookahead=2).seconds == 11  # slots 2 and 3 at 10, side by side
    assert simulate(work, ONE, 4, lookahead=2).seconds == 11
    assert simulate(work, ONE, 2, lookahead=4).seconds == 10
    assert limit_of(work, ONE, 4, lookahead=2) == "lookahead"


def test_more_workers_than_lookahead_are_not_all_that_it_takes() -> None:
    # Of every four trials one is long, and keeps the other worker waiting.
    work = trials(*([(4,), (1,), (1,), (1,)] * 4))
    assert [simulate(work, ONE, 2, lookahead).seconds for lookahead in (2, 4, 8, 16)] == [20, 16, 14, 14]
    assert limit_of(work, ONE, 2, lookahead=2) == limit_of(work, ONE, 2, lookahead=4) == "lookahead"
    assert lookahead_for(work, ONE, 2, lookahead=2) == 8
    assert limit_of(work, ONE, 2, lookahead=8) != "lookahead"


def test_the_blocks_of_a_trial_are_a_sequence() -> None:
    found = simulate(trials((2, 2, 2), (1,)), ONE, 8, lookahead=8)
    assert found.seconds == 6
    assert found.utilisation == 7 / (8 * 6)
    assert limit_of(trials((2, 2, 2), (1,)), ONE, 8, lookahead=8) == "sequence"


def test_baseline_blocks_go_to_whoever_is_free() -> None:
    work = Workload((block(4), block(1), block(1), block(1)), (), ())
    assert simulate(work, ONE, 2, lookahead=1).seconds == 4


def test_a_worker_loads_its_model_once_a_stage() -> None:
    work = Workload((block(1),), ((block(1),), (block(1),), (block(1),)), (block(1),))
    pace = Pace(evaluation=1.0, loading=10.0)
    assert simulate(work, pace, 1, lookahead=3).stages == {"baseline": 11, "trials": 13, "held-out": 11}
    assert limit_of(work, pace, 1, lookahead=3) == "loading"


def test_the_driver_takes_one_result_after_the_other() -> None:
    # Four trials begin at 0 and end their blocks at 1; the driver takes 2 s for each of the four results.
    work = trials((1,), (1,), (1,), (1,))
    found = simulate(work, Pace(evaluation=1.0, result=2.0), 4, lookahead=4)
    assert found.seconds == 1 + 4 * 2
    assert found.driver == 8 / 9
    assert limit_of(work, Pace(evaluation=1.0, result=2.0), 4, lookahead=4) == "driver"


def test_the_storage_gives_one_block_after_the_other() -> None:
    work = Workload((), tuple((block(1, points=3),) for _ in range(4)), ())
    found = simulate(work, Pace(evaluation=1.0, point=1.0), 4, lookahead=4)
    assert found.seconds == 4 * 3 + 1
    assert limit_of(work, Pace(evaluation=1.0, point=1.0), 4, lookahead=4) == "storage"


def test_where_driver_and_storage_have_no_rest() -> None:
    work = Workload((), ((block(10, points=2), block(10, points=2)), (block(10),)), ())
    assert saturation(work, Pace(evaluation=1.0, result=0.1, trial=0.1, point=0.5)) == (30 / 0.5, 30 / 2)
    assert saturation(work, ONE) == (math.inf, math.inf)


@pytest.mark.parametrize("seed", range(20))
def test_no_schedule_beats_its_bounds(seed: int) -> None:
    rng = random.Random(seed)
    work = trials(*(tuple(rng.uniform(1, 5) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 30))))
    lengths = [sum(each.evaluations for each in trial) for trial in work.trials]
    workers, lookahead = rng.randint(1, 12), rng.randint(1, 12)
    found = simulate(work, ONE, workers, lookahead)
    slots = min(workers, lookahead)
    assert max(max(lengths), sum(lengths) / slots) - 1e-9 <= found.seconds <= sum(lengths) + 1e-9
    assert 0 < found.utilisation <= 1 + 1e-9
    assert found.seconds >= simulate(work, ONE, workers, lookahead=100).seconds - max(lengths)
    # As a loop over slots: each begins when a worker is free and slots up to slot - lookahead have ended.
    free, ends = [0.0] * slots, []
    for slot, length in enumerate(lengths):
        gate = max(itertools.chain([0.0], ends[: max(0, slot - lookahead + 1)]))
        worker = min(range(slots), key=lambda number: free[number])
        free[worker] = max(free[worker], gate, *ends_begun(ends, lengths)) + length
        ends.append(free[worker])
    assert found.seconds == pytest.approx(max(ends))


def ends_begun(ends: list[float], lengths: list[float]) -> list[float]:
    """A slot begins no sooner than the slot before it did."""
    return [ends[-1] - lengths[len(ends) - 1]] if ends else [0.0]
