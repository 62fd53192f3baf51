"""`python -m keystep.cluster.scale_up`: ask a Ray cluster that scales to zero for machines, run a command, let them go.

A search counts the workers that fit before it starts any, and on such a cluster there is room for none.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import ray
from ray.autoscaler.sdk import request_resources

MAX_WAIT = 900.0  # seconds for all machines; then those that came do
PAUSE = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m keystep.cluster.scale_up", description=(__doc__ or "").partition(":")[2]
    )
    parser.add_argument("--nodes", type=int, required=True, help="machines wanted")
    parser.add_argument("--cpus", type=int, required=True, help="that each offers")
    parser.add_argument("--gpus", type=int, default=0, help="that each offers")
    parser.add_argument("--max-wait", type=float, default=MAX_WAIT, help="seconds to wait for all of them")
    parser.add_argument("command", nargs="+", help="behind --")
    given = parser.parse_args(arguments)
    each = {"CPU": given.cpus} | ({"GPU": given.gpus} if given.gpus else {})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machines are let go then, too
    ray.init(os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    try:
        there = scaled_up(given.nodes, each, given.max_wait)
        print(f"{there} of {given.nodes} machines are there.", flush=True)
        return subprocess.run(given.command).returncode
    finally:
        request_resources(bundles=[])
        ray.shutdown()


def scaled_up(nodes: int, each: Mapping[str, float], max_wait: float = MAX_WAIT) -> int:
    """Ask for machines, and for others in their place when they die, until somebody asks for something else.

    Args:
        nodes: how many.
        each: what each offers.
        max_wait: seconds to wait for all of them. If not one is there then, waits on: spot machines come when they do.

    Returns:
        How many are there.
    """
    request_resources(bundles=[dict(each)] * nodes)
    began = time.monotonic()
    while True:
        there = sum(1 for node in ray.nodes() if node["Alive"] and _offers(node["Resources"], each))
        if there >= nodes or (there and time.monotonic() - began >= max_wait):
            return there
        time.sleep(min(PAUSE, max_wait))


def _offers(resources: Mapping[str, float], each: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, amount in each.items())


if __name__ == "__main__":
    sys.exit(main())
