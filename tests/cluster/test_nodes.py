"""A search over several Ray nodes on this machine, with nodes and drivers that die in the middle of it."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from keystep.search.images.evaluator import Evaluator
from keystep.search.images.models import latents_folder
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.settings.ledger import TrialRecord
from keystep.search.spec.instances import make_parts
from keystep.search.spec.search_spec import SearchSpec, StorageSpec
from tests.search.by_hand import drive
from tests.search.evaluator_cases import refined, small_spec
from tests.search.small_search import (
    logged,
    make_spec,
    run,
    start_driver,
    summary,
    told,
    wait_for,
    winner,
)
from tests.search.stand_in import store_of

NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100 * 2**20}  # the GPU is one by name alone


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of three nodes, which searches join as users' do."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(2):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """What the search finds when nothing goes wrong and one trial runs after the other."""
    return drive(make_spec(tmp_path_factory.mktemp("expected")))


def spread_spec(folder: Path, **resources: Any) -> SearchSpec:
    return make_spec(folder, resources={"cpus": 0.5, "gpus": 1, "workers": 3, **resources})


def nodes_used(spec: SearchSpec) -> Counter[str]:
    """Batches begun, by node."""
    lines = [line.split() for line in (store_of(spec) / "log").read_text().splitlines()]
    return Counter(node for what, _, _, _, node, _ in lines if what == "begin")


def seen_blocks(records: list[TrialRecord]) -> set[tuple[int, int]]:
    """(slot, block) of what trials saw: others may have been made ahead, and left when the search ended."""
    return {(record.slot, block) for record in records for block in range(len(record.values) // 8)}


@pytest.mark.slow
def test_trials_spread_over_nodes_and_find_the_same(three_nodes: Cluster, expected: list[TrialRecord], tmp_path: Path):
    spec = spread_spec(tmp_path)
    records = run(spec, seconds=0.5)  # a node takes seconds to start its worker
    assert summary(records) == summary(expected)
    assert set(nodes_used(spec)) == {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert len(nodes_used(spec)) == 3
    assert set(Counter(logged(spec, "done")).values()) == {1}


def test_latents_lie_on_the_shared_path_or_on_each_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert latents_folder(StorageSpec(path="/shared/runs")) == Path("/shared/runs/latents")
    assert latents_folder(StorageSpec(path="s3://bucket/runs")) == tmp_path / "cache" / "keystep" / "latents"
    assert latents_folder(StorageSpec(path="s3://bucket/runs", latents_path="/scratch")) == Path("/scratch")
    assert latents_folder(StorageSpec(path="/shared/runs", latents_path="/scratch")) == Path("/scratch")


def test_nodes_with_latents_of_their_own_find_the_same(tmp_path: Path) -> None:
    """Two evaluators that share outcomes and not latents: each computes its half, from its own prefixes."""
    spec = small_spec(tmp_path / "shared")
    first, second = make_parts(spec)[0].blocks
    whole = Evaluator(small_spec(tmp_path / "alone")).evaluate(refined(2, 2), (*first, *second))
    halves = {}
    for node, block in (("one", first), ("other", second)):
        storage = spec.storage.model_copy(update={"latents_path": str(tmp_path / node)})
        evaluator = Evaluator(spec.model_copy(update={"storage": storage}))
        halves |= evaluator.evaluate(refined(2, 2), block)
        assert len(evaluator.computed) == len(block) and any((tmp_path / node).rglob("*.safetensors"))
    assert evaluator.evaluate(refined(2, 2), (*first, *second)).keys() == whole.keys()
    assert not evaluator.computed
    assert {number: each.found for number, each in halves.items()} == {n: each.found for n, each in whole.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_removed_without_grace_and_one_added_change_nothing(
    three_nodes: Cluster, expected: list[TrialRecord], tmp_path: Path
):
    spec = spread_spec(tmp_path)
    start_ray()
    with ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread alone
        search = pool.submit(run, spec, seconds=2.0)
        wait_for(lambda: len(logged(spec, "done")) >= 6 and len(nodes_used(spec)) == 3, None)
        driver = ray.get_runtime_context().get_node_id()  # any of them: they have one address
        lost = next(node for node in three_nodes.worker_nodes if node.node_id != driver)
        three_nodes.remove_node(lost, allow_graceful=False)
        three_nodes.add_node(**NODE)
        assert not search.done()
        records = search.result()
    assert summary(records) == summary(expected)
    assert winner(records).refinement == winner(expected).refinement
    used = nodes_used(spec)
    assert lost.node_id in used
    done, begun = Counter(logged(spec, "done")), Counter(logged(spec, "begin"))
    assert set(done.values()) == {1}
    assert begun - done == Counter(dict.fromkeys(begun - done, 1))
    assert len(seen_blocks(records) & set(begun - done)) <= 1, (
        "what was under way on the lost node is done again, no more"
    )
    assert all(len(states) == 1 for states in told(spec).values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_and_started_again_finds_the_same(
    three_nodes: Cluster, expected: list[TrialRecord], tmp_path: Path
):
    spec = spread_spec(tmp_path)
    driver = start_driver(spec, seconds=0.5)
    try:
        wait_for(lambda: len(logged(spec, "done")) >= 8 and told(spec), driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate(timeout=60)
    finally:
        driver.kill()
    before = told(spec)
    assert 0 < len(before) < 12
    records = run(spec, seconds=0.1)
    assert summary(records) == summary(expected)
    assert winner(records).refinement == winner(expected).refinement
    done, begun = Counter(logged(spec, "done")), Counter(logged(spec, "begin"))
    assert set(done.values()) == {1}
    assert len(seen_blocks(records) & set(begun - done)) <= 3, "what was under way at the kill is done again, no more"
    after = told(spec)
    assert all(len(states) == 1 for states in after.values()) and len(after) == 12
    assert {trial: after[trial] for trial in before} == before
