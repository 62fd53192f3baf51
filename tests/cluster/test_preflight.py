"""The preflight on a real Ray runtime with the embedded model, and its judgements on nodes that are made up."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import typer
import yaml
from ray.cluster_utils import Cluster

from keystep.cluster.checks import node_checks
from keystep.cluster.checks.node_checks import Check
from keystep.cluster.checks.node_facts import WorkFacts
from keystep.cluster.checks.preflight import doctor
from keystep.cluster.checks.tracking_check import tracking_trouble
from keystep.cluster.commands.doctor import doctor as command
from keystep.search.spec.search_spec import SearchSpec
from tests.search.evaluator_cases import small_spec

NAMES = [
    "nodes",
    "versions",
    "room for workers",
    "model, detector, prompts",
    "memory",
    "storage",
    "disk",
    "tracking",
    "clocks",
]


@pytest.fixture(scope="module")
def runtime() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
        yield
        ray.shutdown()


def spec_in(folder: Path, **changes) -> SearchSpec:
    tracking = {"uri": f"sqlite:///{folder}/mlflow.db"}
    return small_spec(folder / "runs", tracking=tracking, **changes)


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    assert [check.name for check in checks] == NAMES
    assert all(bool(check.advice) is not check.ok for check in checks)
    return {check.name: check for check in checks}


def test_all_is_well_and_nothing_is_left(runtime: None, tmp_path: Path) -> None:
    steps: list[str] = []
    checks = by_name(doctor(spec_in(tmp_path), on_step=steps.append))
    assert [check for check in checks.values() if not check.ok] == []
    assert "1 alive, 2 CPUs" in checks["nodes"].found
    assert "2 workers" in checks["room for workers"].found
    assert "cpu" in checks["model, detector, prompts"].found
    assert "torch" in checks["versions"].found
    assert "tracking" in steps and "clocks" in steps
    assert not list((tmp_path / "runs").glob("doctor-*"))
    assert not (tmp_path / "mlflow.db").exists()


def test_what_is_wrong_is_said_with_what_to_do(
    runtime: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "no detector").mkdir()
    spec = spec_in(
        tmp_path,
        detector={"id": str(tmp_path / "no detector")},
        storage={"path": str(tmp_path / "a file" / "runs"), "latents_gb": 1e9, "latents_path": str(tmp_path)},
        resources={"workers": 4, "cpus": 1},
    ).model_copy(
        update={
            "tracking": SearchSpec.model_fields["tracking"].default.model_copy(update={"uri": "http://127.0.0.1:9"})
        }
    )
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude={"space"}) | {"space": {"steps": [1]}}))
    with pytest.raises(typer.Exit) as ended:
        command(str(file), as_json=True)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    found = {check["name"]: check for check in json.loads(out)}
    assert list(found) == NAMES
    bad = [name for name, check in found.items() if not check["ok"]]
    assert bad == ["room for workers", "model, detector, prompts", "memory", "storage", "disk", "tracking"]
    assert all(found[name]["advice"] for name in bad)
    assert "resources.workers=2" in found["room for workers"]["advice"]
    assert "storage.latents_gb=" in found["disk"]["advice"]
    assert "preflight: clocks" in err


@pytest.mark.slow
def test_storage_that_is_not_shared_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose home is another folder sees another storage."""
    ray.shutdown()
    monkeypatch.setenv("RAY_worker_niceness", "0")
    homes = {name: tmp_path / name for name in ("one", "other")}
    cluster = Cluster()
    try:
        for home in homes.values():
            home.mkdir()
            monkeypatch.setenv("HOME", str(home))
            cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        monkeypatch.setenv("HOME", str(homes["one"]))
        spec = spec_in(tmp_path).model_copy(update={"storage": small_spec("~/runs").storage})
        # What an absolute path hides on this machine, a path in each node's own home shows.
        monkeypatch.setattr(SearchSpec, "anchored", lambda self: self)
        checks = by_name(doctor(spec, cluster.address))
        assert not checks["storage"].ok
        assert "does not show what was written elsewhere" in checks["storage"].found
        assert checks["versions"].ok and checks["clocks"].ok
        assert not list((homes["one"] / "runs").glob("doctor-*"))
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_no_cluster_at_an_address_is_a_users_mistake(tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 127\.0\.0\.1:9 .*--address"):
        doctor(spec_in(tmp_path), "127.0.0.1:9")


def test_tracking_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    spec = spec_in(tmp_path)
    client = MlflowClient(tracking_uri=spec.tracking.uri)
    client.create_experiment("another")
    database = sqlite3.connect(tmp_path / "mlflow.db")
    before = list(database.iterdump())
    assert tracking_trouble(spec) == ""
    after = [line for line in database.iterdump() if line not in before]
    assert [line for line in after if "keystep.doctor" in line] == []
    assert len(list(database.iterdump())) == len(before)
    away = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    assert "refused" in tracking_trouble(away)


def test_other_versions_are_named_with_their_node() -> None:
    found = {"a": {"torch": "2.1", "ray": "3"}, "b": {"torch": "2.1", "ray": "3"}, "c": {"torch": "2.2"}}
    check = node_checks.versions(found)
    assert not check.ok
    assert check.found == "ray none on c, 3 on a; torch 2.2 on c, 2.1 on a"


def test_workers_share_a_gpu_or_a_nodes_memory(tmp_path: Path) -> None:
    nodes = {"a": {"Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 10e9}}}
    half = small_spec(tmp_path, resources={"gpus": 0.5, "cpus": 1})
    facts = {"a": WorkFacts("an H100", peak_bytes=30 * 10**9, memory_bytes=80 * 10**9, seconds=9.0)}
    assert node_checks.memory(half, facts, nodes).ok
    facts = {"a": WorkFacts("an H100", peak_bytes=50 * 10**9, memory_bytes=80 * 10**9, seconds=9.0)}
    check = node_checks.memory(half, facts, nodes)
    assert not check.ok and "2 x 50.0 GB of 80.0 GB of its GPU" in check.found and "batch_size" in check.advice
    plain = small_spec(tmp_path, resources={"cpus": 1, "workers": 3})
    assert node_checks.memory(plain, {"a": WorkFacts("cpu", 3 * 10**9)}, nodes).ok
    assert not node_checks.memory(plain, {"a": WorkFacts("cpu", 4 * 10**9)}, nodes).ok


def test_a_clock_is_off_only_if_that_is_sure() -> None:
    assert node_checks.clocks({"a": (0.5, 0.01), "b": (-30.0, 29.0)}).ok
    check = node_checks.clocks({"a": (0.5, 0.01), "b": (-30.0, 2.0)})
    assert not check.ok and check.found == "b: -30.0 s"


def test_a_check_that_no_node_answered_has_not_passed(tmp_path: Path) -> None:
    for check in (node_checks.storage("/data", {}), node_checks.disks(small_spec(tmp_path), {})):
        assert (check.ok, check.found, check.advice) == (False, "no node answered", "see nodes")


def test_nodes_that_say_the_same_are_put_together() -> None:
    check = node_checks.storage("/data", {"a": "", "b": "no", "c": "no", "d": "never"})
    assert check.found == "/data: b and 1 more: no; d: never"
