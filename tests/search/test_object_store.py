"""A search whose storage is a bucket of a real S3 server: moto's, on this machine."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import ray
import yaml
from click.testing import Result
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from keystep.search.choice.stored_searches import load_result
from keystep.search.cli import build_app
from keystep.search.storing.storage import Storage
from tests.search.mlflow_server import free_port
from tests.search.whole_search import CONFIRMED, PLAIN, PROMPTS, TRIALS

BUCKET = "bucket"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of an S3 server with an empty bucket; AWS's own variables say how to get in."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


def objects(address: str) -> list[str]:
    """Names of what is in the bucket, without the empty objects that stand for folders."""
    pages = boto3.client("s3", endpoint_url=address).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    names = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return [name for name in names if not name.endswith("/")]


def keystep(folder: Path, *arguments: object) -> Result:
    """The command line, with a spec that keeps all but its tracking in the bucket."""
    storage = {"path": f"s3://{BUCKET}/runs", "latents_gb": 0.2}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(PLAIN | {"storage": storage, "tracking": {"enabled": False}}))
    return CliRunner().invoke(build_app(), [*map(str, arguments)], env={"COLUMNS": "160"})


def test_files_are_written_read_listed_and_removed(server: str) -> None:
    storage = Storage(f"s3://{BUCKET}/runs")
    assert objects(server) == [], "the probe is taken away again"
    storage.write("searches/one/result.json", b"first")
    storage.write("searches/one/result.json", b"second")
    storage.write("searches/two/result.json", b"third")
    assert Storage(f"s3://{BUCKET}/runs", read_only=True).read("searches/one/result.json") == b"second"
    assert storage.folders("searches") == ["one", "two"] and storage.list("searches/one") == ["result.json"]
    assert storage.folders("nothing") == storage.list("nothing") == []
    storage.remove("searches/one")
    storage.remove("searches/two/result.json")
    storage.remove("searches/three")
    assert objects(server) == []
    with pytest.raises(OSError):
        storage.read("searches/one/result.json")


def test_a_bucket_that_is_not_there_is_an_error_before_anything_starts(server: str) -> None:
    with pytest.raises(ValueError, match=r"cannot write to s3://missing/runs .*an object store that this machine may"):
        Storage("s3://missing/runs")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_ends_goes_on_and_is_exported(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.chdir(tmp_path)
    try:
        said = keystep(tmp_path, "search", "tiny.yaml")
        assert said.exit_code == 0, said.output
        outcomes = [name for name in objects(server) if "/outcomes/" in name]
        again = keystep(tmp_path, "search", "tiny.yaml", "--fresh")
        assert again.exit_code == 0, again.output
    finally:
        ray.shutdown()
    assert [name for name in objects(server) if "/outcomes/" in name] == outcomes, "nothing is computed again"
    (search_id,) = Storage(f"s3://{BUCKET}/runs", read_only=True).folders("searches")
    result = load_result(search_id, f"s3://{BUCKET}/runs")
    assert result.status == "finished"
    assert Counter(trial.state for trial in result.trials) == {"complete": TRIALS}
    assert all(len(trial.values) == PROMPTS for trial in result.trials)
    assert len({Path(name).parent.name for name in outcomes}) <= 1 + TRIALS + CONFIRMED
    assert not [name for name in objects(server) if "/trials-" in name], "what Ray Tune kept is gone"
    config = tmp_path / "config.json"
    said = keystep(tmp_path, "export", search_id, "--storage", f"s3://{BUCKET}/runs", "--out", config, "--force")
    assert said.exit_code == 0 and config.exists(), said.output
