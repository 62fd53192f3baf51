"""The simulated scheduler, against schedules worked out by hand."""

import math
import random

import pytest

from keystep.cluster.estimating.limits import limit_of, lookahead_for, saturation
from keystep.cluster.estimating.simulation import BACKLOG, LEAVING, Pace, simulate
from keystep.cluster.estimating.workload import BlockWork, Workload

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


def test_the_blocks_of_a_trial_run_side_by_side() -> None:
    found = simulate(trials((2, 2, 2), (1,)), ONE, 8, lookahead=8)
    assert found.seconds == 2
    assert found.utilisation == 7 / (8 * 2)
    assert limit_of(trials((2, 2, 2), (1,)), ONE, 8, lookahead=8) == "sequence", "no more is known to be needed"


def test_a_batch_is_the_unit() -> None:
    work = Workload((), ((BlockWork(8.0, 4),),), (), batch_size=2)
    assert [simulate(work, ONE, workers, lookahead=1).seconds for workers in (1, 2, 4)] == [8, 4, 4]


def test_what_is_made_ahead_in_vain_is_counted_and_left() -> None:
    """Two workers, a trial of three blocks of 2 s that ends after the first, a driver that takes half a second.

    Blocks 0 and 1 are made until 2, when one worker takes block 2; at 2.5 the trial ends. That worker hears of it
    within a second, when nothing else is left to do.
    """
    work = Workload((), ((block(2),),), (), num_blocks=3)
    found = simulate(work, Pace(evaluation=1.0, result=0.5), 2, lookahead=1)
    assert found.seconds == 2.5
    assert (found.busy, found.vain) == (2.0, 2.0 + 0.5 + LEAVING)
    assert found.in_vain == found.vain / (2.0 + found.vain)


def test_nothing_is_in_vain_before_the_first_decision() -> None:
    work = Workload((), ((block(2), block(2)),), (), num_blocks=2, decides_from=1)
    found = simulate(work, ONE, 2, lookahead=1)
    assert (found.seconds, found.vain) == (2, 0)


def test_held_out_blocks_fill_what_trials_leave() -> None:
    """Two workers and one trial of one block: its other worker makes two of the unrefined blocks meanwhile."""
    held_out = (block(2), block(2), block(3))
    alone = Workload((), ((block(4),),), held_out)
    assert simulate(alone, ONE, 2, lookahead=1).stages == {"baseline": 0, "trials": 4, "held-out": 5}
    ahead = Workload((), ((block(4),),), held_out, ahead=2)
    assert simulate(ahead, ONE, 2, lookahead=1).stages == {"baseline": 0, "trials": 4, "held-out": 3}


def test_baseline_blocks_go_to_whoever_is_free() -> None:
    work = Workload((block(4), block(1), block(1), block(1)), (), ())
    assert simulate(work, ONE, 2, lookahead=1).seconds == 4


def test_a_worker_loads_its_model_once() -> None:
    work = Workload((block(1),), ((block(1),), (block(1),), (block(1),)), (block(1),))
    pace = Pace(evaluation=1.0, loading=10.0)
    assert simulate(work, pace, 1, lookahead=3).stages == {"baseline": 11, "trials": 3, "held-out": 1}
    assert limit_of(work, pace, 1, lookahead=3) == "loading"


def test_the_driver_takes_one_result_after_the_other() -> None:
    # Four trials begin at 0 and end their blocks at 1; the driver takes 2 s for each of the four results.
    work = trials((1,), (1,), (1,), (1,))
    found = simulate(work, Pace(evaluation=1.0, result=2.0), 4, lookahead=4)
    assert found.seconds == 1 + 4 * 2
    assert found.driver == 8 / 9
    assert limit_of(work, Pace(evaluation=1.0, result=2.0), 4, lookahead=4) == "driver"


def test_readers_of_the_storage_take_turns_at_half_its_pace() -> None:
    """Of three points an image one is read, at 2 s; the last of four begins at 8. What is written nobody waits for."""
    work = Workload((), tuple((block(1, points=3),) for _ in range(4)), ())
    found = simulate(work, Pace(evaluation=1.0, point=1.0), 4, lookahead=4)
    assert found.seconds == 4 * 2 + 1
    assert limit_of(work, Pace(evaluation=1.0, point=1.0), 4, lookahead=4) == "storage"


def test_writers_wait_behind_a_backlog() -> None:
    """A worker that leaves more than `BACKLOG` seconds to write comes back once no more than that is left."""
    points = 1 + (BACKLOG + 5) / 2
    work = Workload((), ((block(1, points=points),), (block(1, points=1),)), ())
    found = simulate(work, Pace(evaluation=1.0, point=1.0), 1, lookahead=1)
    assert found.seconds == pytest.approx(2 + 1 + 5 + 2 + 1)


def test_where_driver_and_storage_have_no_rest() -> None:
    """The driver has three results and two trials in 30 s of work, the storage six points in 45 s."""
    work = Workload((block(5),), ((block(10, points=2), block(10, points=2)), (block(10),)), (block(10, points=2),))
    assert saturation(work, Pace(evaluation=1.0, result=0.1, trial=0.1, point=0.5)) == (30 / 0.5, 45 / 3)
    assert saturation(work, ONE) == (math.inf, math.inf)


@pytest.mark.parametrize("seed", range(20))
def test_no_schedule_beats_its_bounds(seed: int) -> None:
    rng = random.Random(seed)
    work = trials(*(tuple(rng.uniform(1, 5) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 30))))
    costs = [[each.evaluations for each in trial] for trial in work.trials]
    total = sum(map(sum, costs))
    workers, lookahead = rng.randint(1, 12), rng.randint(1, 12)
    found = simulate(work, ONE, workers, lookahead)
    # Slot n begins after the slots up to n - lookahead, each of which takes its longest block at least.
    longest = [max(trial) for trial in costs]
    chain = max(sum(longest[first::lookahead]) for first in range(lookahead))
    assert max(total / workers, chain if lookahead == 1 else max(longest)) - 1e-9 <= found.seconds <= total + 1e-9
    assert found.busy == pytest.approx(total), "every block is made once"
    assert 0 < found.utilisation <= 1 + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_one_trial_after_the_other_by_one_worker_is_the_sum(seed: int) -> None:
    rng = random.Random(seed)
    costs = [tuple(rng.uniform(1, 5) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 9))]
    found = simulate(trials(*costs), ONE, 1, lookahead=1)
    assert found.seconds == pytest.approx(sum(map(sum, costs)))
