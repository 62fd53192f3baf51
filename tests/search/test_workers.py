"""Workers with the real model in real Ray: warm, and killed in the middle of a block."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from keystep.core.config import Refinement
from keystep.core.prompts import Entity, Prompt
from keystep.search.checks.preflight import inspect
from keystep.search.images.evaluator import Evaluator
from keystep.search.images.outcomes import Outcome
from keystep.search.runtime.failures import WorkFailed, in_a_line
from keystep.search.spec.instances import Instance, make_parts
from keystep.search.work.batches import BlockDone
from keystep.search.work.pool import WorkerPool
from keystep.search.work.trial import StepTrial
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
        (victim,) = finished.pop().workers
        killer = kill_when(tmp_path / "run", 3, victim)
        outcomes = pool.run([(None, first), (None, second)], finished.append)
        killer.join()
        assert [done.refinement for done in finished] == [None, None]
        assert {number: what_was_seen(kept) for number, kept in outcomes["unrefined"].items()} == expected(
            tmp_path / "plain", None
        )
        rows = stored_rows(tmp_path / "run")
        assert len(rows) == len(set(rows)) == len(validation(spec).instances)
        assert first[0].number not in {number for done in finished for number in done.computed}

        again = pool.run([(None, first), (None, second)], finished.append)
        assert again == outcomes and [done.computed for done in finished[2:]] == [frozenset()] * 2
        assert stored_rows(tmp_path / "run") == rows


def test_workers_load_once_whatever_is_asked(runtime: None, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    part = validation(spec)
    states: list[dict[str, Any]] = []
    with WorkerPool(spec, 2) as pool:
        pool.on_state = lambda state: states.append(dict(state))
        pool.open()
        assert pool.ask(inspect, make_parts(spec), 2).timesteps[0] > 0
        pool.run([(None, block) for block in part.blocks])
        pool.plan_trials(part, 0)
        trial = StepTrial(trial_config(pool, refined(2, 2)))
        while not trial.train()["done"]:
            pool.look()
        pool.drop(0)
        pool.run([(refined(2, 2), block) for block in part.blocks])
        until = time.monotonic() + 60.0
        while not (states and states[-1]["busy"] == 0 and states[-1]["starting"] == 0) and time.monotonic() < until:
            pool.look()
            time.sleep(0.1)
        assert states[-1]["loads"] == sum(states[-1]["workers"].values()) == 2


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


def trial_config(pool: WorkerPool, setting: Refinement | None, slot: int = 0) -> dict[str, Any]:
    plain = None if setting is None else setting.model_dump(mode="json")
    return {"pool": pool.name, "refinement": plain, "slot": slot}


def test_a_trial_is_told_block_after_block_and_again_if_its_process_died(runtime: None, tmp_path: Path) -> None:
    spec, setting = small_spec(tmp_path / "run", resources={"batch_size": 1}), refined(2, 2)
    part = validation(spec)
    with WorkerPool(spec, 1) as pool:
        pool.plan_trials(part, 0)
        results = [StepTrial(trial_config(pool, setting, slot=5)).train()]
        trial = StepTrial(trial_config(pool, setting, slot=5))
        results += [trial.train(), trial.train()]
        told = [(each["slot"], each["block"], each["num_instances"], each["done"], each["again"]) for each in results]
        assert told == [(5, 0, 4, False, False), (5, 0, 4, False, True), (5, 1, 8, True, False)]
        assert results[0]["outcomes"] == results[1]["outcomes"]
        plain = expected(tmp_path / "plain", setting)
        outcomes = {number: value for result in results[1:] for number, value in result["outcomes"]}
        assert outcomes == {number: outcome["tiam"] for number, outcome in plain.items()}
        assert sum(each["evaluations_alone"] for each in results[1:]) == sum(
            outcome["evaluations_alone"] for outcome in plain.values()
        )
        assert results[2]["tiam"] == pytest.approx(part.objective(outcomes))
        assert [each["computed"] for each in results] == [4, 4, 4]
        pool.drop(5)
        assert pool.in_vain() == (0.0, 0.0)


def test_what_a_trial_did_not_need_is_counted(runtime: None, tmp_path: Path) -> None:
    """One worker: it makes the second block ahead, and the trial ends after the first."""
    spec, setting = small_spec(tmp_path), refined(2, 2)
    part = validation(spec)
    with WorkerPool(spec, 1) as pool:
        pool.plan_trials(part, 0)
        StepTrial(trial_config(pool, setting)).train()
        wait_until(lambda: len(stored_rows(tmp_path)) == 8)
        wait_until(lambda: pool.ask(nothing) is None)  # the last answer has come
        pool.drop(0)
        ahead = {instance.number for instance in part.blocks[1]}
        made = Evaluator(spec).evaluate(setting, part.instances)
        evaluations, seconds = pool.in_vain()
        assert evaluations == sum(outcome.evaluations for number, outcome in made.items() if number in ahead)
        assert seconds > 0


def test_a_worker_leaves_what_nobody_wants(runtime: None, tmp_path: Path) -> None:
    spec = small_spec(tmp_path, sampler={"num_inference_steps": 200}, resources={"batch_size": 8})
    spec = spec.model_copy(update={"space": spec.space.model_copy(update={"steps": (1,)})})
    part = validation(spec)
    with WorkerPool(spec, 1) as pool:
        pool.ask(nothing)
        pool.plan_trials(part, 0)
        pool.begin(0, refined(1, 1))
        time.sleep(1.0)  # of the seconds that 200 steps of 4 images take
        pool.drop(0)
        began = time.monotonic()
        pool.ask(nothing)
        evaluations, _ = pool.in_vain()
        assert 0 < evaluations < 4 * 400 and not stored_rows(tmp_path)
        assert time.monotonic() - began < 20.0


def test_an_evaluator_of_another_kind(runtime: None, tmp_path: Path) -> None:
    with WorkerPool(small_spec(tmp_path), 1, MOODY) as pool:
        pool.plan_trials(validation(small_spec(tmp_path)), 0)
        result = StepTrial(trial_config(pool, None)).train()
    assert (result["tiam"], result["evaluations"], result["evaluations_alone"]) == (1.0, 8.0, 20.0)


def test_work_does_not_go_from_one_dead_worker_to_the_next(runtime: None, tmp_path: Path) -> None:
    """Both die while they are idle, as with their node; one try is left after the first."""
    states: list[dict[str, Any]] = []
    with WorkerPool(small_spec(tmp_path, resources={"max_failures": 1}), 2, MOODY) as pool:
        pool.on_state = lambda state: states.append(dict(state))
        pool.open()
        pool.ask(nothing)
        wait_until(lambda: pool.look() or (bool(states) and sum(states[-1]["workers"].values()) == 2))
        pids: set[int] = set()
        wait_until(lambda: pids.update(pool.map(process, [(), ()])) or len(pids) == 2)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert pool.ask(nothing) is None


def process(evaluator: Any) -> int:
    """Of the worker, which is busy for a moment."""
    time.sleep(1.0)
    return os.getpid()


def nothing(evaluator: Any) -> None:
    """Nothing: what answers has its models, and no other work."""


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 120.0
    while not holds():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)
