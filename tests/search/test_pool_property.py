"""Searches on random pools: whatever workers do, the trials and the winner are those of one worker in order."""

import heapq
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from keystep.core.config import Refinement
from keystep.search.settings.journal import open_journal
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.rounds import first_decision
from keystep.search.settings.suggest import KeystepSearch
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.work.queue import Unit, WorkQueue
from tests.search.by_hand import drive, result_of
from tests.search.small_search import make_spec, summary, surroundings, winner

HELD_OUT = ("unrefined", "led once", "leads")
Event = tuple[float, int, str, Any]


class RandomPool:
    """A search whose workers come, go, fail and dawdle as dice have it, by a clock.

    Args:
        spec: the search.
        seed: of the dice.
    """

    def __init__(self, spec: SearchSpec, seed: int):
        self.spec, self.rng = spec, random.Random(seed)
        self.space, self.part, self.baseline = surroundings(spec)
        self.queue = WorkQueue()
        self.queue.num_spare = self.rng.randint(1, 3)
        self.batch_size = self.rng.randint(1, 9)
        self.kills = self.rng.choice([0.0, 0.1, 0.4])
        self.dawdling = self.rng.choice([0.0, 0.1])
        self.idle = 0
        self.now = 0.0
        self.events: list[Event] = []
        self.order = itertools.count()
        self.units: dict[int, list[Unit]] = {}
        self.made: dict[Unit, int] = {}  # how often a batch was accepted
        self.dropped: set[int] = set()
        self.forgotten: set[str] = set()
        self.trials: dict[int, tuple[str, dict[str, Any]]] = {}  # that await a block, by slot
        self.awaited: dict[int, int] = {}
        self.told: set[tuple[int, int]] = set()

    def run(self) -> list[TrialRecord]:
        for name in HELD_OUT:
            self.queue.add([Unit(name, 0, batch) for batch in range(5)], spare=True)
        self.queue.add([Unit("baseline", 0, batch) for batch in range(5)])
        for _ in range(self.rng.randint(1, 40)):
            self.at(self.rng.expovariate(0.2), "joins", None)
        with open_journal(self.spec.storage.path, self.spec.search_id) as (storage, journal):
            self.search = KeystepSearch(
                self.spec,
                self.space,
                self.part,
                self.baseline,
                storage=storage,
                journal=journal,
                on_begin=self.begin,
                on_over=self.drop,
            )
            self.ask()
            while self.trials:
                self.step()
            self.forget("led once")
            self.queue.hurry("unrefined")
            self.queue.hurry("leads")
            while self.events:
                self.step()
            assert self.search.finish()
            assert self.queue.num_waiting == self.queue.num_running == 0, "every worker is free, and nothing is left"
            return self.search.ledger.records()

    def step(self) -> None:
        """The next thing that happens, and work for whoever is free."""
        assert self.events, f"{sorted(self.trials)} wait for ever"
        self.now, _, what, which = heapq.heappop(self.events)
        getattr(self, what)(which)
        while self.idle and (unit := self.queue.take(self.now)) is not None:
            assert unit.name not in self.dropped | self.forgotten, "nobody wants it"
            assert not self.made.get(unit), "it is there already"
            assert unit.copies <= 2
            self.idle -= 1
            slow = 50.0 if self.rng.random() < self.dawdling else 1.0
            self.at(slow * self.rng.expovariate(1.0), "dies" if self.rng.random() < self.kills else "makes", unit)
        if self.rng.random() < 0.02:
            self.at(0.5, "looks", None)

    def joins(self, _: None) -> None:
        self.idle += 1

    def looks(self, _: None) -> None:
        """As the crew does every second: a batch may be late by now."""

    def makes(self, unit: Unit) -> None:
        self.idle += 1
        if not self.queue.done(unit, self.now):
            return
        self.made[unit] = self.made.get(unit, 0) + 1
        if isinstance(unit.name, int):
            assert unit.name not in self.dropped
            self.tell(unit.name)

    def dies(self, unit: Unit) -> None:
        """With its worker, which another replaces after a while."""
        self.at(self.rng.expovariate(0.1), "joins", None)
        if self.queue.failed(unit):
            self.queue.again(unit)

    def hears(self, which: tuple[int, int]) -> None:
        """The driver, of a block."""
        slot, block = which
        trial_id, config = self.trials[slot]
        last = block == len(self.part.blocks) - 1
        numbers = [unit for unit in self.units[slot] if unit.block <= block]
        assert all(self.made[unit] == 1 for unit in numbers), "what it is told of was made, and counts once"
        stop = self.search.see_block(trial_id, result_of(self.part, config, block), last=last)
        if stop or last:
            assert slot in self.dropped
            del self.trials[slot]
            self.search.on_trial_complete(trial_id, {"tiam": 0.0})
            self.ask()
        else:
            self.awaited[slot] = block + 1
            self.queue.awaits(slot, block + 1)
            self.tell(slot)

    def ask(self) -> None:
        while len(self.trials) < self.spec.search.lookahead:
            trial_id = f"trial-{next(self.order)}"
            config = self.search.suggest(trial_id)
            if not isinstance(config, dict):
                assert config in (None, Searcher.FINISHED)
                return
            self.trials[config["slot"]] = (trial_id, config)
            self.tell(config["slot"])

    def begin(self, slot: int, refinement: Refinement) -> None:
        self.units[slot] = [
            Unit(slot, block, first)
            for block, instances in enumerate(self.part.blocks)
            for first in range(0, len(instances), self.batch_size)
        ]
        self.awaited[slot] = 0
        search = self.spec.search
        self.queue.begin(slot, self.units[slot], first_decision(self.part, search.min_prompts, search.pruner))

    def drop(self, slot: int) -> None:
        self.dropped.add(slot)
        self.queue.drop(slot)

    def forget(self, name: str) -> None:
        self.forgotten.add(name)
        self.queue.forget(name)

    def tell(self, slot: int) -> None:
        """The driver hears of the block that a trial awaits, if it is there."""
        block = self.awaited[slot]
        there = all(self.made.get(unit) for unit in self.units[slot] if unit.block == block)
        if there and (slot, block) not in self.told:
            self.told.add((slot, block))
            self.at(self.rng.expovariate(2.0), "hears", (slot, block))

    def at(self, seconds: float, what: str, which: Any) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), what, which))


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[TrialRecord]]:
    """What one worker finds, by lookahead."""
    return {lookahead: drive(search_of(tmp_path_factory.mktemp("one"), lookahead)) for lookahead in (1, 3, 12)}


def search_of(folder: Path, lookahead: int) -> SearchSpec:
    return make_spec(folder, search={"lookahead": lookahead}, resources={"workers": 1})


@pytest.mark.parametrize("seed", range(30))
def test_any_pool_finds_what_one_worker_finds(
    seed: int, in_order: dict[int, list[TrialRecord]], tmp_path: Path
) -> None:
    lookahead = random.Random(seed).choice(sorted(in_order))
    pool = RandomPool(search_of(tmp_path, lookahead), seed)
    records = pool.run()
    assert summary(records) == summary(in_order[lookahead])
    assert winner(records).refinement == winner(in_order[lookahead]).refinement
    counts = {unit: count for unit, count in pool.made.items() if unit.name in ("baseline", "unrefined", "leads")}
    assert len(counts) == 15 and set(counts.values()) == {1}, "what is wanted is made, and counts once"


@pytest.mark.parametrize("order", range(8))
def test_slots_taken_up_again_wait_for_those_they_look_back_on(
    order: int, in_order: dict[int, list[TrialRecord]], tmp_path: Path
) -> None:
    """More than the lookahead are left, since what failed in an outage was not told."""
    spec = search_of(tmp_path, 3)
    drive(spec, workers=3, order=order, fail=tuple(range(12)))
    assert summary(drive(spec, workers=3, order=order)) == summary(in_order[3])
