"""Searches tracked in a real MLflow server: what is logged, and that no outage or kill loses or doubles anything."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from keystep.search.tracking.run_fields import experiment_name
from keystep.search.tracking.tracker import Tracker
from tests.search.mlflow_server import MlflowServer, free_port
from tests.search.tracked_search import (
    NUM_TRIALS,
    TIMESTEPS,
    MiniSearch,
    histories,
    load_table,
    make_spec,
    outcome,
    runs_of,
)

PATIENCE = 240  # seconds for what is left to be sent; a busy machine is slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server"), free_port())
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def client(server):
    return MlflowClient(tracking_uri=server.uri)


def settled(search: MiniSearch) -> bool:
    """Wait until all that was told is sent."""
    deadline = time.monotonic() + PATIENCE
    while search.tracker.num_pending and time.monotonic() < deadline:
        time.sleep(0.05)
    return search.tracker.num_pending == 0


def assert_whole(client, search: MiniSearch, experiment: str) -> dict:
    """Every run there once, every metric at every step once."""
    runs = runs_of(client, experiment)
    assert {slot: len(found) for slot, found in runs.items()} == dict.fromkeys(
        ["parent", "baseline", *map(str, range(NUM_TRIALS))], 1
    )
    assert histories(client, runs) == search.expected_histories()
    parent = runs["parent"][0].info.run_id
    saved = [metric.step for metric in client.get_metric_history(parent, "cost/evaluations_saved")]
    assert saved == list(range(1, NUM_TRIALS + 2))
    return {slot: found[0] for slot, found in runs.items()}


def test_a_search_reads_well(server, client, tmp_path):
    spec = make_spec(tmp_path, server.uri)
    search = MiniSearch(spec, tmp_path).start().run()
    for step in range(3):
        path = tmp_path / f"{step}.png"
        Image.new("RGB", (64, 64), (80 * step, 0, 0)).save(path)
        search.tracker.image("1 before", step, path)
    (tmp_path / "importances.html").write_text("<p>importances</p>")
    search.tracker.file(tmp_path / "importances.html", "plots")
    assert search.tracker.close(PATIENCE)

    runs = assert_whole(client, search, "shapes-sd on shapes_two, shapes_two_colored")
    parent = client.get_run(runs["parent"].info.run_id)
    assert parent.info.run_name == "mini" and parent.info.status == "FINISHED"
    assert parent.data.tags["keystep.search_id"] == spec.search_id
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for s, run in runs.items() if s != "parent")

    states = {slot: run.info.status for slot, run in runs.items()}
    assert states == {
        "parent": "FINISHED",
        "baseline": "FINISHED",
        "0": "FINISHED",
        "1": "KILLED",
        "2": "FAILED",
        "3": "FINISHED",
        "4": "FINISHED",
    }
    assert runs["1"].data.tags["keystep.p"] == "0.031"
    assert "worse than trial 0" in runs["1"].data.tags["keystep.reason"]
    assert "no weights" in runs["2"].data.tags["keystep.error"]
    assert runs["3"].info.run_name == "003 t601 x13 gsng"
    assert runs["3"].data.params == {
        "step_index": "3",
        "timestep": "601",
        "iterations": "13",
        "step_size": "20",
        "cn": "1",
        "iou": "1",
        "gsng": "0-4",
    }

    instances = search.validation.instances
    by_set = {name: [outcome(3, i.number) for i in instances if i.set_name == name] for name in spec.prompts.sets}
    metrics = runs["3"].data.metrics
    for name, values in by_set.items():
        assert metrics[f"sets/{name}"] == pytest.approx(np.mean(values))
        assert metrics[f"sets/{name}_low"] <= metrics[f"sets/{name}"] <= metrics[f"sets/{name}_high"]
    assert metrics["tiam"] == pytest.approx(np.mean([np.mean(values) for values in by_set.values()]))
    assert len(metrics) == 3 * 3 + 2  # with bounds, and what it cost

    curve = client.get_metric_history(parent.info.run_id, "tiam_by_timestep")
    assert {metric.step for metric in curve} == {501, 901}  # slots 0 and 4: without GSNg and complete
    assert [m.step for m in client.get_metric_history(parent.info.run_id, "tiam_by_timestep_gsng")] == [601]
    best = [m.value for m in client.get_metric_history(parent.info.run_id, "best_tiam")]
    means = [np.mean([outcome(slot, i.number) for i in instances]) for slot in range(NUM_TRIALS)]
    assert best == pytest.approx([means[0], means[0], means[0], means[3], means[4]])
    spent = 100 + sum(10 * len(search.record(slot).values) for slot in range(NUM_TRIALS))
    tried = sum(bool(search.record(slot).values) for slot in range(NUM_TRIALS))
    plain = 100 + 40 * len(instances) * tried  # those stopped early would have gone to their end
    assert parent.data.metrics["cost/evaluations_spent"] == spent
    assert parent.data.metrics["cost/evaluations_plain"] == plain
    assert parent.data.metrics["cost/evaluations_saved"] == pytest.approx(1 - spent / plain)
    assert parent.data.metrics["cost/worker_seconds"] == 5 + sum(
        2 * len(search.record(slot).values) for slot in range(NUM_TRIALS)
    )
    assert runs["3"].data.metrics["cost/worker_seconds"] == 2.0 * len(search.record(3).values)
    assert parent.data.metrics["held_out/gain"] == pytest.approx(0.5)

    note = parent.data.tags["mlflow.note.content"]
    assert "keystep export mini" in note or "`--force`" in note
    assert "| all sets | 50.0 [" in note
    assert {i.dataset.name.split("/")[0] for i in parent.inputs.dataset_inputs} == set(spec.prompts.sets)
    assert len(parent.inputs.dataset_inputs) == 4

    files = {
        file.path for folder in (None, "plots", "images") for file in client.list_artifacts(parent.info.run_id, folder)
    }
    assert {"spec.yaml", "versions.json", "outcomes.json", "plots/tiam_by_timestep.png"} <= files
    assert {"plots/best_so_far.png", "plots/held_out.png", "plots/importances.html", "plots/study.html"} <= files
    assert sum(name.startswith("images/1 before+step+") and name.endswith(".png") for name in files) == 3
    rows = load_table(client, runs["1"].info.run_id, "outcomes.json", tmp_path)
    assert [(row["prompt"], row["seed"], row["tiam"]) for row in rows] == [
        (i.prompt.text, i.seed, outcome(1, i.number)) for i in search.validation.blocks[0]
    ]


@pytest.mark.slow
def test_a_server_killed_in_mid_search_loses_and_doubles_nothing(server, client, tmp_path):
    """Nor does one that is not there from the beginning to the end: what it missed is sent at the next start."""
    search = MiniSearch(make_spec(tmp_path, server.uri, experiment="killed"), tmp_path / "killed").start()
    search.run(0, 6)
    assert settled(search)
    search.pause = 0.1
    search.run(6, 9)
    server.kill()
    try:
        search.run(9, 14)
        assert search.tracker.num_pending > 0
        late = MiniSearch(make_spec(tmp_path, server.uri, experiment="late"), tmp_path / "late").start().run(0, 12)
        before = time.monotonic()
        assert not late.tracker.close(5)
        assert time.monotonic() - before < 8
        assert "events are kept" in late.tracker.status
    finally:
        server.start()
    search.run(14)
    assert search.tracker.close(PATIENCE)
    assert_whole(client, search, "killed")

    again = MiniSearch(late.tracker.spec, tmp_path / "late")
    assert not again.tracker.is_through()
    again.start().run()
    assert again.tracker.close(PATIENCE)
    assert_whole(client, again, "late")


def test_a_killed_search_goes_on_in_the_same_runs(server, client, tmp_path):
    spec = make_spec(tmp_path, server.uri, experiment="resumed")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from tests.search.tracked_search import MiniSearch, make_spec\n"
        "folder = Path(sys.argv[1])\n"
        "search = MiniSearch(make_spec(folder, sys.argv[2], experiment='resumed'), folder).start().run(0, 9)\n"
        "import time\n"
        "while search.tracker.num_pending > 3: time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), server.uri], cwd=Path.cwd(), check=False)
    assert done.returncode == -9
    before = runs_of(client, "resumed")
    search = MiniSearch(spec, tmp_path).start().run()
    assert search.tracker.close(PATIENCE)
    after = assert_whole(client, search, "resumed")
    assert all(after[slot].info.run_id == found[0].info.run_id for slot, found in before.items())
    assert after["parent"].info.status == "FINISHED"

    again = MiniSearch(spec, tmp_path).start().run()
    assert again.tracker.close(PATIENCE)
    assert_whole(client, again, "resumed")


def test_runs_are_found_again_though_the_journal_is_lost(server, client, tmp_path):
    spec = make_spec(tmp_path, server.uri, experiment="moved")
    first = MiniSearch(spec, tmp_path / "here").start().run(0, 13)
    assert first.tracker.close(PATIENCE, status="KILLED")
    assert runs_of(client, "moved")["parent"][0].info.status == "KILLED"
    second = MiniSearch(spec, tmp_path / "there").start().run()
    assert second.tracker.close(PATIENCE)
    runs = runs_of(client, "moved")
    assert {slot: len(found) for slot, found in runs.items()} == dict.fromkeys(
        ["parent", "baseline", *map(str, range(NUM_TRIALS))], 1
    )
    assert histories(client, runs) == second.expected_histories()

    fresh = MiniSearch(spec, tmp_path / "there").start(fresh=True).run(0, 4)
    assert fresh.tracker.close(PATIENCE)
    assert len(runs_of(client, "moved")["parent"]) == 2


def test_no_secret_is_logged(server, client, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KEYSTEP_CANARY", "canary-in-the-environment")
    uri = server.uri.replace("://", "://me:hunter2@")
    spec = make_spec(tmp_path, uri, experiment="secret", artifact_location=None)
    search = MiniSearch(spec, tmp_path).start().run()  # trial 2 fails with an address that holds hunter2
    assert search.tracker.close(PATIENCE)
    assert_whole(client, search, "secret")
    assert "hunter2" not in search.tracker.status + caplog.text
    files = [path for folder in (server.folder, tmp_path / "tracking") for path in folder.rglob("*") if path.is_file()]
    assert server.database in files and (tmp_path / "tracking" / "spool.jsonl") in files
    for path in files:
        content = path.read_bytes()
        assert b"hunter2" not in content, path
        assert b"canary-in-the-environment" not in content, path


def test_a_refused_event_does_not_hold_up_the_others(server, client, tmp_path, caplog):
    search = MiniSearch(make_spec(tmp_path, server.uri, experiment="refused"), tmp_path).start().run(0, 3)
    search.tracker._tell("odd", "metrics", {"metrics": {"a\nname": 1.0}, "models": {}})  # MLflow takes no such name
    search.run(3)
    assert search.tracker.close(PATIENCE)
    assert "does not take odd, which is left out" in caplog.text
    assert_whole(client, search, "refused")


@pytest.mark.parametrize("what", ["run", "parent", "experiment"])
def test_what_is_deleted_while_the_search_goes_on_is_restored_and_told(server, client, tmp_path, caplog, what):
    name = f"deleted {what}"
    search = MiniSearch(make_spec(tmp_path, server.uri, experiment=name), tmp_path).start().run(0, 4)
    assert settled(search)
    runs = runs_of(client, name)
    if what == "experiment":
        client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    else:
        client.delete_run(runs["parent" if what == "parent" else "0"][0].info.run_id)
    search.run(4)
    assert search.tracker.close(PATIENCE)
    after = assert_whole(client, search, name)
    assert {slot: after[slot].info.run_id for slot in runs} == {
        slot: found[0].info.run_id for slot, found in runs.items()
    }
    assert after["parent"].info.status == "FINISHED" and "mlflow.note.content" in after["parent"].data.tags
    assert "it is restored" in caplog.text and "left out" not in caplog.text


@pytest.mark.parametrize("slot", ["0", "parent"])
def test_what_is_gone_for_good_is_made_again_and_told_again(tmp_path, caplog, slot):
    """As `mlflow gc` removes it."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    search = MiniSearch(make_spec(tmp_path, uri, experiment="gone"), tmp_path).start().run(0, 4)
    assert settled(search)
    client = MlflowClient(tracking_uri=uri)
    run = runs_of(client, "gone")[slot][0].info.run_id
    client.delete_run(run)
    client._tracking_client.store._hard_delete_run(run)
    search.run(4)
    assert search.tracker.close(PATIENCE)
    if slot == "parent":  # children of the one that is gone stay behind
        experiment = client.get_experiment_by_name("gone").experiment_id
        for child in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run}'"):
            client.delete_run(child.info.run_id)
    after = assert_whole(client, search, "gone")
    assert after[slot].info.run_id != run and "sent again" in caplog.text


def test_two_searches_that_start_at_once_lose_nothing(tmp_path):
    """On one experiment of one database, neither of which is there yet."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.search.tracked_search import MiniSearch, make_spec\n"
        "folder, uri, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])\n"
        "spec = make_spec(folder, uri, experiment='both')\n"
        "spec = spec.model_copy(update={'search': spec.search.model_copy(update={'seed': seed})})\n"
        "search = MiniSearch(spec, folder).start().run(0, 6)\n"
        f"assert search.tracker.close({PATIENCE}), search.tracker.status\n"
    )
    folders = [tmp_path / "one", tmp_path / "other"]
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(folder), uri, str(seed)], stderr=subprocess.PIPE, text=True)
        for seed, folder in enumerate(folders)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0] and not any("left out" in text for text in said), said
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("both").experiment_id
    parents = client.search_runs([experiment], "tags.keystep.attempt != ''")
    assert len(parents) == 2
    for parent in parents:
        assert parent.data.params["search"] == "tpe, paired pruner" and parent.info.status == "FINISHED"
        assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"spec.yaml", "versions.json"}
        assert len(parent.inputs.dataset_inputs) == 4
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        assert sorted(child.data.tags["keystep.slot"] for child in children) == ["0", "baseline"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_calls_return_at_once_and_never_raise(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    search = MiniSearch(make_spec(tmp_path, f"http://127.0.0.1:{free_port()}"), blocked).start()
    durations = []
    for step in search.steps():
        before = time.perf_counter()
        step()
        durations.append(time.perf_counter() - before)
    assert np.median(durations) < 0.005
    assert not search.tracker.close(3)


def test_tracking_can_be_off(tmp_path):
    spec = make_spec(tmp_path, "sqlite:///never.db", enabled=False)
    search = MiniSearch(spec, tmp_path).start().run()
    assert search.tracker.close() and search.tracker.status == "Not tracked"
    assert not (tmp_path / "tracking").exists()


def test_a_store_that_lost_its_runs_gets_everything_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = make_spec(tmp_path, "sqlite:///mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    for _ in range(2):
        search = MiniSearch(spec, tmp_path).start().run()
        assert search.tracker.close(PATIENCE)
        runs = assert_whole(client, search, experiment_name(spec))
        for run in runs.values():
            client.delete_run(run.info.run_id)


def test_a_tracker_survives_pickling_as_one_that_has_not_started(tmp_path):
    import pickle

    search = MiniSearch(make_spec(tmp_path, "postgresql://me:hunter2@host/db", enabled=True), tmp_path)
    pickled = pickle.dumps(search.tracker)
    assert b"hunter2" not in pickled
    tracker = pickle.loads(pickled)
    assert (
        isinstance(tracker, Tracker)
        and tracker.status == "Not tracked"
        and tracker.spec == search.tracker.spec.without_secrets()
    )
    assert len(TIMESTEPS) == 10
