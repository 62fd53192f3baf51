"""A Ray cluster started with `ray start`: a search submitted to it, followed, stopped, gone on with; with a token."""

import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray._private.authentication_test_utils import reset_auth_token_state

from tests.cluster.tiny import ROOT, TRIALS, keystep, programs_in, search_id, spec_in

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef0123456789abcdef"
PATIENCE = 240.0


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard of a cluster of one node that binds to 127.0.0.1 alone."""
    gcs, dashboard, agent, client, metrics = free_ports(5)
    temporary = tempfile.mkdtemp(prefix="ks", dir="/tmp")  # sockets have short paths
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(ROOT))  # keystep is installed on the nodes
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all of it binds to 127.0.0.1, as on a laptop
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PATH", programs_in(tmp_path_factory.mktemp("bin")))
        command = f"""{sys.executable} -W ignore -c 'from ray.scripts.scripts import main; main()' start --head --block
            --node-ip-address=127.0.0.1 --port={gcs} --num-cpus=2 --include-dashboard=true --temp-dir={temporary}
            --dashboard-host=127.0.0.1 --dashboard-port={dashboard} --dashboard-agent-listen-port={agent}
            --ray-client-server-port={client} --metrics-export-port={metrics} --disable-usage-stats"""
        log = Path(temporary) / "start.log"
        with log.open("w") as output:
            process = subprocess.Popen(shlex.split(command), stdout=output, stderr=output, start_new_session=True)
        try:
            _until(lambda: _answers(dashboard), process, log)
            reset_auth_token_state()  # Ray reads once how to show that it may
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            if process.poll() is None:
                head = psutil.Process(process.pid)
                family = [head, *head.children(recursive=True)]
                for send in (psutil.Process.terminate, psutil.Process.kill):
                    for member in family:
                        with suppress(psutil.NoSuchProcess):
                            send(member)
                    _, family = psutil.wait_procs(family, timeout=20)
            shutil.rmtree(temporary, ignore_errors=True)
    reset_auth_token_state()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _until(happened: Callable[[], bool], process: subprocess.Popen | None = None, log: Path | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process is None or process.poll() is None, log and log.read_text()
        assert time.monotonic() < deadline, log and log.read_text()
        time.sleep(0.5)


def test_a_search_is_submitted_stopped_gone_on_with_and_followed_to_its_end(address: str, tmp_path: Path) -> None:
    identity = search_id(tmp_path)
    launch = ["launch", spec_in(tmp_path), "--target", "ray", "--address", address, "--skip-doctor"]
    done = keystep(*launch)
    assert done.exit_code == 0, done.output
    assert f"job {identity}" in done.output and f"keystep logs {identity} --follow" in done.output
    again = keystep(*launch)
    assert again.exit_code == 2 and "already, launched to ray" in again.output

    _until(lambda: "running: " in keystep("status", identity).output)
    stopped = keystep("stop", "tiny")
    assert stopped.exit_code == 0 and f"job {identity} STOPPED" in stopped.output
    assert "ended: " in keystep("status", "tiny").output

    assert f"job {identity}-2" in keystep(*launch).output
    logs = keystep("logs", "tiny", "--follow")
    assert logs.exit_code == 0 and "held-out" in logs.output
    status = keystep("status", "tiny").output
    assert f"ended: job {identity}-2 SUCCEEDED" in status
    assert f"Search finished: {TRIALS} of at most {TRIALS} trials ended" in status
    assert TOKEN not in done.output + logs.output + status


def test_a_folder_goes_along_and_secrets_come_from_the_cluster(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = tmp_path / "sent"
    (sent / "sets").mkdir(parents=True)
    (sent / "sets" / "mine.csv").write_text("prompt,entities\na photo of a red circle,red circle\n")
    monkeypatch.chdir(sent)
    monkeypatch.setenv("NOT_ON_THE_CLUSTER", "its value")
    launch = ["launch", spec_in(tmp_path), "--target", "ray", "--address", address, "--working-dir", "."]
    done = keystep(*launch, "--env", "NOT_ON_THE_CLUSTER", "--set", "search.seed=5")
    assert done.exit_code == 0, done.output
    logs = keystep("logs", "tiny", "--follow").output
    assert "NOT_ON_THE_CLUSTER: is not set on the cluster" in logs
    assert "its value" not in logs
    assert "FAILED" in keystep("status", "tiny").output


def test_a_wrong_token_is_told_plainly(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "f" * 32)
        reset_auth_token_state()
        done = keystep("launch", spec_in(tmp_path), "--target", "ray", "--address", address)
    reset_auth_token_state()
    assert done.exit_code == 2
    assert f"the cluster at {address} wants a token" in " ".join(done.output.split())
