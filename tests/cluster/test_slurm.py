"""The batch script, also run: `srun`, `scontrol` and two nodes are played by this machine, Ray and the search real."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keystep.cluster.targets import TARGETS
from keystep.search.choice.stored_searches import load_result
from tests.cluster.tiny import ROOT, TRIALS, keystep, programs_in, search_id, spec_in

NODES = ["127.0.0.2", "127.0.0.3"]
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do echo "srun $1" >> "$PLAYED"; shift; done
for node in {nodes}; do NODE_ADDRESS=$node "$@" & done
trap 'kill $(jobs -p)' TERM
worst=0
for job in $(jobs -p); do wait "$job" || worst=$?; done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$PLAYED"
if [[ "$1 $2" == "show hostnames" ]]; then printf '%s\\n' {nodes}; fi
"""
RAY = """#!/bin/bash
exec "{python}" -W ignore "{shim}" "$@"
"""


def script_for(folder: Path, *options: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = keystep("launch", spec_in(folder), "--target", "slurm", "--dry-run", *options)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a batch job on two nodes."""
    nodes = " ".join(NODES)
    path = programs_in(
        tmp_path / "bin",
        srun=SRUN.format(nodes=nodes),
        scontrol=SCONTROL.format(nodes=nodes),
        ray=RAY.format(python=sys.executable, shim=ROOT / "tests" / "cluster" / "ray_on_a_node.py"),
    )
    temporary = tempfile.mkdtemp(prefix="ks", dir="/tmp")  # sockets have short paths
    yield os.environ | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),  # keystep is installed on the nodes
        "PLAYED": str(tmp_path / "played"),
        "RAY_TMPDIR": temporary,
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "1",
        "RAY_worker_niceness": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # after which a node gives up on a head that has gone
    }
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--nodes", 4, "--gpus", 8, "--cpus", 96, "--memory", "512G", "--time", "2-00:00:00", "--partition", "gpu"],
        ["--setup", "source 'my venv'/bin/activate", "--env", "HF_TOKEN", "--account", "team"],
    ],
)
def test_bash_reads_the_script(options: list[object], tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-n"], input=script_for(tmp_path, *options), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_slurm_is_asked_for_what_was_given(tmp_path: Path) -> None:
    options = ["--nodes", 4, "--gpus", 8, "--cpus", 96, "--memory", "512G", "--partition", "gpu", "--account", "team"]
    lines = script_for(tmp_path, *options).splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert lines[1 : 1 + len(asked)] == [f"#SBATCH --{each}" for each in asked], "Slurm reads none after a command"
    assert asked == [
        f"job-name=keystep-{search_id(tmp_path)}",
        "nodes=4",
        "ntasks-per-node=1",
        "cpus-per-task=96",
        "gpus-per-node=8",
        "mem=512G",
        "time=08:00:00",
        "partition=gpu",
        "account=team",
        f"output={tmp_path}/keystep-{search_id(tmp_path)}.out",
        "open-mode=append",
        "requeue",
        "signal=B:USR1@120",
    ]


@pytest.mark.slow
def test_the_script_runs_a_search_over_two_nodes(tmp_path: Path, cluster: dict[str, str]) -> None:
    script = script_for(tmp_path, "--nodes", 2, "--gpus", 0)
    done = subprocess.run(["bash"], input=script, env=cluster, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Running command on head node" in done.stdout and "On worker node. Connecting" in done.stdout
    result = load_result(search_id(tmp_path), str(tmp_path / "runs"))
    assert (result.status, len(result.trials)) == ("finished", TRIALS)
    assert "RAY_AUTH_TOKEN=" not in done.stdout
    assert re.search("srun --nodes=2\nsrun --ntasks=2\n", (tmp_path / "played").read_text())


def test_a_search_that_fails_fails_the_job(tmp_path: Path, cluster: dict[str, str]) -> None:
    programs_in(tmp_path / "bin", srun="#!/bin/bash\nexit 7\n")
    script = script_for(tmp_path)
    done = subprocess.run(["bash"], input=script, env=cluster, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 7


def test_the_job_goes_back_into_the_queue_when_its_time_is_nearly_up(tmp_path: Path, cluster: dict[str, str]) -> None:
    """The signal of --signal=B:USR1: the job asks to be requeued, once, and leaves its step to Slurm."""
    programs_in(tmp_path / "bin", srun='#!/bin/bash\necho started >> "$PLAYED"\nsleep 3\n')
    (tmp_path / "job.sh").write_text(script_for(tmp_path))
    process = subprocess.Popen(["bash", "job.sh"], env=cluster, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    played = tmp_path / "played"
    while "started" not in (played.read_text() if played.exists() else ""):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.count("goes back into the queue")) == (0, 1)
    assert played.read_text().count(f"scontrol requeue {os.getpid()}\n") == 1


def test_sbatch_gets_what_the_dry_run_shows_and_slurm_is_asked_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = programs_in(
        tmp_path / "bin",
        sbatch=f'#!/bin/bash\ncat > "{tmp_path}/submitted"\necho "4711;cluster"\n',
        squeue=f'#!/bin/bash\ntest ! -e "{tmp_path}/cancelled" && echo PENDING\n'
        'if test $? -ne 0; then echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi\n',
        scancel=f'#!/bin/bash\necho "$*" > "{tmp_path}/cancelled"\n',
    )
    monkeypatch.setenv("PATH", programs)
    monkeypatch.chdir(tmp_path)
    arguments = ["launch", spec_in(tmp_path), "--target", "slurm"]
    assert "job 4711" in keystep(*arguments).output
    assert (tmp_path / "submitted").read_text() == script_for(tmp_path)
    assert "waiting: Slurm job 4711 PENDING" in keystep("status", "tiny").output
    assert "is waiting already, launched to slurm" in keystep(*arguments).output
    assert "yet: Slurm job 4711 PENDING" in " ".join(keystep("logs", "tiny").output.split())
    assert "cancelled Slurm job 4711" in keystep("stop", "tiny").output
    assert (tmp_path / "cancelled").read_text() == "4711\n"
    assert "gone: Slurm lists no job 4711 any more" in keystep("status", "tiny").output
    (tmp_path / f"keystep-{search_id(tmp_path)}.out").write_text("one\ntwo\n")
    assert keystep("logs", "tiny", "--follow").output == "one\ntwo\n"


def test_a_log_is_followed_until_the_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the job writes a line more; at the third one it has ended."""
    log = tmp_path / "keystep.out"
    log.write_text("begun\n")
    squeue = f"""#!/bin/bash
echo more >> "{log}"
if test "$(wc -l < "{log}")" -lt 4; then echo RUNNING; else echo COMPLETED; fi
"""
    monkeypatch.setenv("PATH", programs_in(tmp_path / "bin", squeue=squeue))
    monkeypatch.setattr("keystep.cluster.targets.slurm.PAUSE", 0.01)
    pieces = TARGETS["slurm"].logs({"job": "7", "log": str(log)}, follow=True)
    assert list(pieces) == ["begun\nmore\n", "more\n", "more\n"]


def test_a_setup_may_read_variables_that_are_not_set(tmp_path: Path, cluster: dict[str, str]) -> None:
    programs_in(tmp_path / "bin", srun="#!/bin/bash\nexit 7\n")
    script = script_for(tmp_path, "--setup", 'echo "prompt was $NOT_SET_BY_ANYBODY."')
    done = subprocess.run(["bash"], input=script, env=cluster, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "prompt was .\n")
