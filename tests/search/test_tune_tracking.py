"""Real Ray Tune trials on reused actors, forwarded to a real store."""

import time

import pytest
import ray
from mlflow import MlflowClient
from ray import tune

from keystep.search.tracking.tune_tracking import TuneTracking
from tests.search.tracked_search import MiniSearch, histories, make_spec, runs_of, setting

BLOCKS = 3


class Counting(tune.Trainable):
    """Two instances a block, all of them right in slot 1, none in slot 0."""

    def setup(self, config):
        self.block = 0

    def step(self):
        numbers = range(2 * self.block, 2 * self.block + 2)
        self.block += 1
        slot = self.config["slot"]
        return {
            "slot": slot,
            "outcomes": {number: float(slot) for number in numbers},
            "num_instances": 2 * self.block,
            "done": self.block == BLOCKS,
        }

    def reset_config(self, new_config):
        self.block = 0
        return True


@pytest.mark.slow
def test_blocks_of_real_trials_arrive(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    search = MiniSearch(make_spec(tmp_path, store, experiment="tuned"), tmp_path).start()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        refinement = setting(1).model_dump(mode="json")
        tune.Tuner(
            Counting,
            param_space={"slot": tune.grid_search([0, 1]), "refinement": refinement},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path / "ray"), callbacks=[TuneTracking(search.tracker)], verbose=0
            ),
        ).fit()
    finally:
        ray.shutdown()
    deadline = time.monotonic() + 60
    while search.tracker.num_pending and time.monotonic() < deadline:
        time.sleep(0.1)
    client = MlflowClient(tracking_uri=store)
    runs = runs_of(client, "tuned")
    assert {slot: len(found) for slot, found in runs.items()} == {"parent": 1, "0": 1, "1": 1}
    assert histories(client, runs) == {"0": [2, 4, 6], "1": [2, 4, 6]}
    assert [runs[slot][0].data.metrics["tiam"] for slot in ("0", "1")] == [0.0, 1.0]
    search.tracker.close(20, status="KILLED")
    assert {run[0].info.status for run in runs_of(client, "tuned").values()} == {"KILLED"}
