"""What every target would submit, what it refuses, and what is remembered of it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from keystep.cluster.launching.launch import spec_to_launch
from keystep.cluster.sending.launches import Launch, find_launch
from keystep.cluster.targets import TARGETS
from keystep.search.spec.loading import load_spec, parse_spec
from tests.cluster.tiny import keystep, programs_in, search_id, spec_in

SECRET = "hunter2-s3cr3t"
SHARED = ["--set", "storage.path=/mnt/keystep/runs"]
BUCKET = ["--set", "storage.path=s3://bucket/runs"]
GIVEN = {
    "local": [],
    "ray": ["--env", "HF_TOKEN", *SHARED],
    "kuberay": ["--image", "registry.example/keystep:0.1.0", "--claim", "shared", "--secret", "hub", *SHARED],
    "slurm": ["--nodes", "2", "--env", "HF_TOKEN", "--setup", "module load cuda"],
    "cloud": ["--provider", "aws", "--image", "registry.example/keystep:0.1.0", *BUCKET],
}


def planned(folder: Path, target: str, *more: object) -> str:
    done = keystep("launch", spec_in(folder), "--target", target, "--dry-run", *GIVEN[target], *more)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(folder: Path, target: str, *options: object) -> str:
    done = keystep("launch", spec_in(folder), "--target", target, "--dry-run", *options)
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def sent_spec(target: str, text: str) -> str:
    """The spec in what is submitted, taken out as that target's own reader would."""
    if target == "local":
        return text
    if target == "slurm":
        return text.split("<< 'keystep-spec'\n")[1].split("\nkeystep-spec\n")[0]
    documents: list[Any] = list(yaml.safe_load_all(text))
    if target == "ray":
        (content,) = documents[0]["files"].values()
        return content
    if target == "kuberay":
        return documents[0]["data"]["spec.yaml"]
    (command,) = documents[0]["head_setup_commands"]
    script = f'printf() {{ command printf "$@"; }}; {command.split("&&", 1)[1].rpartition(">")[0]}'
    return subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True).stdout


def test_every_target_has_an_example_here() -> None:
    assert GIVEN.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_a_dry_run_prints_the_spec_as_resolved_and_submits_nothing(
    target: str, tmp_path: Path, own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    text = planned(tmp_path, target, "--set", "search.seed=7")
    sent = parse_spec(sent_spec(target, text), "sent")
    assert sent.search.seed == 7
    assert sent.search_id == load_spec(spec_in(tmp_path), ["search.seed=7"]).search_id
    assert not own_state.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "local"])
def test_what_runs_there_is_the_command_that_goes_on_with_a_search(target: str, tmp_path: Path) -> None:
    assert "keystep search " in planned(tmp_path, target)
    assert "--fresh" not in planned(tmp_path, target)
    assert "keystep doctor " in planned(tmp_path, target)
    assert "keystep doctor " not in planned(tmp_path, target, "--skip-doctor")


@pytest.mark.parametrize("target", TARGETS)
def test_the_value_of_a_secret_appears_nowhere(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_URI", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, f"https://{SECRET}")
    assert SECRET not in planned(tmp_path, target, "--set", "tracking={uri: null}")


@pytest.mark.parametrize("target", ["ray", "kuberay", "cloud"])
def test_a_search_is_not_tracked_in_a_file_that_is_lost_with_the_cluster(target: str, tmp_path: Path) -> None:
    """Without an address, the environment there has to name one; else the job ends before anything runs."""
    guard = "${MLFLOW_TRACKING_URI:?is not set on the cluster"
    assert guard in planned(tmp_path, target, "--set", "tracking={uri: null}")
    assert guard not in planned(tmp_path, target, "--set", "tracking={uri: 'http://mlflow:5000'}")
    assert guard not in planned(tmp_path, target, "--set", "tracking={enabled: false}")


@pytest.mark.parametrize("target", TARGETS)
def test_a_password_in_the_spec_is_refused_and_not_shown(target: str, tmp_path: Path) -> None:
    password = f"postgresql://me:{SECRET}@host/mlflow"
    said = refused(tmp_path, target, *GIVEN[target], "--set", f"tracking={{uri: '{password}'}}")
    assert "tracking.uri holds a password" in said and "MLFLOW_TRACKING_URI" in said
    assert SECRET not in said


@pytest.mark.parametrize("target", ["ray", "kuberay", "cloud"])
def test_what_a_cluster_would_lose_is_refused(target: str, tmp_path: Path) -> None:
    assert "storage.path is ./runs" in refused(tmp_path, target, *GIVEN[target], "--set", "storage.path=./runs")
    tracked = ["--set", "tracking={uri: 'sqlite:///mlflow.db'}"]
    assert "tracking.uri is sqlite:///mlflow.db" in refused(tmp_path, target, *GIVEN[target], *tracked)
    prompts = tmp_path / "mine.csv"
    prompts.write_text("prompt,entities\na photo of a red circle,red circle\n")
    relative = ["--set", "prompts.sets=[mine.csv]", "--set", "prompts.validation=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert "prompts.sets: mine.csv is a file on this machine" in refused(
            tmp_path, target, *GIVEN[target], *relative
        )


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("kuberay", [*SHARED], "--target kuberay needs --image"),
        ("kuberay", [*GIVEN["kuberay"], "--image", "keystep"], "image: must be an image with a tag or digest"),
        ("kuberay", [*GIVEN["kuberay"], "--namespace", "a b"], "namespace: must be lower-case letters"),
        ("kuberay", [*GIVEN["kuberay"], "--memory", "lots"], "memory: must be a size such as 32Gi"),
        ("kuberay", GIVEN["kuberay"][:2] + SHARED, "name the PersistentVolumeClaim that holds it with --claim"),
        ("kuberay", [*GIVEN["kuberay"], "--mount", "/data"], "the pods mount claim shared at /data"),
        ("slurm", ["--partition", "gpu\n#SBATCH --uid=0"], "partition: must be letters, digits"),
        ("slurm", ["--time", "soon"], "time: must be a time such as 08:00:00"),
        ("slurm", ["--setup", "true\nfalse"], "setup.0: must be one line"),
        ("slurm", ["--env", f"HF_TOKEN={SECRET}"], "without its value"),
        (
            "slurm",
            ["--namespace", "default"],
            "--namespace is no option of --target slurm (it takes --skip-doctor, --nodes",
        ),
        ("local", ["--nodes", "2"], "--nodes is no option of --target local (it takes --skip-doctor)"),
        ("ray", ["--address", f"http://me:{SECRET}@host:8265", *SHARED], "address: must be like http://HOST:8265"),
        ("ray", ["--working-dir", "nowhere", *SHARED], "--working-dir nowhere is no folder"),
        ("cloud", ["--provider", "azure", *GIVEN["cloud"][2:]], "provider: Input should be 'aws' or 'gcp'"),
        ("cloud", ["--provider", "gcp", *GIVEN["cloud"][2:]], "--project: Google Cloud wants the id"),
        ("cloud", GIVEN["cloud"][:4] + SHARED, "cloud machines share no disk: --set storage.path=s3://bucket/prefix"),
        ("kubray", [], "--target kubray: there is none called so; did you mean 'kuberay'?"),
    ],
)
def test_mistakes_are_told_plainly(target: str, options: list[str], said: str, tmp_path: Path) -> None:
    told = refused(tmp_path, target, *options)
    assert said in told
    assert "Traceback" not in told
    assert SECRET not in told


def test_a_password_in_the_address_from_the_environment_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://me:{SECRET}@host:8265")
    told = refused(tmp_path, "ray", *GIVEN["ray"])
    assert "RAY_API_SERVER_ADDRESS is not a valid RayOptions" in told
    assert SECRET not in told


def test_a_built_in_spec_uses_all_the_machine_unless_told_otherwise(tmp_path: Path) -> None:
    assert load_spec("shapes-sd").resources.workers == 2
    assert spec_to_launch("shapes-sd", []).resources.workers is None
    assert spec_to_launch("shapes-sd", ["resources.workers=3"]).resources.workers == 3
    assert spec_to_launch(str(spec_in(tmp_path)), []).resources.workers == 1


def test_ray_gets_secrets_by_name_and_a_search_that_needs_them_checks(tmp_path: Path) -> None:
    job = yaml.safe_load(planned(tmp_path, "ray", "--address", "http://head:8265"))
    assert job["address"] == "http://head:8265"
    assert job["submission_id"] == search_id(tmp_path)
    assert job["runtime_env"] == {"env_vars": {"HF_TOKEN": "${HF_TOKEN}"}}
    programs = programs_in(tmp_path / "bin", keystep="#!/bin/bash\necho ran $*\n")
    without = subprocess.run(
        ["/bin/bash", "-c", job["entrypoint"]], env={"PATH": programs}, capture_output=True, text=True
    )
    assert without.returncode != 0 and "HF_TOKEN: is not set on the cluster" in without.stderr
    having = {"PATH": programs, "HF_TOKEN": SECRET}
    done = subprocess.run(["/bin/bash", "-c", job["entrypoint"]], env=having, capture_output=True, text=True)
    file = f"keystep-{search_id(tmp_path)}.yaml"
    assert done.stdout == f"ran doctor {file}\nran search {file}\n"


def test_programs_that_are_missing_are_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for target, said in (("kuberay", "kubectl is not installed here"), ("slurm", "sbatch is not installed here")):
        done = keystep("launch", spec_in(tmp_path), "--target", target, *GIVEN[target])
        assert done.exit_code == 2 and said in done.output
    nothing = ["--address", "http://127.0.0.1:9", *GIVEN["ray"]]
    done = keystep("launch", spec_in(tmp_path), "--target", "ray", *nothing)
    assert done.exit_code == 2 and "no Ray cluster answers at http://127.0.0.1:9" in done.output


def test_kubectl_gets_what_the_dry_run_shows_and_is_asked_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = json.dumps({"status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}})
    fake = f"""#!/bin/bash
case "$1" in
    apply) cat > "{tmp_path}/applied" ;;
    get) test ! -e "{tmp_path}/applied" || echo '{status}' ;;
    logs) echo "logs of $*" ;;
    delete) echo "deleted $*"; rm "{tmp_path}/applied" ;;
esac
"""
    monkeypatch.setenv("PATH", programs_in(tmp_path / "bin", kubectl=fake))
    arguments = ["launch", spec_in(tmp_path), "--target", "kuberay", *GIVEN["kuberay"]]
    assert keystep(*arguments).exit_code == 0
    assert (tmp_path / "applied").read_text() == planned(tmp_path, "kuberay")
    name = f"keystep-{search_id(tmp_path)}"
    assert "running: Running RUNNING" in keystep("status", "tiny").output
    assert f"logs of logs -n default job/{name} --tail=-1 --follow" in keystep("logs", "tiny", "--follow").output
    again = keystep(*arguments)
    assert again.exit_code == 2 and "is running already, launched to kuberay" in again.output
    assert f"rayjob/{name} configmap/{name}" in keystep("stop", "tiny").output
    assert "gone: namespace default has no RayJob" in keystep("status", "tiny").output
    assert keystep(*arguments).exit_code == 0


def test_a_search_whose_last_place_is_gone_says_how_to_launch_it_again(tmp_path: Path, own_state: Path) -> None:
    """A Ray cluster that was taken down answers no more, and must not keep its searches from going elsewhere."""
    identity, gone = search_id(tmp_path), {"address": "http://127.0.0.1:9", "job": "7"}
    launched = "2026-01-01T00:00:00+00:00"
    Launch(target="ray", search_id=identity, name="tiny", storage="/", handle=gone, launched=launched).save()
    done = keystep("launch", spec_in(tmp_path), "--target", "ray", "--address", "http://127.0.0.1:10", *GIVEN["ray"])
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "no Ray cluster answers at http://127.0.0.1:9" in said
    assert f"remove {own_state / 'keystep' / 'launches' / f'{identity}.json'} and launch it again" in said


def remembered(search_id: str, name: str, launched: str) -> Launch:
    known = Launch(
        target="slurm", search_id=search_id, name=name, storage="/shared", handle={"job": "7"}, launched=launched
    )
    known.save()
    return known


def test_launches_are_found_by_id_by_its_beginning_and_by_name() -> None:
    first = remembered("aaaa11112222", "mine", "2026-01-01T00:00:00+00:00")
    later = remembered("aaab11112222", "mine", "2026-01-02T00:00:00+00:00")
    assert find_launch("aaaa11112222") == find_launch("aaaa1") == first
    assert find_launch("mine") == later
    with pytest.raises(ValueError, match=r"no search called 'aaa' .*aaaa11112222 \(mine, slurm\)"):
        find_launch("aaa")
    remembered("aaaa11113333", "other", "2026-01-03T00:00:00+00:00")
    with pytest.raises(ValueError, match="begins several ids: aaaa11112222, aaaa11113333"):
        find_launch("aaaa1111")


def test_a_damaged_record_says_what_to_do(own_state: Path) -> None:
    remembered("aaaa11112222", "mine", "2026-01-01T00:00:00+00:00")
    (own_state / "keystep" / "launches" / "aaaa11112222.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged.*remove it, and launch the search again"):
        find_launch("mine")
