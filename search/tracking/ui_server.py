"""Finds the store that searches are tracked in, and serves MLflow's user interface over it."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from keystep.search.storing.secrets import MASK, masked
from keystep.search.tracking.runs_view import runs_page
from keystep.search.tracking.spool import FILE_NAME, first_event
from keystep.search.tracking.sqlite_store import make_ready
from keystep.search.tracking.tracking_uri import health_page, named_uri, sqlite_file

HOST = "127.0.0.1"
START_SECONDS = 300.0  # the first start makes the tables; on a busy machine that takes minutes


@dataclass(frozen=True)
class Server:
    """A server that answers: its address, the store it shows (free of secrets), its process if it is ours."""

    address: str
    shown: str
    process: subprocess.Popen | None

    def wait(self) -> None:
        """Until the server ends, or Ctrl-C. A server that was there before is not waited for."""
        if self.process is not None:
            try:
                self.process.wait()
            except KeyboardInterrupt:
                return


def find_store(storage: Path | None = None, uri: str | None = None) -> str:
    """The address of the store: `uri`, or where the newest search of `storage` is tracked, or the usual one.

    Raises:
        ValueError: both are given, there is no search, or the store does not exist.
    """
    if storage is not None and uri is not None:
        raise ValueError("give --storage or --uri, not both: each names a store")
    if storage is not None:
        uri = _tracked_in(storage)
    found = named_uri(uri)
    file = sqlite_file(found)
    if file is not None and not file.exists():
        raise ValueError(
            f"{file} does not exist, so there is nothing to show: run `keystep search` here first, "
            "or say where the store is with --uri or --storage"
        )
    if "://" not in found:
        raise ValueError(
            f"{found!r} is no address of a store: give sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME, "
            "or the http address of a running MLflow server"
        )
    return found


@contextmanager
def serving(store: str, port: int) -> Iterator[Server]:
    """A server that shows the store; stopped in the end, unless it was there before (an http store).

    SIGTERM and SIGHUP (a terminal that is closed) are an end as Ctrl-C is: SystemExit, with the server stopped.

    Raises:
        OSError: the database of the store is damaged.
        ValueError: the port is taken, the server at an http address does not answer, or ours does not start.
    """
    if store.startswith(("http://", "https://")):
        if not _answers(store):
            raise ValueError(f"no MLflow server answers at {masked(store)}: start it, or give another --uri")
        yield Server(store, masked(store), None)
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): give another one, such as --port {port + 1}"
            ) from None
    make_ready(store)
    # The address of the store may hold a password: it goes through the environment, which others cannot read.
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # workers for jobs that searches have none of: starts faster
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    file = sqlite_file(store)
    with tempfile.TemporaryFile() as output, ending_on(signal.SIGTERM, signal.SIGHUP) as arm:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=None if file is None else file.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            arm()
            address = f"http://{HOST}:{port}"
            deadline = time.monotonic() + START_SECONDS
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    said = masked(output.read().decode(errors="replace")).strip()[-1500:]
                    raise ValueError(f"MLflow's server did not start for {masked(store)}; it said:\n{said}")
                time.sleep(0.2)
            yield Server(address, masked(store), process)
        finally:
            _stop(process)


def open_browser(address: str) -> None:
    """Show the newest experiment of a server in the browser, where there is one."""
    webbrowser.open(newest_experiment(address))


def newest_experiment(address: str) -> str:
    """The page of the experiment that changed last; the server's own page if there is none."""
    body = json.dumps({"max_results": 1, "order_by": ["last_update_time DESC"], "view_type": "ACTIVE_ONLY"}).encode()
    request = urllib.request.Request(
        f"{address.rstrip('/')}/api/2.0/mlflow/experiments/search", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer).get("experiments", [])
    except (OSError, ValueError):
        return address
    if not found:
        return address
    tags = {tag["key"]: tag["value"] for tag in found[0].get("tags", [])}
    return runs_page(address, found[0]["experiment_id"], tags)


def _tracked_in(storage: Path) -> str:
    """The store of the newest search that a storage folder holds."""
    journals = sorted(storage.glob(f"searches/*/tracking/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    opened = [event for event in (first_event(path.parent) for path in journals) if event is not None]
    if not opened:
        raise ValueError(
            f"{storage} holds no tracked search: give the folder that the search's storage.path names, "
            "or the store with --uri"
        )
    uri = str(opened[-1].data.get("uri", ""))
    if MASK in uri:
        raise ValueError(f"the newest search in {storage} is tracked in {uri}, whose password is not kept: give --uri")
    return uri


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(health_page(address), timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404)  # something answers, which wants a password or knows no /health
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)  # it answers; the browser may trust it
    except (OSError, HTTPException):
        return False


@contextmanager
def ending_on(*numbers: signal.Signals) -> Iterator[Callable[[], None]]:
    """While open, the first of these signals raises SystemExit (128 and its number), and later ones do nothing.

    It does so once what was yielded is called: what must not be left half done goes before. Signals that are ignored
    already stay so; outside the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    armed, came = False, 0

    def end(number: int, frame: object) -> None:
        nonlocal came
        came = came or number
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        if armed:
            raise SystemExit(128 + number)

    def arm() -> None:
        nonlocal armed
        armed = True
        if came:
            raise SystemExit(128 + came)

    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield arm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen) -> None:
    """End the server with its workers."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
    finally:
        with suppress(ProcessLookupError):  # a worker may outlive the server, and keep the port
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
