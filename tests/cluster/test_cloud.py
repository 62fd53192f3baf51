"""The configuration of Ray's cluster launcher, by Ray's own validator, and what is done with it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from keystep.cluster.targets import TARGETS
from keystep.cluster.targets.cloud_options import CloudOptions
from keystep.search.spec.loading import load_spec
from tests.cluster.tiny import keystep, programs_in, search_id, spec_in

IMAGE = "registry.example/keystep:0.1.0"
PROVIDERS = {"aws": {}, "gcp": {"project": "my-project"}}


def config(provider: str, **options: Any) -> dict[str, Any]:
    spec = load_spec("sd14", ["storage.path=s3://bucket/runs", "tracking.uri=http://mlflow:5000"])
    given = CloudOptions(provider=provider, image=IMAGE, **PROVIDERS[provider], **options)  # pyright: ignore[reportArgumentType]
    return yaml.safe_load(TARGETS["cloud"].plan(spec, given).text)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rays_own_validator_takes_it(provider: str) -> None:
    validate_config(config(provider))
    validate_config(prepare_config(config(provider)))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rays_own_validator_would_tell_a_wrong_one(provider: str) -> None:
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(config(provider) | {"idle_minutes": 5})


@pytest.mark.parametrize("provider", PROVIDERS)
def test_workers_are_spot_machines_that_scale_to_zero_and_the_head_is_not(provider: str) -> None:
    made = config(provider, nodes=16, gpus=4, cpus=48, idle_minutes=3)
    types = made["available_node_types"]
    head, spot = types[made["head_node_type"]], types["spot"]
    assert (spot["min_workers"], spot["max_workers"], made["max_workers"], made["idle_timeout_minutes"]) == (
        0,
        16,
        16,
        3,
    )
    assert spot["resources"] == {"CPU": 48, "GPU": 4} and head["resources"] == {"CPU": 0}
    is_spot = {
        "aws": lambda node: node.get("InstanceMarketOptions") == {"MarketType": "spot"},
        "gcp": lambda node: {"preemptible": True} in node.get("scheduling", []),
    }[provider]
    assert is_spot(spot["node_config"]) and not is_spot(head["node_config"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ray_asks_for_a_token_everywhere_and_the_dashboard_is_not_for_others(provider: str) -> None:
    made = config(provider)
    (start,) = [command for command in made["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    starts = [start, made["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert made["file_mounts"] == {"/home/keystep/.ray/auth_token": "~/.ray/auth_token"}


def test_the_job_waits_for_machines_and_reads_the_spec_that_was_written() -> None:
    made = config("aws", nodes=3)
    job = made["metadata"]["submit"]
    (write,) = made["head_setup_commands"]
    file = write.rpartition("> ")[2]
    assert job.startswith(
        "ray job submit --no-wait --submission-id JOB -- python -m keystep.cluster.scale_up --nodes 3 "
    )
    assert job.endswith(f" -- bash -c 'keystep doctor {file} && keystep search {file}'")


def test_the_cluster_is_made_before_the_job_is_submitted_and_goes_when_it_is_stopped(
    tmp_path: Path, own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray` and the cloud's package are played; what they are given is real."""
    (tmp_path / "boto3.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    fake = f"""#!/bin/bash
echo "$*" >> "{tmp_path}/played"
case "$*" in
    up*) cp "$3" "{tmp_path}/upped"; test ! -e "{tmp_path}/broken" || {{ echo "no quota" >&2; exit 1; }} ;;
    *"job status"*)
        test ! -e "{tmp_path}/away" || {{ cat "{tmp_path}/away" >&2; exit 1; }}
        echo "Status for job: RUNNING" ;;
    *"job logs"*) echo "trial 1" ;;
esac
"""
    monkeypatch.setenv("PATH", programs_in(tmp_path / "bin", ray=fake))
    options = ["--provider", "aws", "--image", IMAGE, "--set", "storage.path=s3://bucket/runs"]
    arguments = ["launch", spec_in(tmp_path), "--target", "cloud", *options]
    file = own_state / "keystep" / "launches" / f"{search_id(tmp_path)}.cloud.yaml"

    (tmp_path / "broken").touch()
    failed = keystep(*arguments)
    assert failed.exit_code == 2 and "no quota" in failed.output
    assert "Machines may be up by now, and cost money" in failed.output and f"ray down --yes {file}" in failed.output

    (tmp_path / "broken").unlink()
    (tmp_path / "played").unlink()
    assert keystep(*arguments).exit_code == 0
    assert (tmp_path / "upped").read_text() == keystep(*arguments, "--dry-run").stdout
    assert "running: job" in keystep("status", "tiny").output
    assert keystep("logs", "tiny", "--follow").output == "trial 1\n"
    (tmp_path / "away").write_text("ssh: connect to host 10.0.0.1 port 22: Connection timed out")
    unreached = keystep("status", "tiny")  # it may well run: launching once more would start a second driver
    assert unreached.exit_code == 2 and "Connection timed out" in unreached.output
    (tmp_path / "away").write_text("RuntimeError: Head node of cluster (keystep) not found!")
    assert "gone" in keystep("status", "tiny").output
    (tmp_path / "away").unlink()
    assert "the machines are gone" in keystep("stop", "tiny").output
    played = (tmp_path / "played").read_text().splitlines()
    done = [line.split()[0] for line in played]
    assert done[0] == "get-auth-token" and done[1] == "up" and done[-1] == "down"
    assert played[2].startswith(f"exec {file} ray job submit --no-wait --submission-id {search_id(tmp_path)}-")
