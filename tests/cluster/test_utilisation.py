"""A search on sixteen GPUs by name, on the nodes of a cluster on this machine: how busy workers are, by their own log.

Workers and trials' processes are started before the clock: `GATE` opens when all are there. The evaluator sleeps.
"""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.cluster_utils import Cluster

from keystep.cluster.estimating.simulation import Pace, Simulated, simulate
from keystep.cluster.estimating.workload import BlockWork, Workload
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.settings.ledger import TrialRecord
from keystep.search.settings.rounds import first_decision
from keystep.search.spec.search_spec import SearchSpec
from tests.search.by_hand import drive
from tests.search.small_search import logged, make_spec, run, summary, surroundings, wait_for
from tests.search.stand_in import store_of

NODES, GPUS = 4, 4  # of a node
TRIALS = 12  # of a search, all under way at once
BATCHES = 4  # of a block of 8 images
SECONDS = 1.2  # of a batch
GATE = "open"


class OpenGate(tune.Callback):
    """Opens the gate when all trials have their processes."""

    def __init__(self, spec: SearchSpec):
        self._gate, self._waiting = store_of(spec) / GATE, TRIALS

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._gate.touch()


def node() -> dict[str, Any]:
    return {"num_cpus": GPUS, "num_gpus": GPUS, "object_store_memory": 100 * 2**20}


@pytest.fixture
def four_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # others use this machine's memory too
    cluster = Cluster(initialize_head=True, head_node_args=node())
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**node())
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", str(cluster.address))
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def spec_of(folder: Path, workers: int) -> SearchSpec:
    """12 trials of 4 blocks of 4 batches."""
    resources = {"cpus": 0.5, "gpus": 1, "workers": workers, "batch_size": 2}
    return make_spec(folder, search={"trials": TRIALS, "lookahead": NODES * GPUS}, resources=resources)


def search(folder: Path, workers: int) -> tuple[list[TrialRecord], SearchSpec]:
    spec = spec_of(folder, workers)
    return run(spec, [OpenGate(spec)], together=workers, gate=GATE, seconds=SECONDS), spec


def needed(records: list[TrialRecord]) -> set[tuple[int, int]]:
    """The blocks that trials saw, by slot."""
    return {(record.slot, block) for record in records for block in range(len(record.values) // 8)}


def clock(spec: SearchSpec, records: list[TrialRecord]) -> tuple[float, float]:
    """Seconds from the first batch's beginning to the last needed one's end, and of workers at needed ones."""
    began: dict[str, float] = {}  # of what each worker is at
    first, last, busy = time.time(), 0.0, 0.0
    for line in (store_of(spec) / "log").read_text().splitlines():
        what, slot, block, worker, _, at = line.split()
        if what == "begin":
            began[worker], first = float(at), min(first, float(at))
        elif (int(slot), int(block)) in needed(records):
            last, busy = float(at), busy + float(at) - began[worker]
    return last - first, busy


def simulated(spec: SearchSpec, records: list[TrialRecord], workers: int) -> Simulated:
    """The same trials by the clock, on a driver that takes no time."""
    part = surroundings(spec)[1]
    work = Workload(
        baseline=(),
        trials=tuple(tuple(BlockWork(8.0, 8) for _ in range(len(record.values) // 8)) for record in records),
        held_out=(),
        batch_size=spec.resources.batch_size,
        num_blocks=len(part.blocks),
        decides_from=first_decision(part, spec.search.min_prompts, spec.search.pruner),
    )
    return simulate(work, Pace(SECONDS * BATCHES / 8), workers, spec.search.lookahead)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    return drive(spec_of(tmp_path_factory.mktemp("expected"), 1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixteen_workers_are_as_busy_as_the_simulation_says_and_twelve_times_as_fast_as_one(
    four_nodes: Cluster, expected: list[TrialRecord], tmp_path: Path
) -> None:
    records, spec = search(tmp_path / "sixteen", NODES * GPUS)
    seconds, busy = clock(spec, records)
    says = simulated(spec, records, NODES * GPUS)
    utilisation = busy / (NODES * GPUS * seconds)
    print(f"16: {seconds:.1f} s, {utilisation:.1%} busy; by the clock {says.seconds:.1f} s, {says.utilisation:.1%}")
    assert summary(records) == summary(expected)
    assert abs(utilisation - says.utilisation) <= 0.1
    alone, one = search(tmp_path / "one", 1)
    assert summary(alone) == summary(expected)
    took, _ = clock(one, alone)
    print(f"1: {took:.1f} s, {took / seconds:.1f} times as long")
    assert took >= 12.0 * seconds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_killed_and_one_added_cost_no_more_than_their_workers(
    four_nodes: Cluster, expected: list[TrialRecord], tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, NODES * GPUS)
    start_ray()
    with ThreadPoolExecutor(1) as thread:  # Ray starts nodes in the main thread alone
        under_way = thread.submit(search, tmp_path, NODES * GPUS)
        wait_for(lambda: len(logged(spec, "done")) >= 40, None)
        driver = ray.get_runtime_context().get_node_id()
        lost = next(each for each in four_nodes.worker_nodes if each.node_id != driver)
        four_nodes.remove_node(lost, allow_graceful=False)
        added = four_nodes.add_node(**node())
        records, _ = under_way.result()
    assert summary(records) == summary(expected)
    seconds, busy = clock(spec, records)
    fewer = simulated(spec, records, (NODES - 1) * GPUS)
    nodes = Counter(line.split()[4] for line in (store_of(spec) / "log").read_text().splitlines())
    print(f"{seconds:.1f} s, {busy:.0f} worker seconds; on 12 {fewer.seconds:.1f} s; added node {nodes[added.node_id]}")
    begun, done = Counter(logged(spec, "begin")), Counter(logged(spec, "done"))
    again = sum(count for block, count in (begun - done).items() if block in needed(records))
    assert again <= GPUS, "what was under way on the lost node is done again, no more"
    assert seconds <= 1.25 * fewer.seconds + SECONDS, "as fast as if the node had never been there, at the least"
