"""This machine: the search runs in this process, on a Ray that starts and ends with it."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from keystep.cluster.sending.portable import refuse_secrets, spec_text
from keystep.cluster.targets.base import Handle, Options, State, Submission, Target
from keystep.search.settings.journal import DRIVER_LOCK
from keystep.search.spec.loading import parse_spec
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.places import folder_on_disk

PATIENCE = 60.0  # seconds that a search gets to stop


class LocalOptions(Options):
    """None of its own: what there is on this machine is used."""


class Local(Target):
    """The text is the spec itself. Ray binds to 127.0.0.1 and, from 2.59 on, asks for a token that it made."""

    options = LocalOptions
    keeps_going = False

    def plan(self, spec: SearchSpec, options: LocalOptions) -> Submission:
        refuse_secrets(spec)
        anchored = spec.anchored()
        here = {"host": socket.gethostname(), "process": str(os.getpid())}
        handle = here | {"storage": anchored.storage.path, "search_id": spec.search_id}
        through = "this process" if options.skip_doctor else "this process, after keystep doctor"
        return Submission(spec_text(anchored), through, handle | {"doctor": "" if options.skip_doctor else "first"})

    def submit(self, submission: Submission) -> Handle:
        from keystep.search.commands.output import table_console
        from keystep.search.reporting.report import report
        from keystep.search.reporting.report_formats import show
        from keystep.search.stages.runner import run_search

        spec = parse_spec(submission.text, "the spec as resolved")

        # RAY_ADDRESS would send the search to a cluster.
        elsewhere = os.environ.pop("RAY_ADDRESS", None)
        try:
            if submission.handle["doctor"]:
                _examine(spec)
            result = run_search(spec)
        finally:
            if elsewhere is not None:
                os.environ["RAY_ADDRESS"] = elsewhere
        show(report(result, figures=False), table_console())
        return submission.handle

    def state(self, handle: Handle) -> State:
        process = self._process(handle)
        return State("ended", "no process runs it") if process is None else State("running", f"process {process}")

    def logs(self, handle: Handle, follow: bool) -> Iterator[str]:
        raise ValueError(
            "a local search tells its progress on the terminal that it was launched from, and keeps no log"
        )

    def stop(self, handle: Handle) -> str:
        process = self._process(handle)
        if process is None:
            return "no process runs it"
        os.kill(process, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        while self._process(handle) == process:
            if time.monotonic() > deadline:
                raise ValueError(f"process {process} was asked to stop, and is still there after {PATIENCE:g} s")
            time.sleep(0.2)
        return f"stopped process {process}"

    def _process(self, handle: Handle) -> int | None:
        """The process that drives the search, by the lock that it holds; an object store has none: by its number."""
        if handle["host"] != socket.gethostname():
            raise ValueError(f"it was launched on {handle['host']}: ask there")
        folder = folder_on_disk(handle["storage"], handle["search_id"])
        if folder is None:
            return alive(int(handle["process"]))
        return holder(folder / DRIVER_LOCK)


def _examine(spec: SearchSpec) -> None:
    """The preflight; says what is not as it must be.

    Raises:
        ValueError: something is not.
    """
    from keystep.cluster.checks.preflight import doctor

    failed = [check for check in doctor(spec) if not check.ok]
    if failed:
        told = "".join(f"\n  {check.name}: {check.found}. {check.advice}" for check in failed)
        raise ValueError(f"the preflight failed (--skip-doctor leaves it out):{told}")


def alive(process: int) -> int | None:
    """The process, if there is one of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    return process


def holder(lock: Path) -> int | None:
    """The process that holds a lock of `keystep.search.settings.journal`; None if there is none."""
    try:
        with open(lock, encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                number = file.read().strip()
                if not number.isdecimal():
                    raise ValueError(
                        f"{lock} is held by a process whose number it does not tell ({number[:20]!r}): find it with "
                        f"fuser {lock}"
                    ) from None
                return int(number)
    except FileNotFoundError:
        pass
    return None
