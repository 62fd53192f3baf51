"""The Ray runtime that everything of a search runs in: a cluster's, or one of this machine."""

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from keystep.search.runtime.alarm import Alarm
from keystep.search.runtime.failures import in_a_line
from keystep.search.runtime.ray_privacy import keep_session_private, keep_token_private
from keystep.search.runtime.ray_processes import RayProcesses, children
from keystep.search.runtime.ray_sessions import own_session
from keystep.search.runtime.ray_trouble import what_is_wrong, what_stops_it

KNOCK_SECONDS = 10.0
JOIN_SECONDS = 60.0
START_SECONDS = 150.0  # a crowded machine takes a minute
LOOK_SECONDS = 0.5
_ADDRESS = re.compile(r"(ray://)?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")

_started_here: RayProcesses | None = None
_started_as = ""  # its node's id


def start_ray(address: str | None = None) -> None:
    """A Ray runtime, unless the process has one: the cluster at `address` or RAY_ADDRESS, else one of this machine.

    Without an address Ray would join whatever cluster was started here last, and wait for its workers to be free.

    Raises:
        ValueError: no cluster answers there, or none can be started here; says why, as far as can be told.
    """
    global _started_here, _started_as
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _started_here = None
    if address == "local":
        _started_here = _start()
        _started_as = ray.get_runtime_context().get_node_id()
    else:
        _join(address)
    _hush()


def started_here() -> RayProcesses | None:
    """The processes of the runtime, if `start_ray` has started it on this machine and it is in use."""
    if not ray.is_initialized() or ray.get_runtime_context().get_node_id() != _started_as:
        return None  # it has ended, and the process may have joined or started another one
    return _started_here


def _start() -> RayProcesses:
    if (problem := what_stops_it()) is not None:
        raise ValueError(f"Ray cannot start on this machine: {problem}. Then run the same command again")
    keep_token_private()
    before = children()
    made = RayProcesses(())

    def look() -> str | None:
        made.add(children() - before)
        died = made.look()
        return None if died is None else f"its {died} ended as it started"

    def refusal(reason: str) -> ValueError:
        return ValueError(
            f"Ray does not start on this machine ({reason}): {what_is_wrong()}. Then run the same command again"
        )

    try:
        with _on_loopback():
            session = _init("local", START_SECONDS, look, refusal, include_dashboard=False)
        keep_session_private()
        own_session(session)
    except BaseException:
        made.add(children() - before)
        made.end()
        raise
    made.add(children() - before)
    return made


def _join(address: str) -> None:
    def refusal(reason: str) -> ValueError:
        return ValueError(
            f"no Ray cluster answers at {address} ({reason}): start one, or correct --address or RAY_ADDRESS"
        )

    if address.startswith(("http://", "https://")):
        raise refusal("that is the form of its dashboard's address; a cluster's is HOST:6379 or ray://HOST:10001")
    if address != "auto" and ("://" not in address or address.startswith("ray://")):
        form = _ADDRESS.fullmatch(address)
        if form is None or not 0 < int(form["port"]) < 2**16:
            raise refusal("a cluster's address is HOST:6379 or ray://HOST:10001")
        try:
            _knock(address)
        except ConnectionError as error:
            raise refusal(str(error)) from error
    _init(address, JOIN_SECONDS, lambda: None, refusal)


def _init(
    address: str,
    seconds: float,
    look: Callable[[], str | None],
    refusal: Callable[[str], ValueError],
    **options: Any,
) -> str:
    """`ray.init`, ended by what `look` says or after `seconds`: Ray itself tries for a quarter of an hour.

    Returns:
        The folder of Ray's session; empty where it is on another machine.
    """
    over = threading.Event()
    with Alarm(grace=KNOCK_SECONDS) as alarm:
        watch = threading.Thread(target=_watch, args=(over, seconds, look, lambda why: alarm.ring(refusal(why))))
        watch.daemon = True
        watch.start()
        try:
            started: Any = ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises the bare class for many of its troubles
            raise refusal(in_a_line(error)) from error
        finally:
            over.set()
    return "" if address.startswith("ray://") else started.address_info["session_dir"]


def _hush() -> None:
    """Let Ray print nothing of its own beside what a search says: the last lines of a raylet's log, where it died.

    Errors of workers come as exceptions. Ray 2.60 has no public setting for it; elsewhere all stays as Ray has it.
    """
    if getattr(ray_worker, "_worker_logs_enabled", None) is True:
        ray_worker._worker_logs_enabled = False


def _watch(over: threading.Event, seconds: float, look: Callable[[], str | None], ring: Callable[[str], None]) -> None:
    waited = 0.0
    while not over.wait(LOOK_SECONDS):
        waited += LOOK_SECONDS
        if (problem := look()) is not None:
            ring(problem)
            return
        if waited >= seconds:
            ring(f"nothing has come of it in {waited:.0f} s")
            return


def _knock(address: str) -> None:
    """Ray itself tries for minutes. ConnectionError if nothing listens at `host:port`, or there is no way to it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
        except OSError as error:  # an unknown host and an unreachable one have errors of their own
            raise ConnectionError(str(error)) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts meanwhile listens on 127.0.0.1 alone, as it does of itself on macOS and Windows."""
    switch = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, cluster = os.environ.get(switch), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[switch], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # for its processes, for this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before
