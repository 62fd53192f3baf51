"""Damage that a worker meets in stored files is told to the user, once."""

import warnings
from pathlib import Path

import pytest
import ray

from keystep.core.seals import DamagedFile
from keystep.search.images.evaluator import Evaluator
from keystep.search.images.notices import Teller, damage_noted
from keystep.search.reporting.progress import TellNotices
from keystep.search.work.batches import BlockDone
from keystep.search.work.pool import WorkerPool
from keystep.search.work.trial import StepTrial
from tests.search.evaluator_cases import small_spec, validation


def test_other_warnings_are_given_as_ever() -> None:
    with pytest.warns(DeprecationWarning, match="old"), damage_noted() as texts:
        warnings.warn("a file is damaged", DamagedFile, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert texts == ["a file is damaged"]


def test_it_is_told_once_and_not_for_ever() -> None:
    lines: list[str] = []
    tell = Teller(lines.append, most=3)
    tell(["a", "b", "a"])
    tell(["a"])
    assert lines == ["a", "b"]
    tell(["c", "d", "e"])
    assert lines == ["a", "b", "c", "more damaged files were found; see to the disk"]


def test_damage_met_by_a_worker_reaches_whoever_runs_it(tmp_path: Path) -> None:
    """The outcome store's and the latent store's, through the pool's real worker and through a trial."""
    spec = small_spec(tmp_path, resources={"batch_size": 3, "cpus": 0.5, "workers": 1})
    part = validation(spec)
    first = Evaluator(spec).evaluate(None, part.blocks[0])
    shards = list((tmp_path / "outcomes").rglob("*.json"))
    for shard in shards:
        shard.write_bytes(shard.read_bytes().replace(b'"tiam"', b'"tiem"', 1))
    points = list(tmp_path.rglob("*.safetensors"))
    for point in points:
        point.write_bytes(point.read_bytes()[:-1])

    told: set[str] = set()
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        done: list[BlockDone] = []
        with WorkerPool(spec) as pool:
            pool.on_notices = told.update
            pool.run([(None, part.blocks[0])], done.append)
            shards[0].with_name("more.json").write_bytes(b"nothing")
            pool.plan_trials(part, 0)
            trial = StepTrial({"pool": pool.name, "refinement": None, "slot": 0})
            results = [trial.train(), trial.train()]
    finally:
        ray.shutdown()
    (block,) = done
    assert block.outcomes == {number: block.outcomes[number] for number in first}
    assert [outcome.tiam for outcome in block.outcomes.values()] == [outcome.tiam for outcome in first.values()]
    assert block.computed == set(first), "made again"
    text = " ".join(told)
    assert all(shard.name in text for shard in shards) and "will be computed again" in text
    assert any(point.name in text for point in points)
    lines: list[str] = []
    for result in results:
        TellNotices(Teller(lines.append)).on_trial_result(1, [], None, result)
    assert sum("more.json" in line for line in lines) == 1
