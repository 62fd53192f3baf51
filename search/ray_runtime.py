"""The Ray runtime that everything of a search runs in: a cluster's, or one of this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

KNOCK_SECONDS = 10.0


def start_ray(address: str | None = None) -> None:
    """A Ray runtime, unless the process has one: the cluster at `address` or RAY_ADDRESS, else one of this machine.

    Without an address Ray would join whatever cluster was started here last, and wait for its workers to be free.

    Raises:
        ValueError: no cluster answers there.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            with _on_loopback():
                ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, TimeoutError) as error:
            raise ValueError(
                f"no Ray cluster answers at {address} ({error}): start one, or correct --address or RAY_ADDRESS"
            ) from error


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
