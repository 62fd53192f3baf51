"""The target `local`: a whole search on a Ray of its own that nobody else can reach; stopped from another terminal."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keystep.cluster.targets.local import Local
from keystep.search.choice.stored_searches import load_result
from tests.cluster.tiny import ROOT, TRIALS, keystep, search_id, spec_in

LISTENING = """
import json, os, psutil, ray
from keystep.search.runtime.ray_runtime import start_ray
start_ray()
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
sockets = [each for process in processes for each in process.net_connections("inet") if each.status == "LISTEN"]
print(json.dumps([sorted({each.laddr.ip for each in sockets}), os.environ.get("RAY_AUTH_MODE")]))
ray.shutdown()
"""


def started(*arguments: object) -> subprocess.Popen[str]:
    own = "import sys; from keystep.cluster.cli import main; main()"
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a script's background job
    command = [*background, sys.executable, "-W", "ignore", "-c", own, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_ray_started_here_listens_on_loopback_alone_and_asks_for_a_token() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-W", "ignore", "-c", LISTENING]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    addresses, mode = json.loads(done.stdout.splitlines()[-1])
    assert set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"} and addresses
    assert mode == "token"


@pytest.mark.slow
def test_a_local_search_is_stopped_from_elsewhere_and_launched_again_goes_on(tmp_path: Path) -> None:
    first = started("launch", spec_in(tmp_path), "--target", "local", "--skip-doctor")
    while "running: process" not in keystep("status", "tiny").output:
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    again = keystep("launch", spec_in(tmp_path), "--target", "local")
    assert again.exit_code == 2 and "is running already, launched to local" in again.output
    assert f"stopped process {first.pid}" in keystep("stop", "tiny").output
    first.communicate()
    assert first.returncode != 0
    assert "ended: no process runs it" in keystep("status", "tiny").output
    assert "keeps no log" in keystep("logs", "tiny").output

    second = started("launch", spec_in(tmp_path), "--target", "local")
    out, _ = second.communicate()
    assert second.returncode == 0, out
    result = load_result(search_id(tmp_path), str(tmp_path / "runs"))
    assert (result.status, len(result.trials)) == ("finished", TRIALS)
    assert f"Search finished: {TRIALS} of at most {TRIALS} trials ended" in keystep("status", "tiny").output


def test_in_an_object_store_a_search_is_known_by_its_process() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    handle = {"host": socket.gethostname(), "storage": "s3://bucket/runs", "search_id": "0" * 12}
    assert Local().state(handle | {"process": str(ended.pid)}).phase == "ended"
    assert Local().state(handle | {"process": str(os.getpid())}).phase == "running"
