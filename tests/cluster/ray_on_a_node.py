"""The `ray` command as it is on one node of several, on a machine that plays them all. Run as a script, it is `ray`.

Only what tells machines apart is changed: a node sees its own address (NODE_ADDRESS, of 127.0.0.0/8) and its own
processes, those that inherited its NODE_ADDRESS.
"""

import functools
import os
import signal
import socket
import sys
from types import SimpleNamespace

import psutil
import ray._private.services
from ray.scripts.scripts import main

ADDRESS = os.environ["NODE_ADDRESS"]


def processes_of_node() -> list[psutil.Process]:
    """Processes of this node, without this one and those it came from."""
    found, own = [], {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("NODE_ADDRESS") == ADDRESS
        except psutil.Error:
            continue
        if mine and process.pid not in own and "symmetric-run" not in process.cmdline():
            found.append(process)
    return found


def stop() -> None:
    """`ray stop` would end the Ray of every node, and of everybody else on this machine."""
    stopped = [process for process in processes_of_node() if "ray" in " ".join(process.cmdline())]
    for process in stopped:
        process.send_signal(signal.SIGTERM)
    for process in psutil.wait_procs(stopped, timeout=5)[1]:
        process.kill()


if __name__ == "__main__":
    if sys.argv[1:] == ["stop"]:
        stop()
        raise SystemExit
    interface = SimpleNamespace(family=socket.AF_INET, address=ADDRESS)
    psutil.net_if_addrs = lambda: {"eth0": [interface]}
    ray._private.services.find_gcs_addresses = functools.cache(set)  # Ray clears its cache
    if sys.argv[1] == "start" and not any(argument.startswith("--node-ip-address") for argument in sys.argv):
        sys.argv.insert(2, f"--node-ip-address={ADDRESS}")
    main()
