"""The trials of a search on real Ray Tune and Optuna, with workers and drivers killed on the way."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.trial import TrialState
from ray import tune

from keystep.search.settings.ledger import TrialRecord
from tests.search.by_hand import drive
from tests.search.small_search import (
    logged,
    make_spec,
    run,
    start_driver,
    study_folder,
    summary,
    told,
    wait_for,
    winner,
    worked,
)
from tests.search.stand_in import BEST_STEP, store_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """What the search finds when nothing goes wrong and one trial runs after the other."""
    return drive(make_spec(tmp_path_factory.mktemp("expected")))


class Seen(tune.Callback):
    """Ray Tune's side of it."""

    def __init__(self) -> None:
        self.trials: dict[int, Any] = {}
        self.order: list[tuple[str, int]] = []

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.order.append(("start", trial.config["slot"]))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.trials[trial.config["slot"]] = trial
        self.order.append(("end", trial.config["slot"]))

    on_trial_error = on_trial_complete


def test_pruned_in_optuna_is_stopped_in_tune_and_a_killed_worker_changes_nothing(
    expected: list[TrialRecord], tmp_path: Path
):
    spec, seen, ended = make_spec(tmp_path), Seen(), []
    records = run(spec, callbacks=[seen], on_end=ended.append, die=[4, 1])
    assert summary(records) == summary(expected)
    assert winner(records).refinement.iterref.step_index in (BEST_STEP - 1, BEST_STEP, BEST_STEP + 1)
    assert (tmp_path / "stand_in" / "died").exists()
    assert Counter(logged(spec, "begin"))[4, 1] == 2  # killed in it, done again
    assert set(Counter(logged(spec, "done")).values()) == {1}
    assert sorted(record.slot for record in ended) == list(range(12))
    assert {seen.trials[record.slot].status for record in records} == {"TERMINATED"}
    for record in records:
        blocks = {block for slot, block in logged(spec, "done") if slot == record.slot}
        seen_blocks = len(record.values) // 8
        assert blocks >= set(range(seen_blocks)), "what was made ahead may be more"
        assert (seen_blocks == 4) is (record.state == "complete")
        assert record.evaluations == 10.0 * len(record.values)
        assert record.evaluations_alone == 25.0 * len(record.values)
        assert record.seconds > 0
    assert {record.state for record in records} == {"complete", "pruned"}
    assert all(len(states) == 1 for states in told(spec).values()) and len(told(spec)) == 12
    assert [path.name for path in study_folder(spec).iterdir() if path.is_dir()] == []


def test_a_trial_that_raises_is_failed_and_the_search_goes_on(tmp_path: Path):
    spec = make_spec(tmp_path / "tune", resources={"max_failures": 1, "workers": 1})
    records = run(spec, fail=[6])
    assert (records[6].state, records[6].reason) == ("failed", "ZeroDivisionError: slot 6 cannot be done")
    by_hand = drive(make_spec(tmp_path / "hand"), fail=(6,))
    assert [row[:-1] for row in summary(records)] == [row[:-1] for row in summary(by_hand)]
    assert told(spec)[6] == [TrialState.FAIL]
    assert all(len(states) == 1 for states in told(spec).values()) and len(told(spec)) == 12


def test_when_all_fails_the_error_says_so_and_the_same_call_goes_on(expected: list[TrialRecord], tmp_path: Path):
    spec = make_spec(tmp_path, resources={"max_failures": 0})
    with pytest.raises(ValueError, match=r"ZeroDivisionError: slot [2-4] cannot be done\n.*run the same command again"):
        run(make_spec(tmp_path, resources={"max_failures": 0, "workers": 1}), fail=list(range(12)))
    assert told(spec) == {}
    assert summary(run(spec)) == summary(expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # imports alone take minutes on a busy machine
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_or_interrupted_is_gone_on_from(
    how: signal.Signals, expected: list[TrialRecord], tmp_path: Path
):
    spec = make_spec(tmp_path)
    driver = start_driver(spec, seconds=0.2)
    try:
        wait_for(lambda: len(logged(spec, "done")) >= 9, driver)
        os.killpg(driver.pid, how) if how == signal.SIGINT else os.kill(driver.pid, how)
        output, errors = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert "ended with" not in output
    assert ("KeyboardInterrupt" in errors) is (how == signal.SIGINT)
    wait_for(lambda: len(logged(spec, "begin")) - len(logged(spec, "done")) <= 2, None)
    before = told(spec)
    assert 0 < len(before) < 12
    assert summary(run(spec)) == summary(expected)
    done, begun = Counter(logged(spec, "done")), Counter(logged(spec, "begin"))
    assert set(done) >= {(r.slot, block) for r in expected for block in range(len(r.values) // 8)}
    assert set(done.values()) == {1} and sum(begun.values()) <= len(done) + 2  # those in flight at the kill
    after = told(spec)
    assert all(len(states) == 1 for states in after.values()) and len(after) == 12
    assert {trial: after[trial] for trial in before} == before
    assert summary(run(spec)) == summary(expected)  # there is nothing left to do
    assert told(spec) == after


def test_workers_that_wait_for_a_slow_trial_stay(tmp_path: Path):
    spec = make_spec(tmp_path, resources={"workers": 3})
    run(spec, together=3, seconds=0.1, slow=[0, 0.5])
    slots = worked(spec).values()
    assert len(slots) == 3 and all(max(each) > 2 for each in slots), "slots 3 to 5 wait for slot 0"
    assert len(list(store_of(spec).glob("*-there"))) == 3, "each has loaded once"


def test_trials_shorter_than_the_start_of_a_worker_leave_it_alone(tmp_path: Path):
    spec = make_spec(tmp_path, search={"lookahead": 12})
    run(spec, seconds=0.3, late=3.0)
    assert len(worked(spec)) == 2
    assert len(list(store_of(spec).glob("*-there"))) == 2


def test_a_slow_worker_holds_no_trial_back(expected: list[TrialRecord], tmp_path: Path):
    spec = make_spec(tmp_path, resources={"workers": 3})
    began = time.monotonic()
    records = run(spec, together=3, seconds=0.2, slow_worker=20.0)
    assert summary(records) == summary(expected)
    again = Counter(logged(spec, "begin")) - Counter(logged(spec, "done"))
    assert again, "what the slow one was at was given to another"
    assert time.monotonic() - began < 60.0, "the slow one had two batches at the most"


def test_no_time_begins_no_trial(tmp_path: Path):
    assert run(make_spec(tmp_path, resources={"max_hours": 1e-9})) == []


def test_no_room_for_a_worker_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match="a worker wants cpus 64 and gpus 0, and Ray has 2 CPUs"):
        run(make_spec(tmp_path, resources={"cpus": 64, "workers": None}))


def test_signals_and_environment_are_as_before(tmp_path: Path):
    handler, environment = signal.getsignal(signal.SIGINT), dict(os.environ)
    run(make_spec(tmp_path, search={"trials": 1}))
    assert signal.getsignal(signal.SIGINT) is handler
    assert dict(os.environ) == environment
