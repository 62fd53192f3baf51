"""`keystep ui` as a user runs it, with MLflow's real server."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from keystep.search.cli import build_app
from keystep.search.tracking.spool import Spool, event
from keystep.search.tracking.ui_server import find_store, newest_experiment
from tests.search.mlflow_server import free_port


def run(*arguments):
    return CliRunner().invoke(build_app(), ["ui", *map(str, arguments)], env={"COLUMNS": "200"})


def test_a_missing_store_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = run("--no-browser")
    assert result.exit_code == 2
    assert f"{tmp_path / 'mlflow.db'} does not exist" in result.stderr and "keystep search" in result.stderr
    assert not (tmp_path / "mlflow.db").exists()


def test_a_taken_port_is_explained(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("--uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--port", port, "--no-browser")
    assert result.exit_code == 2
    assert f"port {port}" in result.stderr and f"--port {port + 1}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--uri", "http://me:hunter2@127.0.0.1:9"], "no MLflow server answers at http://***@127.0.0.1:9"),
        (["--uri", "mlflow.db"], "'mlflow.db' is no address of a store"),
        (["--storage", "nowhere"], "nowhere holds no tracked search"),
        (["--storage", "here", "--uri", "sqlite:///x.db"], "not both"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    result = run(*arguments, "--no-browser")
    assert result.exit_code == 2 and message in result.stderr
    assert "hunter2" not in result.stderr


def test_the_newest_search_of_a_storage_says_where_it_is_tracked(tmp_path):
    (tmp_path / "mlflow.db").touch()
    for age, (name, uri) in enumerate([("new", f"sqlite:///{tmp_path}/mlflow.db"), ("old", "sqlite:////gone.db")]):
        spool = Spool(tmp_path / "searches" / name / "tracking", "store")
        spool.append(event("opened", "opened", {"uri": uri}))
        os.utime(spool.path, (1000 - age, 1000 - age))
    assert find_store(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"

    Spool(tmp_path / "searches" / "newest" / "tracking", "store").append(
        event("opened", "opened", {"uri": "postgresql://me:hunter2@host/db"})
    )
    with pytest.raises(ValueError, match="password is not kept: give --uri"):
        find_store(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_the_store_until_it_is_ended(tmp_path, number):
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    experiment = MlflowClient(tracking_uri=store).create_experiment("shapes-sd on shapes_two")
    port = free_port()
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a script's background job
    command = [
        sys.executable,
        "-c",
        "from keystep.search.cli import main; main()",
        "ui",
        "--no-browser",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*background, *command, "--uri", store],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        assert address == f"http://127.0.0.1:{port}" and store in line
        assert b"<html" in urllib.request.urlopen(address, timeout=20).read().lower()
        assert newest_experiment(address) == f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGINT else 128 + number)
    finally:
        process.kill()
        process.wait()
    with socket.socket() as free:  # at once: nothing listens, and the next one may
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


def test_one_that_is_ended_while_it_starts_leaves_no_server(tmp_path):
    store, port = f"sqlite:///{tmp_path / 'mlflow.db'}", free_port()
    MlflowClient(tracking_uri=store).create_experiment("shapes-sd on shapes_two")
    command = [
        sys.executable,
        "-c",
        "from keystep.search.cli import main; main()",
        "ui",
        "--no-browser",
        "--port",
        str(port),
    ]
    process = subprocess.Popen([*command, "--uri", store])
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 120
        while not (found := children.read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert found and not any(Path(f"/proc/{child}").exists() for child in found)
