"""Workers with the real model in real Ray: warm, and killed in the middle of a block."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.exceptions import ActorDiedError, RayTaskError
from search.pool import BlockDone, WorkerPool
from search.trial import StepTrial

from core.config import Refinement
from core.prompts import Entity, Prompt
from search.failures import WorkFailed, in_a_line
from search.images import models
from search.images.evaluator import Evaluator
from search.images.outcomes import Outcome
from search.instances import Instance
from tests.search.evaluator_cases import refined, small_spec, validation

MOODY = "tests.search.evaluator_cases:Moody"
PLAIN = ["tiam", "found", "bound", "evaluations_alone", "failure", "entities"]


@pytest.fixture(scope="module")
def runtime() -> Iterator[None]:
    variables = {
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_worker_niceness": "0",  # else workers starve beside anything else that runs
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


def what_was_seen(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in PLAIN}


def expected(folder: Path, setting: Refinement | None) -> dict[int, dict[str, Any]]:
    """By number, computed in this process, in another store."""
    spec = small_spec(folder)
    outcomes = Evaluator(spec).evaluate(setting, validation(spec).instances)
    return {number: what_was_seen(outcome) for number, outcome in outcomes.items()}


def stored_rows(folder: Path) -> list[tuple[str, str, int]]:
    """Setting, prompt and seed of everything in every shard."""
    return [
        (path.parent.name, row["prompt"], row["seed"])
        for path in (folder / "outcomes").rglob("*.json")
        for row in json.loads(path.read_text())["outcomes"]
    ]


def kill_when(folder: Path, rows: int, pid: int) -> threading.Thread:
    """SIGKILLs a process as soon as there are so many stored rows."""

    def watch() -> None:
        while len(stored_rows(folder)) < rows:
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_worker_killed_in_mid_block_costs_no_more_than_that(runtime: None, tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "run", resources={"batch_size": 1})
    first, second = validation(spec).blocks
    finished: list[BlockDone] = []
    with WorkerPool(spec, 2) as pool:
        pool.run([(None, first[:1])], finished.append)
        victim = finished.pop().worker
        # It is warm and has the first block done before the other worker has loaded its model.
        killer = kill_when(tmp_path / "run", 3, victim)
        outcomes = pool.run([(None, first), (None, second)], finished.append)
        killer.join()
        assert [done.refinement for done in finished] == [None, None]
        assert victim not in {done.worker for done in finished}
        assert {number: what_was_seen(kept) for number, kept in outcomes["unrefined"].items()} == expected(
            tmp_path / "plain", None
        )
        rows = stored_rows(tmp_path / "run")
        assert len(rows) == len(set(rows)) == len(validation(spec).instances)
        recomputed = {number for done in finished for number in done.computed}
        assert recomputed <= {instance.number for instance in (*first[3:], *second)}

        again = pool.run([(None, first), (None, second)], finished.append)
        assert again == outcomes and [done.computed for done in finished[2:]] == [frozenset()] * 2
        assert stored_rows(tmp_path / "run") == rows


def of_seed(seed: int) -> tuple[None, list[Instance]]:
    return None, [Instance(seed, "one", Prompt("a circle", (Entity("circle"),)), seed)]


def test_a_block_that_fails_is_tried_again_but_not_for_ever(runtime: None, tmp_path: Path) -> None:
    pool = WorkerPool(small_spec(tmp_path, resources={"max_failures": 2}), 1, MOODY)
    finished: list[BlockDone] = []
    outcomes = pool.run([of_seed(3), of_seed(0)], finished.append)
    assert sorted(outcomes["unrefined"]) == [0, 3]
    assert [done.evaluations for done in finished] == [2.0, 2.0]
    with pytest.raises(WorkFailed, match=r"failed 3 times \(resources.max_failures is 2\)") as failed:
        pool.run([of_seed(0), of_seed(2)])
    assert "The last time:\n  RuntimeError: the device is gone\n" in str(failed.value)
    assert "Traceback" not in str(failed.value) and "\x1b" not in str(failed.value)
    assert ", in evaluate\n" in str(failed.value.__cause__), "the traceback, which --debug shows"
    with pytest.raises(ValueError, match=r"^prompts\.sets: no such thing$"):
        pool.run([of_seed(1)])


def caused() -> Exception:
    try:
        try:
            raise KeyError("no such\nlayer")
        except KeyError as cause:
            raise RuntimeError("around it") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (caused(), "KeyError: 'no such\\nlayer'"),
        (RuntimeError("\nCUDA error\nmore of it"), "RuntimeError: CUDA error"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_an_error_is_told_in_a_line(problem: Exception, line: str) -> None:
    assert in_a_line(problem) == line
    assert in_a_line(RayTaskError("work", "a long traceback", problem, "worker", 1, "127.0.0.1")) == line


def test_the_error_of_a_worker_that_cannot_start_is_told(runtime: None) -> None:
    class Unstartable:
        def __init__(self) -> None:
            raise RuntimeError("no such device")

        def ask(self) -> None: ...

    with pytest.raises(ActorDiedError) as died:
        ray.get(ray.remote(Unstartable).remote().ask.remote())
    assert in_a_line(died.value) == "RuntimeError: no such device"


def test_no_room_for_a_worker(runtime: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wants cpus 3 and gpus 0, and Ray has 2 CPUs and 0 GPUs"):
        WorkerPool(small_spec(tmp_path, resources={"cpus": 3}))


class Results(tune.Callback):
    """Keeps all results, and kills the worker of the first trial in the middle of the second one's first block."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.results: list[dict[str, Any]] = []
        self.killers: list[threading.Thread] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.results.append(result)
        if result["done"] and not self.killers:
            self.killers.append(kill_when(self.folder, 8 + 2, result["pid"]))


def test_trials_share_a_worker_and_outlive_it(runtime: None, tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "run", resources={"batch_size": 1})
    settings = [refined(2, 2), refined(3, 1)]
    seen = Results(tmp_path / "run")
    tuner = tune.Tuner(
        tune.with_resources(StepTrial, {"cpu": 1}),
        param_space={
            "spec": spec.model_dump_json(),
            "slot": 5,
            "refinement": tune.grid_search([setting.model_dump(mode="json") for setting in settings]),
        },
        tune_config=tune.TuneConfig(metric="tiam", mode="max", max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "tune"),
            failure_config=tune.FailureConfig(max_failures=2),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            callbacks=[seen],
            verbose=0,
        ),
    )
    grid = tuner.fit()
    assert not grid.errors
    for setting in settings:
        mine = [result for result in seen.results if result["config"]["refinement"] == setting.model_dump(mode="json")]
        assert [(result["block"], result["num_instances"], result["done"]) for result in mine] == [
            (0, 4, False),
            (1, 8, True),
        ]
        plain = expected(tmp_path / "plain", setting)
        outcomes = {int(number): value for result in mine for number, value in result["outcomes"]}
        assert outcomes == {number: outcome["tiam"] for number, outcome in plain.items()}
        assert sum(result["evaluations_alone"] for result in mine) == sum(
            outcome["evaluations_alone"] for outcome in plain.values()
        )
        sets = [instance.set_name for instance in validation(spec).instances]
        means = [
            sum(outcomes[n] for n, name in enumerate(sets) if name == which) / sets.count(which) for which in set(sets)
        ]
        assert mine[-1]["tiam"] == pytest.approx(sum(means) / len(means))
    first, second = seen.results[:2], seen.results[2:]
    assert len({result["pid"] for result in first}) == 1 and first[0]["pid"] not in {r["pid"] for r in second}
    assert [result["computed"] for result in first] == [4, 4]
    assert second[0]["computed"] < 4 and second[1]["computed"] == 4, "what was stored before the kill is read"
    rows = stored_rows(tmp_path / "run")
    assert len(rows) == len(set(rows)) == 16


def trial_config(folder: Path, setting: Refinement | None, **more: Any) -> dict[str, Any]:
    plain = None if setting is None else setting.model_dump(mode="json")
    return {"spec": small_spec(folder).model_dump(mode="json"), "refinement": plain, "slot": 0, **more}


def test_a_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    trial = StepTrial(trial_config(tmp_path, None))
    trial.train()
    (tmp_path / "kept").mkdir()
    trial.save(str(tmp_path / "kept"))
    whole = trial.train()
    other = StepTrial(trial_config(tmp_path, None))
    other.restore(str(tmp_path / "kept"))
    rest = other.train()
    assert rest["block"] == 1 and rest["done"]
    for name in ("tiam", "outcomes", "num_instances", "num_total", "evaluations_alone"):
        assert rest[name] == whole[name]
    assert rest["computed"] == 0 and rest["evaluations"] == 0


def test_a_reset_trial_loads_nothing(tmp_path: Path) -> None:
    trial = StepTrial(trial_config(tmp_path, None))
    trial.train()
    loads = models._pipeline.cache_info().misses, models._detector.cache_info().misses
    evaluator = trial._evaluator
    assert trial.reset(trial_config(tmp_path, refined(2, 2), slot=7))
    result = trial.train()
    assert (models._pipeline.cache_info().misses, models._detector.cache_info().misses) == loads
    assert trial._evaluator is evaluator
    assert (result["slot"], result["block"], result["num_instances"], result["computed"]) == (7, 0, 4, 4)


def test_a_trial_takes_another_evaluator(tmp_path: Path) -> None:
    result = StepTrial(trial_config(tmp_path, None, evaluator=MOODY)).train()
    assert (result["tiam"], result["evaluations"], result["evaluations_alone"]) == (1.0, 8.0, 20.0)
