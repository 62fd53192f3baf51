"""The order of the work, by hand and against a plain description of it, on random histories."""

import math
import random

import pytest

from keystep.search.work.queue import EXPECTED, OLDER, SLOW, WEIGHT, Unit, WorkQueue


def units(slot: int, blocks: int, batches: int = 1) -> list[Unit]:
    return [Unit(slot, block, batch) for block in range(blocks) for batch in range(batches)]


def taken(queue: WorkQueue, count: int, now: float = 0.0) -> list[tuple[object, int, int]]:
    """What so many free workers get."""
    found = [queue.take(now) for _ in range(count)]
    return [(unit.name, unit.block, unit.batch) for unit in found if unit is not None]


def test_what_everyone_waits_for_comes_before_trials_and_spare_work_after_them() -> None:
    queue = WorkQueue()
    queue.add([Unit("held-out", 0, number) for number in range(2)], spare=True)
    queue.begin(0, units(0, 2), decides_from=0)
    queue.add([Unit("baseline", 0, 0)])
    assert taken(queue, 9) == [("baseline", 0, 0), (0, 0, 0), (0, 1, 0), ("held-out", 0, 0)]
    queue.num_spare = 2
    assert taken(queue, 9) == [("held-out", 0, 1)]


def test_spare_work_that_is_hurried_comes_first() -> None:
    queue = WorkQueue()
    queue.add([Unit("held-out", 0, 0), Unit("other", 0, 0)], spare=True)
    queue.begin(0, units(0, 1), decides_from=0)
    queue.hurry("held-out")
    assert taken(queue, 3) == [("held-out", 0, 0), (0, 0, 0), ("other", 0, 0)]


def test_the_blocks_of_a_trial_run_side_by_side_and_what_a_decision_needs_comes_first() -> None:
    queue = WorkQueue()
    queue.begin(0, units(0, 4, 2), decides_from=1)  # decided after blocks 1, 2, 3
    queue.begin(1, units(1, 4, 2), decides_from=1)
    needed = [(slot, block, batch) for slot in (0, 1) for block in (0, 1) for batch in (0, 1)]
    assert taken(queue, 8) == needed, "both trials' first decisions, the lower slot's first"
    assert taken(queue, 4) == [(0, 2, 0), (0, 2, 1), (1, 2, 0), (1, 2, 1)], "one decision ahead before two"
    queue.awaits(1, 3)  # trial 1 went on after block 2
    assert taken(queue, 2) == [(1, 3, 0), (1, 3, 1)], "needed now, before what lies ahead of trial 0"
    assert taken(queue, 9) == [(0, 3, 0), (0, 3, 1)]


def test_where_trials_end_is_learnt() -> None:
    """All trials so far ended after block 0, or saw all: what has passed block 0 is as good as needed."""
    queue = WorkQueue()
    for slot in range(20):
        queue.begin(slot, units(slot, 3), decides_from=0)
        if slot % 2:
            queue.awaits(slot, 2)
        queue.drop(slot)
    queue.begin(20, units(20, 3), decides_from=0)
    queue.begin(21, units(21, 3), decides_from=0)
    assert taken(queue, 2) == [(20, 0, 0), (21, 0, 0)]
    queue.awaits(21, 1)
    assert taken(queue, 2) == [(21, 1, 0), (21, 2, 0)], "two blocks of the one that went on before one of the other"


def test_what_nobody_wants_is_not_given_out() -> None:
    queue = WorkQueue()
    queue.begin(0, units(0, 3), decides_from=0)
    first = queue.take(0.0)
    assert first is not None
    queue.drop(0)
    assert first.over and queue.take(1.0) is None
    assert not queue.done(first, 2.0), "its trial has ended"
    queue.add([Unit("leader", 0, 0), Unit("leader", 0, 1)], spare=True)
    assert [unit.batch for unit in queue.forget("leader")] == [0, 1] and queue.take(3.0) is None


def test_a_failed_unit_keeps_its_place() -> None:
    queue = WorkQueue()
    queue.begin(0, units(0, 3), decides_from=2)
    first, second = queue.take(0.0), queue.take(0.0)
    assert first is not None and second is not None
    assert queue.failed(first)
    queue.again(first)
    assert queue.take(1.0) is first and first.failures == 1
    queue.drop(0)
    assert not queue.failed(first), "nobody wants it"


def test_a_unit_that_takes_far_longer_than_its_likes_is_given_to_another_too() -> None:
    queue = WorkQueue()
    queue.begin(0, units(0, 1, 3), decides_from=0)
    slow, quick, other = queue.take(0.0), queue.take(0.0), queue.take(0.0)
    assert slow is not None and quick is not None and other is not None
    assert queue.take(10.0 * SLOW) is None, "nothing is known of how long they take"
    queue.done(quick, 10.0)
    assert queue.take(9.9 * SLOW) is None
    assert queue.take(10.1 * SLOW) in (slow, other)
    both = {queue.take(10.2 * SLOW)}
    assert None not in both and queue.take(99.0) is None, "not three times"
    assert queue.done(slow, 20.0) and not queue.done(slow, 21.0), "what comes second is not wanted"


def plain_choice(open_trials: dict[int, dict], history: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """The next unit by the rule's words: over all waiting units the least doubt, of near equals the lower slot."""

    def doubt(slot: int, block: int) -> float:
        total = 0.0
        for decision in range(open_trials[slot]["needed"], block):
            ended = sum(last == decision and not whole for _, last, whole in history)
            seen = sum(first <= decision <= last for first, last, _ in history)
            total -= math.log(1 - (ended + EXPECTED * WEIGHT) / (seen + WEIGHT))
        return total + OLDER * slot

    rows = [
        (doubt(slot, min(trial["waiting"])[0]), slot, *min(trial["waiting"]))
        for slot, trial in open_trials.items()
        if trial["waiting"]
    ]
    return min(rows)[1:] if rows else None


@pytest.mark.parametrize("seed", range(30))
def test_the_order_is_that_of_its_description(seed: int) -> None:
    rng = random.Random(seed)
    queue, open_trials, history = WorkQueue(), {}, []
    blocks, decides_from, slot = rng.randint(1, 5), rng.randint(0, 3), 0
    first = min(decides_from, blocks - 1)
    for _ in range(200):
        action = rng.random()
        if action < 0.15:
            queue.begin(slot, units(slot, blocks, 2), decides_from)
            waiting = {(block, batch) for block in range(blocks) for batch in range(2)}
            open_trials[slot] = {"needed": first, "waiting": waiting}
            slot += 1
        elif action < 0.35 and open_trials:
            which = rng.choice(list(open_trials))
            block = rng.randint(0, blocks - 1)
            queue.awaits(which, block)
            open_trials[which]["needed"] = max(open_trials[which]["needed"], block)
        elif action < 0.45 and open_trials:
            which = rng.choice(list(open_trials))
            queue.drop(which)
            last = open_trials.pop(which)["needed"]
            history.append((first, last, last == blocks - 1))
        else:
            expected, unit = plain_choice(open_trials, history), queue.take(0.0)
            assert (None if unit is None else (unit.name, unit.block, unit.batch)) == expected
            if expected is not None:
                open_trials[expected[0]]["waiting"].discard(expected[1:])
