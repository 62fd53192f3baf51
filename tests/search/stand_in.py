"""An evaluator of milliseconds whose outcomes are known beforehand.

An outcome is 1 where a hash of (setting, instance) falls below the setting's quality: the best setting is known, every
run of anything sees the same, and a folder of files shows what was computed, by whom, and how often.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from keystep.core.config import Refinement
from keystep.search.images.outcomes import Outcome
from keystep.search.spec.instances import Instance
from keystep.search.spec.search_spec import SearchSpec

BEST_STEP = 3
PLAY = "play.json"


def quality(refinement: dict[str, Any] | None) -> float:
    """Chance that a setting's outcome is 1: best at step BEST_STEP with guidance."""
    if refinement is None:
        return 0.35
    away = abs(refinement["iterref"]["step_index"] - BEST_STEP)
    return 0.85 - 0.15 * away + (0.08 if refinement["gsng"] else 0.0)


def setting_key(refinement: dict[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(refinement, sort_keys=True).encode()).hexdigest()[:12]


def outcome(refinement: dict[str, Any] | None, number: int) -> float:
    drawn = int.from_bytes(hashlib.sha256(f"{setting_key(refinement)}/{number}".encode()).digest()[:4]) / 2**32
    return float(drawn < quality(refinement))


def store_of(spec: SearchSpec) -> Path:
    """Folder of what is known, of the log, and of PLAY, which says how to behave."""
    return Path(spec.storage.path) / "stand_in"


class StandIn:
    """The evaluator. The play that it reads from its store has:

    blocks: instance numbers of each block.
    slots: setting's key to its slot.
    seconds: what a batch takes.
    slow: [slot, seconds], of a slot whose batches take longer.
    slow_worker: seconds that a batch takes the worker that came first.
    late: seconds that every worker but the first takes to start.
    together: how many workers begin at once, when all are there.
    gate: batches begin once a file of this name is in the store.
    fail: slots that raise.
    die: [slot, block] where the worker process is killed, once.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self.computed: frozenset[int] = frozenset()
        self._store = store_of(spec)
        self._play = json.loads((self._store / PLAY).read_text())
        self._is_first = False
        try:
            (self._store / "first").touch(exist_ok=False)
            self._is_first = True
        except FileExistsError:
            time.sleep(self._play.get("late", 0.0))
        (self._store / f"{os.getpid()}-there").touch()
        while len(list(self._store.glob("*-there"))) < self._play.get("together", 0):
            time.sleep(0.05)

    def evaluate(self, refinement: Refinement | None, instances: Sequence[Instance]) -> dict[int, Outcome]:
        """One outcome an instance; what is known costs nothing."""
        plain = None if refinement is None else refinement.model_dump(mode="json")
        key, numbers = setting_key(plain), [instance.number for instance in instances]
        slot = self._play["slots"].get(key, -1)
        if slot in self._play.get("fail", ()):
            raise ZeroDivisionError(f"slot {slot} cannot be done")
        block = next(place for place, each in enumerate(self._play["blocks"]) if numbers[0] in each)
        known = self._store / f"{key}-{numbers[0]}"
        self.computed = frozenset() if known.exists() else frozenset(numbers)
        while not (self._store / self._play.get("gate", ".")).exists():
            time.sleep(0.02)
        if self.computed:
            self._log("begin", slot, block)
            time.sleep(self._seconds(slot))
            self._die_if_told(slot, block)
            known.write_text("known")
            self._log("done", slot, block)
        seconds = 0.5 / len(numbers)
        return {number: Outcome(outcome(plain, number), (True,), (True,), 10.0, 25.0, seconds) for number in numbers}

    def _seconds(self, slot: int) -> float:
        slow, seconds = self._play.get("slow", (None, 0.0))
        if self._is_first and "slow_worker" in self._play:
            return self._play["slow_worker"]
        return seconds if slot == slow else self._play.get("seconds", 0.0)

    def _log(self, what: str, slot: int, block: int) -> None:
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "none"
        with open(self._store / "log", "a") as file:
            file.write(f"{what} {slot} {block} {os.getpid()} {node} {time.time()}\n")

    def _die_if_told(self, slot: int, block: int) -> None:
        if [slot, block] == self._play.get("die") and not (self._store / "died").exists():
            (self._store / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
